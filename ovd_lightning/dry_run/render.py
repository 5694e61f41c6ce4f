"""A plan for reading, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from ovd_lightning.dry_run.calls import Calls
from ovd_lightning.dry_run.memory import EngineMemory
from ovd_lightning.dry_run.plan import Plan


def as_json(plan: Plan) -> dict[str, Any]:
    """Every number, bytes as integers, with what is derived from them."""
    token_level = {
        **asdict(plan.token_level),
        "total": plan.token_level.total,
        "ratio": plan.token_level.ratio,
    }
    return {
        **asdict(plan),
        "peak": plan.memory.peak,
        "fits": plan.fits,
        "sequences": {engine.role: engine.sequences for engine in plan.memory.engines},
        "calls_of_run": asdict(plan.calls.times(plan.rounds)),
        "cost_of_run": plan.calls.times(plan.rounds).cost(plan.assumed),
        "token_level": token_level,
        "disk_total": plan.disk.total,
        "hours": None if plan.times is None else plan.rounds * plan.times.round / 3600,
    }


def show(plan: Plan, console: Console, token_level: bool = False) -> None:
    """The verdict first.

    Args:
        token_level: with what a teacher of tokens would need.
    """
    for line in (verdict(plan), disk(plan), time(plan)):
        console.print(line, highlight=False)
    for table in (_models(plan), _memory(plan), _phases(plan), _teacher(plan)):
        if table is not None:
            console.print(table)
    if token_level:
        console.print(_token_level(plan))
    for note in [*assumptions(plan), *plan.notes]:
        console.print(f"- {note}", highlight=False)


def disk(plan: Plan) -> str:
    d = plan.disk
    return f"Disk: {d.files} checkpoints of {decimal(d.checkpoint)} and the student, {decimal(d.total)} at the fullest."


def time(plan: Plan) -> str:
    if plan.times is None:
        return "Time: not estimated for this device; run two rounds (--data.rounds 2)."
    t = plan.times
    return (
        f"Time: about {plan.rounds * t.round / 3600:,.1f} h for {plan.rounds} rounds of {t.generate:,.0f} s of "
        f"generation and {t.train:,.0f} s of training, without teacher and evaluations (assumed: "
        f"{plan.assumed.tflops:g} TFLOP/s, {plan.assumed.bandwidth:g} GB/s, {plan.response_tokens} tokens a "
        "trajectory: --tflops, --bandwidth, --response_tokens)."
    )


def assumptions(plan: Plan) -> list[str]:
    if not plan.calls_at_most.tokens_in:
        return []
    a = plan.assumed
    return [
        f"Assumed of the teacher's part: {a.steps:g} steps and {plan.response_tokens} tokens a trajectory, "
        f"{a.acceptance:.0%} accepted, {a.prompt_tokens} tokens a problem (--steps, --response_tokens, --acceptance, "
        "--prompt_tokens). At most: every trajectory as long as allowed, every one replaced.",
    ]


def verdict(plan: Plan) -> str:
    phase = max(plan.memory.phases, key=plan.memory.phases.__getitem__)
    need = f"The largest phase, {phase}, needs {binary(plan.memory.peak)}"
    what = "one GPU" if plan.device == "gpu" else "this machine"
    if plan.device_memory is None:
        return f"{need} of {what}, whose memory is not known: give --gpu_memory."
    return f"{need} of the {binary(plan.device_memory)} of {what}: it {'fits' if plan.fits else 'does NOT fit'}."


def binary(bytes: float) -> str:
    """In GiB, or in what is at least 1 of."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if bytes >= size:
            return f"{bytes / size:,.2f} {unit}"
    return f"{bytes / 2**10:,.2f} KiB"


