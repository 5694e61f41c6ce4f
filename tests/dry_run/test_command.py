"""``python -m ovd_lightning dry_run``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ovd_lightning.dry_run.command import main
from tests.dry_run.parts import GIB, plan
from tests.helpers import save_tiny_model
from tests.limits import measured
from tests.workflow import cli


def test_the_quickstart_without_a_weight(tmp_path: Path) -> None:
    shutil.copy(cli.ROOT / "ovd_lightning/assets/student/config.json", tmp_path)
    before = sorted(cli.ROOT.glob("runs/*/*"))
    done = cli.run("dry_run", "--config=configs/quickstart.yaml", f"--model.student={tmp_path}", "--steps=3")
    assert done.returncode == 0, done.stderr[-3000:]
    for words in (
        "336,384", "1,138,560", "AdamW state", "loss: chunk x V", "activations", "keys, values", "sequences",
        "scoring prompts", "9,600", "demonstrations", "token", "Disk: 2 checkpoints of 4.0 MB", "Time: not estimated",
    ):  # fmt: skip
        assert words in done.stdout, words
    assert "it fits" in done.stdout.split("Disk")[0], "the verdict comes first"
    assert "eq. 1" not in done.stdout
    assert sorted(cli.ROOT.glob("runs/*/*")) == before, "it leaves nothing behind"


def test_the_papers_configuration(student: str, tmp_path: Path) -> None:
    answers = tmp_path / "answers.sqlite"
    args = (
        "--config=configs/math.yaml", f"--model.student={student}",
        f"--method.init_args.teacher.init_args.cache={answers}",
    )  # fmt: skip
    done = cli.run("dry_run", *args, "--gpu_memory=80", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout)
    size = 4 * 1_543_714_304
    assert printed["shapes"]["model.student"]["parameters"] == 1_543_714_304
    static = {part["name"]: part["bytes"] for part in printed["memory"]["static"]}
    assert static["parameters"] == static["gradients"] == static["reference model"] == size
    assert static["AdamW state"] == 2 * size + 4 * 338
    assert printed["setup"]["rows"] * printed["setup"]["length"] == 4 * 4096, "1024 trajectories in 256 micro-batches"
    (own,) = printed["memory"]["engines"]
    assert own["weights"] == 2 * 1_543_714_304
    assert own["weights"] + own["cache"] + own["activations"] + own["graphs"] == 40 * GIB
    assert printed["disk"]["checkpoint"] == 3 * size
    assert printed["disk"]["files"] == 8
    assert 10 < printed["hours"] < 100
    assert own["sleeps"]
    assert printed["sequences"]["engine"] == pytest.approx(own["cache"] / (28_672 * 4096))
    assert printed["calls"]["scores"] == 128 * 8 * 10 / 2, "of those that are not taken to be wrong"
    assert printed["calls_of_run"]["scores"] == 800 * 128 * 8 * 10 / 2
    assert printed["token_level"]["total"] == 1024 * 4096 * 151_936 * 6
    assert printed["fits"]
    assert not answers.exists(), "the teacher's file of answers is not made"
    less = plan(*args, "--gpu_memory=48")  # 24 GiB for the engine, beside 28.8 that stay
    assert less["fits"] is False
    assert less["peak"] == 24 * GIB + GIB // 2 + 5 * size + 4 * 338


def test_several_gpus(student: str) -> None:
    args = ["--config=configs/math.yaml", f"--model.student={student}", "--gpu_memory=80"]
    sharded = plan(*args, "--config=configs/strategy/fsdp2.yaml", "--trainer.accumulate_grad_batches=32")
    assert (sharded["ranks"], sharded["setup"]["sharding"], sharded["setup"]["rows"]) == (8, "fsdp2", 4)
    assert sharded["memory"]["static"][0]["bytes"] == 4 * 1_543_714_304 / 8
    ddp = plan(*args, "--trainer.devices=4", "--trainer.accumulate_grad_batches=64")
    assert (ddp["ranks"], ddp["setup"]["sharding"], ddp["setup"]["rows"]) == (4, "ddp", 4)


def test_a_teacher_of_its_own_on_the_same_gpu(student: str) -> None:
    """configs/math_small.yaml is for one GPU of 24 GB."""
    model = f"--method.init_args.teacher.init_args.engine.init_args.model={student}"
    small = plan("--config=configs/math_small.yaml", f"--model.student={student}", model, "--gpu_memory=24")
    own, teacher = small["memory"]["engines"]
    assert teacher["role"] == "method.init_args.teacher.init_args.engine"
    assert teacher["cache"] == 2 * GIB
    assert (own["sleeps"], teacher["sleeps"]) == (True, False)
    assert small["calls"]["requests"] == 0


def test_a_token_level_teacher_is_on_the_training_device(student: str) -> None:
    quickstart = ("--config=configs/quickstart.yaml", "--trainer.accelerator=cpu", f"--model.student={student}")
    ovd, gkd = (plan(*quickstart, f"--method=configs/method/{name}.yaml") for name in ("ovd", "gkd"))
    parts = {name: {p["name"]: p["bytes"] for p in of["memory"]["static"] + of["memory"]["step"]}
             for name, of in (("ovd", ovd), ("gkd", gkd))}  # fmt: skip
    assert parts["gkd"]["token-level teacher"] == 4 * 1_138_560
    assert "token-level teacher" not in parts["ovd"]
    assert parts["gkd"]["loss: chunk x V"] == 2 * parts["ovd"]["loss: chunk x V"]
    assert gkd["calls"]["demonstrations"] == gkd["calls"]["read"] / 2


def test_a_discriminator_is_counted_on_the_device_and_on_the_disk(student: str) -> None:
    quickstart = ("--config=configs/quickstart.yaml", "--trainer.accelerator=cpu", f"--model.student={student}")
    gad = plan(*quickstart, "--method=configs/method/gad.yaml")
    size = 1_543_714_304
    assert {p["name"]: p["bytes"] for p in gad["memory"]["static"]}["discriminator"] == 16 * (size + 1536 + 1)
    assert gad["disk"]["checkpoint"] == 3 * 4 * size + 3 * 4 * (size + 1536 + 1)
    phases = gad["memory"]["phases"]
    assert phases["discriminator's update"] > phases["update"] - 4 * size, "what is always there, and its activations"
    assert gad["calls"]["demonstrations"] == 16
    other = plan(*quickstart, "--method=configs/method/gad.yaml",
                 "--method.init_args.discriminator=ovd_lightning/assets/student")  # fmt: skip
    assert other["shapes"]["method.init_args.discriminator"]["parameters"] == 336_384


def test_a_price_and_other_assumptions(student: str) -> None:
    hosted = plan(
        "--config=configs/math.yaml", f"--model.student={student}", "--gpu_memory=80", "--steps=5", "--acceptance=0.75",
        "--method.init_args.teacher=configs/teacher/hosted.yaml", "--input_price=0.4", "--output_price=1.6",
    )  # fmt: skip
    assert hosted["calls"]["demonstrations"] == 256
    assert hosted["calls"]["requests"] == 768 * 5 + 256, "one each: the endpoint takes chats only"
    run = hosted["calls_of_run"]
    assert hosted["cost_of_run"] == pytest.approx((0.4 * run["tokens_in"] + 1.6 * run["tokens_out"]) / 1e6)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.student=nowhere/at/all"], ("model.student", "is not there")),
        (["--engine.init_args.gpu_memory_utilization=0.03", "--gpu_memory=80"], ("gpu_memory_utilization", "weights")),
        (["--rollout.max_tokens=4096"], ("rollout.max_tokens", "has 4096 positions")),
        (["--acceptance=2"], ("--acceptance", "share")),
        (["--no_such_option=2"], ("no_such_option",)),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_clear_error(
    args: list[str], words: tuple[str, ...], student: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--config=configs/math.yaml", f"--model.student={student}", *args])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed


def test_a_config_that_cannot_be_had_ends_the_command() -> None:
    done = cli.run("dry_run", "--config=configs/math.yaml")
    assert done.returncode == 2
    assert "error: model.student: the config.json of Qwen/Qwen2.5-Math-1.5B cannot be read" in done.stderr
    assert "A folder that holds nothing but that file is enough" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick() -> None:
    with measured() as used:
        done = cli.run("dry_run", "--help")
    assert done.returncode == 0
    assert used.seconds < 5
    assert all(
        option in done.stdout for option in ("--gpu_memory", "--steps", "--acceptance", "--input_price", "--json")
    )
    assert "dry_run" in cli.run("--help").stdout


def test_a_config_is_enough(tmp_path: Path) -> None:
    """The same numbers with and without weights beside it."""
    whole = save_tiny_model(tmp_path / "whole", tied=True)
    (tmp_path / "bare").mkdir()
    shutil.copy(Path(whole) / "config.json", tmp_path / "bare")
    args = ("--config=configs/quickstart.yaml", *cli.HF, *cli.GRPO)
    one, two = (plan(*args, f"--model.student={folder}") for folder in (whole, tmp_path / "bare"))
    assert one["memory"]["static"] == two["memory"]["static"]
    assert one["peak"] == two["peak"]
