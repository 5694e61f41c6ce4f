"""What keeps a run from sampling on a vLLM server, found before the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovd_lightning.engines.vllm_client import VLLMServer
from ovd_lightning.errors import ConfigError

PROBE = "Let x = 12.5; then f(x) = \\frac{1}{x}.\n  naïve 数学 ∑"
"""A text that vocabularies cut differently."""
SHARED = "Name a folder on a file system that the trainer and the servers mount at the same path."


def server_misfits(
    server: VLLMServer,
    found: dict[str, Any] | str,
    *,
    model: str,
    config: Any,
    tokenizer: Any,
    max_model_len: int | None,
    context: int | None,
    weight_transfer: str,
    folder: Path,
) -> Iterator[ConfigError]:
    """Of mistakes that follow from one another, the first. What is fixed on the server's side comes with the command.

    Args:
        found: what the server says about itself, or what keeps it from that.
        config: the student's, of its text part.
        max_model_len: as it is set.
        context: as it is set, else the model's.
        folder: for the weights.
    """
    start = f"Start it with: ovd-lightning serve {model} --port {server.port}"
    start += f" --max-model-len {max_model_len}" * (max_model_len is not None)
    start += ' --weight-transfer-config \'{"backend": "nccl"}\'' * (weight_transfer == "nccl")
    if isinstance(found, str):
        yield ConfigError("base_urls", f"{server.root} {found}.", start)
        return
    own = {name: getattr(config, name, None) for name in found["config"]}
    if found["config"] != own:
        yield ConfigError("base_urls", f"{server.root} serves {found['model']} ({found['config']}), not {own}.", start)
        return
    wanted = {
        "logprobs_mode": "processed_logprobs",
        "weight_transfer": weight_transfer,
        "chunked_prefill_on_cpu": False,
    }
    for name, value in wanted.items():
        if found[name] != value:
            yield ConfigError("base_urls", f"{server.root} was started with {name} {found[name]}.", start)
    if weight_transfer == "filesystem" and not found["sees_folder"]:
        yield ConfigError("weights_folder", f"{server.root} does not see {folder}.", SHARED)
    if context is not None and found["max_model_len"] < context:
        problem = f"{server.root} takes {found['max_model_len']} tokens, fewer than {context}."
        yield ConfigError(
            "max_model_len", problem, "Set at most that, or restart the server with a larger --max-model-len."
        )
    prompt = {"prompt": PROBE, "add_special_tokens": False}
    if server.look("tokenize", prompt).get("tokens") != tokenizer.encode(PROBE, add_special_tokens=False):
        yield ConfigError("base_urls", f"{server.root} has another tokenizer than {model}.", start)
