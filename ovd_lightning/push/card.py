"""The model card: what it says comes from the run's record; what is not recorded is not said."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from ovd_lightning.evaluation.names import accuracies, label
from ovd_lightning.push.record import RECORDED, Record
from ovd_lightning.report.rounds import over_rounds

CURVES = "curves.png"
SHOWN = {
    "reward/student": "reward of the student, before replacement",
    "ovd/acceptance_rate": "acceptance rate",
    "ovd/replaced_fraction": "replaced by the teacher",
    "policy/kl": "KL to the initial student, nats per token",
}
"""Metrics of the table, beside the accuracies."""


def card(repo: str, record: Record, curves: bool) -> str:
    """README.md of a repository.

    Args:
        repo: ENTITY/NAME.
        curves: whether there is a picture of them, as ``CURVES``.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    final = _final(record)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=name.split("/")[1],
            dataset_name=name.split("/")[1],
            metric_type="accuracy",
            metric_name=label(name),
            metric_value=round(last, 4),
        )
        for name, _, last in final
        if name.startswith("test/")
    ]
    data = ModelCardData(
        base_model=record.base_id,
        library_name="peft" if record.adapter_of else "transformers",
        pipeline_tag="text-generation",
        datasets=record.datasets or None,
        tags=[
            "ovd-lightning",
            "distillation",
            *([record.run.method_name.lower()] if record.run is not None else []),
            *(["lora"] if record.adapter_of else []),
        ],
        model_name=repo.partition("/")[2] if results else None,
        eval_results=results or None,
        **record.license,  # type: ignore[arg-type]
    )
    template = files("ovd_lightning.push") / "card.md.j2"
    return str(
        ModelCard.from_template(
            data,
            template_str=template.read_text(encoding="utf-8"),
            repo=repo,
            record=record,
            rows=[(SHOWN.get(name) or label(name), f"{first:.4g}", f"{last:.4g}") for name, first, last in final],
            axis=over_rounds(record.run.metrics)[1] if record.run is not None else "",
            curves=CURVES if curves else None,
            settings=_settings(record),
            recorded=[name for name in RECORDED if record.run is not None and (record.run.path / name).is_file()],
        )
    )


def _final(record: Record) -> list[tuple[str, float, float]]:
    """(metric, its first value, its last) of those that were logged."""
    metrics = {} if record.run is None else record.run.metrics
    names = [*sorted(accuracies(metrics), key=lambda name: not name.startswith("test/")), *SHOWN]
    return [(name, metrics[name][0][1], metrics[name][-1][1]) for name in names if metrics.get(name)]


def _settings(record: Record) -> list[tuple[str, str]]:
    """Those that a reader asks for first."""
    if record.run is None:
        return []
    config: dict[str, Any] = record.config
    method = record.run.method.get("init_args") or {}
    lora = (config.get("model") or {}).get("lora") or {}
    found = {
        "method": record.run.method_name,
        "threshold θ": method.get("threshold"),
        "task": record.task,
        "initial student": record.base_name,
        "teacher": ", ".join(record.teachers) or None,
        "rounds": (config.get("data") or {}).get("rounds"),
        "problems a round": (config.get("data") or {}).get("problems_per_round"),
        "trajectories a problem": method.get("group_size"),
        "learning rate": (config.get("model") or {}).get("learning_rate"),
        "adapter's rank": lora.get("r"),
        "adapter's alpha": lora.get("alpha"),
        "base while training": lora.get("quantize"),
        "seed": config.get("seed_everything"),
        **record.provenance.get("packages", {}),
    }
    return [(name, str(value)) for name, value in found.items() if value is not None]
