"""Every method through the command line on the embedded models, and one that is not of this package."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.workflow import cli

TWO = ["--data.rounds=2", "--checkpoint.every_n_rounds=2"]
LOGGED = {
    "dapo": {"dapo/filtered_fraction", "dapo/further_groups", "dapo/unfilled_groups", "grpo/overlong_penalty"},
    "dr_grpo": {"mismatch/ratio_mean", "mismatch/ratio_max"},
    "opd": {"opd/reverse_kl"},
    "gkd": {"gkd/divergence", "gkd/student_share", "teacher/demonstrations"},
    "seqkd": {"seqkd/imitated", "seqkd/teacher_reward"},
    "opsd": {"opsd/divergence"},
    "sg_opd": {"opd/reverse_kl", "sg_opd/agreement", "sg_opd/imitation_weight", "sg_opd/imitated"},
    "sod": {"sod/divergence", "sod/step_weight", "policy/clip_fraction"},
}


def trained(folder: Path) -> list[dict[str, float]]:
    """The row of every round, of methods too that sample no student trajectory."""
    return [row for row in cli.metrics(folder) if "loss" in row]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("method", LOGGED)
def test_two_rounds_on_real_vllm(method: str, tmp_path: Path) -> None:
    cli.fit(tmp_path, f"--method=configs/method/{method}.yaml", *TWO)
    rows = trained(tmp_path)
    assert [row["round"] for row in rows] == [0, 1]
    for row in rows:
        assert row.keys() >= LOGGED[method]
        if method not in ("dapo", "dr_grpo", "opsd"):  # which have no teacher, or are their own
            assert row["teacher/prompt_tokens"] > 0
        assert all(math.isfinite(value) for value in row.values())
        # The engine's log-probabilities are those of the student that trains; all of SeqKD's tokens are the teacher's.
        assert row.get("mismatch/logprob_abs_max", 0) < (1e-3 if method != "seqkd" else 1)
        # Groups are idle for want of an advantage only where a method gives some to trajectories.
        assert ("ovd/zero_advantage_groups" in row) is (method not in ("opd", "gkd", "seqkd", "opsd"))
    writes = method in ("gkd", "seqkd", "sg_opd")  # the last in its first rounds only
    assert (sum(row.get("teacher/completion_tokens", 0) for row in rows) > 0) is writes
    assert rows[0]["policy/grad_norm"] > 0  # a later round may have groups without variance alone
    lines = cli.transcripts(tmp_path)
    sources = {line["source"] for line in lines if line["in_mixture"]}
    assert sources == {
        "seqkd": {"teacher"}, "gkd": {"student", "teacher"}, "sg_opd": {"student", "teacher"}
    }.get(method, {"student"})  # fmt: skip
    if method == "seqkd":
        assert all(line["correct"] for line in lines if line["in_mixture"])
    assert (tmp_path / "student" / "model.safetensors").is_file()


OUTSIDE = '''
"""A method that this package has never heard of."""
from ovd_lightning.methods.base import Method


class Shortest(Method):
    """The shortest correct trajectory of a group is imitated; it is credited by nothing else.

    Args:
        bonus: weight of the cross-entropy.
    """

    def __init__(self, bonus: float = 1.0, **objective) -> None:
        super().__init__(**objective)
        self.bonus = bonus

    def annotate(self, groups, round) -> None:
        for group in groups:
            right = [y for y in group.sampled if y.grade.correct]
            group.mixture = sorted(right, key=lambda y: len(y.completion_ids))[:1]
            for y in group.mixture:
                y.advantages, y.imitation = [0.0] * len(y.completion_ids), self.bonus
        round.log_mean("shortest/found", [float(bool(g.mixture)) for g in groups])
'''


def test_a_method_from_outside_by_its_class_path_alone(tmp_path: Path) -> None:
    (tmp_path / "somebodys.py").write_text(OUTSIDE)
    run = tmp_path / "run"
    cli.fit(
        run, *cli.HF, *TWO, "--method=somebodys.Shortest", "--method.init_args.bonus=0.5",
        "--method.init_args.group_size=4", "--trainer.accumulate_grad_batches=3",
        PYTHONPATH=f"{cli.ROOT}:{tmp_path}",
    )  # fmt: skip
    rows = trained(run)
    assert [row["round"] for row in rows] == [0, 1]
    assert rows[0]["shortest/found"] > 0
    assert rows[0]["policy/grad_norm"] > 0
    imitated = [line for line in cli.transcripts(run) if line["in_mixture"]]
    assert imitated
    assert all(line["correct"] for line in imitated)


def test_a_teacher_of_another_vocabulary_ends_the_run_before_a_model_is_loaded(tmp_path: Path) -> None:
    done = cli.run(
        "fit", "--config=configs/quickstart.yaml", *cli.HF, "--method=configs/method/opd.yaml",
        "--method.init_args.teacher.init_args.model=ovd_lightning/assets/web/teacher",
        f"--trainer.default_root_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode != 0
    assert "has another vocabulary" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("method", "strategy"), [("opsd", "fsdp2"), ("sod", "ddp")])
def test_two_ranks_train_as_one(method: str, strategy: str, tmp_path: Path) -> None:
    """Whole distributions of a sharded student, with itself as the teacher; a teacher that every rank holds."""
    args = [*cli.HF, f"--method=configs/method/{method}.yaml", "--data.rounds=1"]
    ranks = {
        "ddp": ["--trainer.devices=2", "--trainer.strategy=ddp"],
        "fsdp2": [
            "--config=configs/strategy/fsdp2.yaml", "--trainer.devices=2",
            "--trainer.strategy.init_args.data_parallel_size=2",
        ],
    }[strategy]  # fmt: skip
    cli.fit(tmp_path / "one", *args)
    cli.fit(tmp_path / "two", *args, *ranks)
    one, two = trained(tmp_path / "one")[0], trained(tmp_path / "two")[0]
    for name in ("loss", "policy/grad_norm", "policy/entropy"):
        assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-6), name
