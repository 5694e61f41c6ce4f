"""``--help`` of a class, ``--print_config`` and shell completion, as other projects on LightningCLI have them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.workflow import cli


@pytest.mark.parametrize(("setting", "name", "argument"), [
    ("method", "OVD", "--method.threshold"),
    ("method", "ovd_lightning.methods.sod.SOD", "--method.dual_clip"),
    ("task", "MathTask", "--task.question_field"),
    ("engine", "OpenAIEngine", "--engine.base_url"),
    ("trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir"),
])  # fmt: skip
def test_help_of_a_class(setting: str, name: str, argument: str) -> None:
    """By its name alone too, although its module is imported by nothing else."""
    done = cli.run("fit", f"--{setting}.help", name)
    assert done.returncode == 0, done.stderr
    assert argument in done.stdout


@pytest.mark.parametrize("name", ["Ovd", "no.such.Class", "ovd_lightning.engines.hf.HFEngine"])
def test_help_of_no_class(name: str) -> None:
    done = cli.run("fit", "--method.help", name)
    assert done.returncode == 2
    assert done.stderr.startswith("error: method.help: there is no such class. Use one of DAPO, GAD, GKD, GRPO")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("args", "expected"), [
    (["--method", "GRPO"], "ovd_lightning.methods.grpo.GRPO"),
    (["--method", "judge_reward"], "ovd_lightning.methods.judge_reward.JudgeReward"),
    (["--task", "InstructionsTask", "--task.init_args.data", "x.jsonl"], "ovd_lightning.tasks.instructions"),
])  # fmt: skip
def test_an_object_by_its_name_alone(args: list[str], expected: str) -> None:
    """A class that nothing has imported, and a config whose teacher is another file: its text is long."""
    done = cli.run("fit", "--config", "quickstart", *args, "--print_config")
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_a_printed_config_is_a_config(tmp_path: Path) -> None:
    first = cli.run("fit", "--config", "quickstart", "--method.init_args.threshold", "5", "--print_config")
    assert first.returncode == 0, first.stderr
    assert yaml.safe_load(first.stdout)["method"]["init_args"]["threshold"] == 5
    file = tmp_path / "mine.yaml"
    file.write_text(first.stdout)
    second = cli.run("fit", "--config", str(file), "--print_config")
    assert second.stdout == first.stdout
    short = cli.run("fit", "--config", "quickstart", "--print_config=skip_default,skip_null")
    assert len(short.stdout) < len(first.stdout)


def test_a_prompt_in_words_that_the_embedded_judge_does_not_know(tmp_path: Path) -> None:
    """The setting that is named is the prompt, not the scale."""
    (tmp_path / "mine.jinja").write_text("Question: {{ question }}\nHow good is this step: {{ step }}?\n")
    judge = "method.init_args.teacher.init_args.judge.init_args"
    done = cli.run("fit", "--config", "quickstart", "--config", "overlays/no_vllm", f"--{judge}.prompt",
                   str(tmp_path / "mine.jinja"), f"--trainer.default_root_dir={tmp_path / 'run'}")  # fmt: skip
    assert done.returncode == 2
    assert f"error: {judge}.prompt: has a scoring prompt" in done.stderr


def completions(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    code = (
        'source completion.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_ovd_lightning; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code, "bash", "ovd-lightning", *words],
                          cwd=folder, capture_output=True, text=True, timeout=60)  # fmt: skip
    return done.stdout.split()


@pytest.mark.slow
def test_completion(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    code = "import sys; from ovd_lightning.__main__ import main; sys.argv[0] = 'ovd-lightning'; main()"
    done = subprocess.run([cli.command()[0], "-c", code, "--print_completion", "shtab-bash"],
                          cwd=cli.ROOT, env=cli.environment(), capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) < 5e6
    (tmp_path / "completion.bash").write_text(done.stdout)
    assert completions(tmp_path, "f") == ["fit"]
    assert "--data.rounds" in completions(tmp_path, "fit", "--data.")
    assert "--method.threshold" in completions(tmp_path, "fit", "--method.thr")
    assert "ovd_lightning.methods.ovd.OVD" in completions(tmp_path, "fit", "--method", "ovd_lightning.methods.o")