def decimal(bytes: float) -> str:
    """As the paper counts, in powers of ten."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if bytes >= size:
            return f"{bytes / size:,.1f} {unit}"
    return f"{bytes / 1e3:,.1f} kB"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in ("how", "") else "right")
    return table


def _models(plan: Plan) -> Table:
    table = _table(
        "Models, from their config.json", "setting", "model", "parameters", "layers", "hidden", "V", "positions"
    )
    for setting, shape in plan.shapes.items():
        parameters = f"{shape.parameters:,}" + (" (tied)" if shape.tied else "")
        numbers = (shape.layers, shape.hidden, shape.vocabulary, shape.positions or "-")
        table.add_row(
            _short(setting), shape.name, parameters, *(f"{n:,}" if isinstance(n, int) else n for n in numbers)
        )
    return table


def _memory(plan: Plan) -> Table:
    where = f"each of {plan.ranks} GPUs" if plan.ranks > 1 else "one GPU"
    if plan.device == "cpu":
        where = f"each of {plan.ranks} processes" if plan.ranks > 1 else "the process"
    table = _table(f"Memory of {where}", "", "size", "how")
    for part in plan.memory.static:
        table.add_row(part.name, binary(part.bytes), part.how)
    table.add_section()
    for part in plan.memory.step:
        table.add_row(part.name, binary(part.bytes), part.how)
    table.add_row("a training step, together", binary(plan.memory.step_peak), "not all of the above are alive at once")
    table.add_row(plan.memory.update.name, binary(plan.memory.update.bytes), plan.memory.update.how)
    if plan.memory.gathered:
        table.add_row(plan.memory.gathered.name, binary(plan.memory.gathered.bytes), plan.memory.gathered.how)
    for engine in plan.memory.engines:
        table.add_section()
        asleep = ", given back between rounds" if engine.sleeps else ", always there"
        table.add_row(f"{_short(engine.role)}: weights", binary(engine.weights), engine.name + asleep)
        table.add_row(f"{_short(engine.role)}: keys, values", _cache(engine), f"{engine.how}; {_sequences(engine)}")
        if engine.activations:
            table.add_row(
                f"{_short(engine.role)}: activations, graphs",
                binary(engine.activations + engine.graphs),
                "estimate: vLLM's largest step; graphs stay while it sleeps",
            )
    return table


def _cache(engine: EngineMemory) -> str:
    return "?" if engine.cache is None else binary(engine.cache)


def _sequences(engine: EngineMemory) -> str:
    each = f"{engine.cache_per_token:,} B a token"
    return each if engine.sequences is None else f"{each}, {engine.sequences:,.1f} sequences of {engine.length} tokens"


def _short(setting: str) -> str:
    return setting.removeprefix("method.init_args.").replace("teacher.init_args.", "teacher ")


def _phases(plan: Plan) -> Table:
    table = _table("Memory by phase of a round", "phase", "size")
    for phase, bytes in plan.memory.phases.items():
        table.add_row(phase, binary(bytes))
    return table


def _teacher(plan: Plan) -> Table | None:
    if not plan.calls_at_most.tokens_in:
        return None
    a = plan.assumed
    table = _table(
        f"What the teacher is asked: {plan.trajectories:,} trajectories a round, {plan.rounds:,} rounds",
        "", "a round", "a round at most", "the run",
    )  # fmt: skip
    columns: list[Calls] = [plan.calls, plan.calls_at_most, plan.calls.times(plan.rounds)]
    rows = {
        "scoring prompts": [c.scores for c in columns],
        "trajectories read token by token": [c.read for c in columns],
        "demonstrations": [c.demonstrations for c in columns],
        "HTTP requests": [c.requests for c in columns],
        "tokens in": [c.tokens_in for c in columns],
        "tokens out": [c.tokens_out for c in columns],
    }
    for name, values in rows.items():
        if any(values):
            table.add_row(name, *(f"{value:,}" for value in values))
    costs = [c.cost(a) for c in columns]
    if costs[0] is not None:
        table.add_row("cost", *(f"{cost:,.2f}" for cost in costs))
    return table


def _token_level(plan: Plan) -> Table:
    t = plan.token_level
    table = _table("A teacher of tokens instead: eq. 1 of the paper, all logits of a round at once", "", "size", "how")
    sizes = f"{t.trajectories:,} x {t.length:,} x {t.vocabulary:,}"
    table.add_row("logits, float32", decimal(t.single), f"B N x L x V x 4 B = {sizes} x 4 B")
    table.add_row("logits, bfloat16", decimal(t.half), "... x 2 B")
    table.add_row("both, eq. 1", decimal(t.total), "float32 and bfloat16 copies, as frameworks keep them")
    how = f"B N x K x v x 4 B, K {plan.assumed.steps:g} steps, v 10 scores: {t.ratio:,.0f} times less"
    table.add_row("verbal scores", decimal(t.verbal), how)
    chunked = plan.setup.chunk * t.vocabulary * 6
    table.add_row(
        "a chunk of logits",
        decimal(chunked),
        "what token-level losses need at a time where they run in chunks, as ours",
    )
    return table
