"""SummaryCallback: a run's results: a table, the exported student, the run's page, and their paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table

from ovd_lightning.callbacks.benchmark import BenchmarkCallback
from ovd_lightning.callbacks.progress import RunProgressBar
from ovd_lightning.callbacks.rollout import PHASES, RolloutCallback
from ovd_lightning.evaluation.names import EvalSplit, accuracies, label
from ovd_lightning.evaluation.results import caption, render
from ovd_lightning.module import OVDModule
from ovd_lightning.progress import phase

NARROWEST = 160
"""Columns of a table that is printed to a file, which has no edge."""


class SummaryCallback(L.Callback):
    """At the end of ``fit``: exports the student, writes report.html, prints the run's table.

    Args:
        export: write the trained student as a Hugging Face checkpoint to <run>/student.
        report: write <run>/report.html.
    """

    def __init__(self, export: bool = True, report: bool = True) -> None:
        self.export = export
        self.report = report
        self._finished = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """In place of Lightning's long table of results, a line a metric, ours is printed."""
        trainer.validate_loop.verbose = trainer.test_loop.verbose = False

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One line for each evaluation, also where there is no progress bar."""
        rollout, benchmark = self._callback(trainer, RolloutCallback), self._callback(trainer, BenchmarkCallback)
        if trainer.state.fn != "fit" or not trainer.is_global_zero or not (rollout and rollout.history and benchmark):
            return
        last, measured = rollout.history[-1], benchmark.history.get(trainer.global_step, {})
        parts = [f"round {int(last['round']) + 1}"]
        for name, text in (
            ("reward/student", "reward {:.3f}"),
            ("reward/mixture", "mixture {:.3f}"),
            ("ovd/acceptance_rate", "accepted {:.0%}"),
            ("ovd/replaced_fraction", "replaced {:.0%}"),
            ("ovd/zero_advantage_groups", "zero-advantage {:.0%}"),
        ):
            if name in last:
                parts.append(text.format(last[name]))
        shown = accuracies(measured)
        parts += [f"{label(name)} {value:.1%}" for name, value in measured.items() if name in shown]
        bar = trainer.progress_bar_callback
        line = " | ".join(parts)
        if isinstance(bar, RunProgressBar) and bar.is_enabled:
            bar.print(line)
        else:
            print(line, flush=True)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, OVDModule)
        run = Path(trainer.default_root_dir)
        if self.export:
            rollout = self._callback(trainer, RolloutCallback)
            tokenizer = rollout.engine.tokenizer if rollout is not None else None  # of the run's rollouts
            folder = run / "student"
            with phase("export of the student"):
                pl_module.student.export(folder, tokenizer or pl_module.student_path, write=trainer.is_global_zero)
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.save()
        if self.report:
            from ovd_lightning.report import write_report

            with phase("the run's page"):
                write_report(run)
        self._finished = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prints the summary, since the progress bar has stopped by now."""
        if not self._finished:
            return
        self._finished = False
        run = Path(trainer.default_root_dir)
        console = Console()
        console.print(self.table(trainer))
        if (times := self.times(trainer)) is not None:
            console.print(times)
        for name, path in self.places(trainer, run):
            console.print(f"  [bold]{name:<12}[/bold] {path}", soft_wrap=True, highlight=False)

    def _print_evaluation(self, trainer: L.Trainer, split: EvalSplit) -> None:
        """The row of the paper's Table 4, with its settings."""
        benchmark = self._callback(trainer, BenchmarkCallback)
        if not trainer.is_global_zero or benchmark is None or split not in benchmark.latest:
            return
        evaluation = benchmark.latest[split]
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, NARROWEST)
        console.print(render(evaluation, console))
        console.print(f"  {caption(evaluation)}", soft_wrap=True, highlight=False, markup=False)
        if benchmark.save:
            table = benchmark.path(trainer) / f"{evaluation.stem}.json"
            for name, path in (("table", table), ("answers", table.with_suffix(".jsonl"))):
                console.print(f"  [bold]{name:<8}[/bold] {path}", soft_wrap=True, highlight=False)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_evaluation(trainer, "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._print_evaluation(trainer, "validation")

    @staticmethod
    def _callback(trainer: L.Trainer, kind: type) -> Any:
        return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]

    def table(self, trainer: L.Trainer) -> Table:
        """First and last values of the main metrics."""
        table = Table(title="The run in numbers", title_justify="left")
        for column in ("", "first", "last"):
            table.add_column(column, justify="left" if not column else "right")
        evaluations = self._callback(trainer, BenchmarkCallback)
        measured = sorted(evaluations.history.items()) if evaluations else []
        for name in accuracies([name for _, values in measured for name in values]):
            found = [values[name] for _, values in measured if name in values]
            table.add_row(label(name), f"{found[0]:.1%}", f"{found[-1]:.1%}")
        rounds = self._callback(trainer, RolloutCallback).history
        if rounds:
            table.add_section()
            for name, text in (
                ("reward/student", "reward of the student, before replacement"),
                ("reward/judge", "reward by the judge"),
                ("reward/mixture", "reward of the mixture"),
                ("ovd/acceptance_rate", "acceptance rate"),
                ("ovd/replaced_fraction", "replaced by the teacher"),
                ("ovd/zero_advantage_groups", "groups with zero advantage"),
                ("policy/kl", "KL to the initial student (nats a token)"),
                ("teacher/prompt_tokens", "tokens that the teacher reads in a round"),
                ("teacher/completion_tokens", "tokens that it writes"),
            ):
                if name in rounds[0] or name in rounds[-1]:
                    first, last = (r.get(name) for r in (rounds[0], rounds[-1]))
                    number = "{:,.0f}" if name.startswith("teacher/") else "{:.3f}"
                    table.add_row(text, *("-" if v is None else number.format(v) for v in (first, last)))
        return table

    def times(self, trainer: L.Trainer) -> Table | None:
        """Seconds of training by phase, from its start to the end of its last evaluation; they add up to all of it."""
        rollout, benchmark = self._callback(trainer, RolloutCallback), self._callback(trainer, BenchmarkCallback)
        rounds = rollout.history
        if not rounds:
            return None
        table = Table(title=f"The time of {len(rounds)} rounds", title_justify="left")
        for column in ("phase", "seconds", "a round", "share"):
            table.add_column(column, justify="left" if column == "phase" else "right")
        seconds = {phase: sum(r.get(f"time/{phase}", 0.0) for r in rounds) for phase in PHASES}
        seconds["checkpoints"] = getattr(trainer.checkpoint_callback, "seconds", 0.0)
        seconds["evaluations"] = benchmark.seconds if benchmark else 0.0
        total = rollout.wall
        seconds["outside every phase"] = total - sum(seconds.values())
        for name, spent in [*seconds.items(), ("all", total)]:
            table.add_row(name, f"{spent:.1f}", f"{spent / len(rounds):.2f}", f"{spent / max(total, 1e-9):.0%}")
        return table

    def places(self, trainer: L.Trainer, run: Path) -> list[tuple[str, str]]:
        """Name -> path or URL of everything that the run left."""
        checkpoint, benchmark = trainer.checkpoint_callback, self._callback(trainer, BenchmarkCallback)
        last = getattr(checkpoint, "last_model_path", "") or getattr(checkpoint, "best_model_path", "")
        places = [
            ("page", str(run / "report.html") if self.report else ""),
            ("logs", str(run / "metrics.csv")),
            ("transcripts", str(run / "transcripts")),
            ("checkpoint", last),
            ("student", str(run / "student") if self.export else ""),
            ("evaluations", str(benchmark.path(trainer)) if benchmark and benchmark.save and benchmark.history else ""),
        ]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                offline = logger.experiment.settings.mode == "offline"
                folder = Path(logger.experiment.dir).parent
                if len(list(folder.parent.glob(f"offline-run-*-{logger.version}"))) > 1:  # the run was resumed
                    folder = folder.parent / f"offline-run-*-{logger.version}"
                places.append(("W&B", f"wandb sync {folder}" if offline else str(logger.experiment.url)))
        return [(name, path) for name, path in places if path]
