"""What only the run itself will show, and has to be assumed before."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True, frozen=True)
class Assumptions:
    """Of the student's trajectories and the teacher's part in them."""

    steps: float = 10
    """K, steps of a trajectory."""
    acceptance: float = 0.5
    """Share of the student's trajectories that are not replaced."""
    prompt_tokens: int = 150
    """Of a problem, on average."""
    longest_prompt: int = 1024
    """Longest prompt (A.6.2); with rollout.max_tokens, within the model's positions, the length of a full row."""
    response_tokens: int | None = None
    """Of a student's trajectory, on average; None: a third of rollout.max_tokens."""
    demonstration_tokens: int | None = None
    """That the teacher writes for a demonstration, thoughts included; None: a student's trajectory, or half of
    demonstration_tokens where thoughts are stripped."""
    tflops: float = 150
    """That one GPU reaches in training, in 10^12 operations a second: 48 % of an A100's peak in bfloat16, 15 % of an
    H100's."""
    bandwidth: float = 1000
    """That one GPU reads weights, keys and values with while it generates, in GB/s: half of an A100's peak."""
    input_price: float | None = None
    output_price: float | None = None
    """Of a million tokens that the teacher reads or writes."""
