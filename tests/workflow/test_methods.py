"""Every method through the command line on the embedded models, and one that is not of this package."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
import yaml

from tests.chat_model import save_chat_model, teach
from tests.workflow import cli

TWO = ["--data.rounds=2", "--checkpoint.every_n_rounds=2"]
LOGGED = {
    "dapo": {"dapo/filtered_fraction", "dapo/further_groups", "dapo/unfilled_groups", "grpo/overlong_penalty"},
    "dr_grpo": {"mismatch/ratio_mean", "mismatch/ratio_max"},
    "gad": {
        "gad/discriminator_loss",
        "gad/pairwise_accuracy",
        "gad/student_value",
        "gad/teacher_value",
        "gad/groups_without_teacher",
        "gad/teacher_reward",
    },
    "luffy": {"luffy/teacher_reward", "teacher/demonstrations", "policy/teacher_token_logprob"},
    "ovd_decoupled": {"ovd/acceptance_rate", "ovd/replaced_fraction", "ovd/teacher_reward"},
    "ovd_likeliest": {"ovd/candidate_logprob", "ovd/likeliest_logprob", "teacher/demonstrations_from_pool"},
    "ovd_suffix": {"ovd/acceptance_rate", "score/judged_fraction", "teacher/demonstrations"},
    "opd": {"opd/reverse_kl"},
    "oprd": {"oprd/distance", "oprd/cosine"},
    "gkd": {"gkd/divergence", "gkd/student_share", "teacher/demonstrations"},
    "seqkd": {"seqkd/imitated", "seqkd/teacher_reward"},
    "opsd": {"opsd/divergence"},
    "sg_opd": {"opd/reverse_kl", "sg_opd/agreement", "sg_opd/imitation_weight", "sg_opd/imitated"},
    "sod": {"sod/divergence", "sod/step_weight", "policy/clip_fraction"},
}


BOTH = {"student", "teacher"}
SOURCES = {
    "seqkd": {"teacher"}, "gkd": BOTH, "sg_opd": BOTH, "luffy": BOTH, "gad": BOTH, "ovd_decoupled": BOTH,
    "ovd_suffix": {"student", "mixed", "teacher"}, "ovd_likeliest": BOTH,
}  # fmt: skip
"""Who wrote what trains; by default the student alone."""


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
        assert ("ovd/zero_advantage_groups" in row) is (method not in ("opd", "oprd", "gkd", "seqkd", "opsd"))
    writes = method in SOURCES  # SG-OPD in its first rounds only
    assert (sum(row.get("teacher/completion_tokens", 0) for row in rows) > 0) is writes
    assert rows[0]["policy/grad_norm"] > 0  # a later round may have groups without variance alone
    lines = cli.transcripts(tmp_path)
    sources = {line["source"] for line in lines if line["in_mixture"]}
    assert sources == SOURCES.get(method, {"student"})
    if method == "seqkd":
        assert all(line["correct"] for line in lines if line["in_mixture"])
    assert (tmp_path / "student" / "model.safetensors").is_file()


RUBRIC = '[{"criterion": "is short", "weight": 3}, "ends"]'


@pytest.mark.slow
@pytest.mark.vllm
def test_ropd_with_a_rubric_that_is_really_written(tmp_path: Path) -> None:
    """The embedded teacher answers; a byte model that was taught to write one rubric and to say Yes or No judges."""
    judge = save_chat_model(tmp_path / "judge", 0, positions=1024)

    def rubric(rng: random.Random) -> tuple[list[dict[str, str]], str]:
        reference, answer = ("".join(rng.choices("0123456789+-=\n", k=rng.randint(2, 12))) for _ in range(2))
        return [{"role": "user", "content": f"Contrast {reference} and {answer}."}], RUBRIC

    def verdict(rng: random.Random) -> tuple[list[dict[str, str]], str]:
        answer = "".join(rng.choices("0123456789+-=\n", k=rng.randint(5, 80)))
        return [{"role": "user", "content": f"Meets? {answer}"}], rng.choice(["Yes", "No"])

    assert teach(judge, [rubric, verdict] * 4, 150) < 0.2
    for name, text in (
        ("contrast", "Contrast {{ references[0][:12] }} and {{ answers[0][:12] }}."),
        ("criterion", "Meets? {{ response[:80] }}{{ criterion[:0] }}"),
    ):
        (tmp_path / f"{name}.jinja").write_text(text)
    engine = {
        "class_path": "ovd_lightning.engines.vllm.VLLMEngine",
        "init_args": {"model": judge, "kv_cache_memory_bytes": 64 << 20, "max_model_len": 1024},
    }
    contrast = {
        "class_path": "ovd_lightning.judges.contrast.ContrastJudge",
        "init_args": {
            "engine": engine, "chat": True, "read": "text", "score_tokens": 4,
            "rubric_tokens": 64, "rubric_temperature": 0.0, "rubric_prompt": str(tmp_path / "contrast.jinja"),
            "prompt": str(tmp_path / "criterion.jinja"),
        },
    }  # fmt: skip
    teacher = yaml.safe_load((cli.ROOT / "configs/teacher/quickstart.yaml").read_text())
    teacher["init_args"] |= {"judge": contrast, "demonstrator_chat": False}
    overlay = tmp_path / "ropd.yaml"
    method = {"class_path": "ovd_lightning.methods.ropd.ROPD", "init_args": {"teacher": teacher, "group_size": 4}}
    overlay.write_text(yaml.safe_dump({"method": method}))
    run = tmp_path / "run"
    cli.fit(run, f"--config={overlay}", *TWO, "--data.problems_per_round=4")
    rows = trained(run)
    assert [row["round"] for row in rows] == [0, 1]
    for row in rows:
        assert row["ropd/groups_without_rubric"] == 0
        assert row["ropd/criteria"] == 2
        assert row["teacher/scores"] == 4 * 4 * 2, "two criteria an answer"
        assert 0 < row["reward/judge"] < 1
    assert rows[0]["policy/grad_norm"] > 0
    assert {line["source"] for line in cli.transcripts(run) if line["in_mixture"]} == {"student"}


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


@pytest.mark.slow
def test_a_discriminator_learns_on_two_ranks_as_on_one(tmp_path: Path) -> None:
    """Its second update, the first that changes more than the head: equal gradients but for the order of float sums."""
    engine = "--method.init_args.teacher.init_args.engine"
    args = [
        "--method=configs/method/gad.yaml", *cli.HF, f"{engine}=configs/engine/hf.yaml",
        f"{engine}.init_args.model=ovd_lightning/assets/teacher", "--method.init_args.discriminator_updates=2",
        "--data.rounds=1",
    ]  # fmt: skip
    cli.fit(tmp_path / "one", *args)
    cli.fit(tmp_path / "two", *args, "--trainer.devices=2", "--trainer.strategy=ddp")
    (a,), (b,) = trained(tmp_path / "one"), trained(tmp_path / "two")
    for name in ("loss", "policy/grad_norm", "gad/discriminator_loss", "gad/pairwise_accuracy", "gad/teacher_reward"):
        assert a[name] == pytest.approx(b[name], rel=1e-4), name
    x, y = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["ovd_lightning_method"]["state"]
        for name in ("one", "two")
    )
    for part in ("head.", "trunk."):  # gradients of very different sizes
        one, two = (
            [m["exp_avg"] for name, m in zip(state["weights"], state["optimizer"]["state"].values(), strict=True)
             if name.startswith(part)]
            for state in (x, y)
        )  # fmt: skip
        largest = max(float(m.abs().max()) for m in one)
        assert largest > 0
        assert max(float((m - n).abs().max()) for m, n in zip(one, two, strict=True)) < 1e-3 * largest, part
