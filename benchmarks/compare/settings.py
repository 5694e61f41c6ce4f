"""What is compared: methods, the tasks they are compared on, and what a method needs changed on a task."""

from __future__ import annotations

from dataclasses import dataclass, field

OVERLAY = "--method=configs/method/{}.yaml"
INIT = "--method.init_args."
ONE_DEMONSTRATION = [
    INIT + "teacher.init_args.pool=ovd_lightning.teachers.pool.Pool",
    INIT + "teacher.init_args.pool.init_args.size=1",
]
"""A problem's demonstration is written once a run and drawn again: M = 1 of a pool that lives as long as the run."""
METHODS: dict[str, tuple[str, list[str]]] = {
    "grpo": ("GRPO (RLVR)", [OVERLAY.format("grpo")]),
    "dr_grpo": ("Dr. GRPO", [OVERLAY.format("dr_grpo")]),
    "dapo": ("DAPO", [OVERLAY.format("dapo")]),
    "judge_reward": ("Judge as reward", [OVERLAY.format("judge_reward")]),
    "luffy": ("LUFFY", [OVERLAY.format("luffy")]),
    "gad": ("GAD", [OVERLAY.format("gad")]),
    "seqkd": ("SeqKD, verified", [OVERLAY.format("seqkd")]),
    "seqkd_pool1": ("SeqKD, verified, M = 1", [OVERLAY.format("seqkd"), *ONE_DEMONSTRATION]),
    "gkd": ("GKD, β .5, λ .5", [OVERLAY.format("gkd")]),
    "opd": ("OPD", [OVERLAY.format("opd")]),
    "oprd": ("OPRD, r = 8", [OVERLAY.format("oprd")]),
    "opsd": ("OPSD", [OVERLAY.format("opsd")]),
    "sg_opd": ("SG-OPD", [OVERLAY.format("sg_opd")]),
    "sg_opd_student": ("SG-OPD, reference: student", [OVERLAY.format("sg_opd"), INIT + "reference=student"]),
    "sod": ("SOD", [OVERLAY.format("sod")]),
    "ovd_literal": ("OVD, Algorithm 1 as printed (θ 7)", [OVERLAY.format("ovd_literal")]),
    "ovd": ("OVD, default (eq. 7, θ 7)", []),
    "ovd_pool1": ("OVD, default, M = 1", ONE_DEMONSTRATION),
    "suffix": ("OVD, version 2 at second hand", [OVERLAY.format("ovd_suffix")]),
    "decoupled": ("Decoupled", [OVERLAY.format("ovd_decoupled")]),
    "decoupled_half": ("Decoupled, weight ½", [OVERLAY.format("ovd_decoupled"), INIT + "credit.init_args.weight=0.5"]),
    "decoupled_pool1": ("Decoupled, M = 1", [OVERLAY.format("ovd_decoupled"), *ONE_DEMONSTRATION]),
    "held_share": ("OVD, half accepted by score", [OVERLAY.format("ovd_held_share")]),
    "likeliest": ("OVD, likeliest of 4 demonstrations", [OVERLAY.format("ovd_likeliest")]),
    "rejected_step": ("OVD, rejected step negative", [OVERLAY.format("ovd_rejected_step")]),
    "theta0": ("OVD, θ 0", [INIT + "threshold=0"]),
    "theta5": ("OVD, θ 5", [INIT + "threshold=5"]),
    "theta10": ("OVD, θ 10", [INIT + "threshold=10"]),
    "score_theta0": ("OVD, by score only, θ 0 (A = R)", [INIT + "replace_when=score", INIT + "threshold=0"]),
    "score_theta5": ("OVD, by score only, θ 5", [INIT + "replace_when=score", INIT + "threshold=5"]),
    "score_theta7": ("OVD, by score only, θ 7", [INIT + "replace_when=score"]),
    "student_baseline": ("OVD, student's baseline", [OVERLAY.format("ovd_student_baseline")]),
    "one_replaced": ("OVD, at most one replaced", [OVERLAY.format("ovd_one_replaced")]),
    "added": ("OVD, teacher's added", [OVERLAY.format("ovd_added")]),
    "continuation": ("OVD, continuation", [OVERLAY.format("ovd_continuation")]),
    "step_rewards": ("OVD, step rewards (eq. 3)", [OVERLAY.format("ovd_step_rewards")]),
    "expected_steps": ("OVD, expected step scores", [OVERLAY.format("ovd_expected_steps")]),
    "trajectory_score": ("OVD, trajectory score", [OVERLAY.format("ovd_trajectory_score")]),
}
ALL = ["grpo", "dr_grpo", "dapo", "seqkd", "gkd", "opd", "opsd", "sg_opd", "sod", "ovd_literal", "ovd"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the methods are compared on."""

    config: str
    benchmark: str
    """Name of its metrics."""
    students: dict[str, str]
    """Name -> checkpoint of the initial student."""
    methods: list[str]
    flags: dict[str, list[str]] = field(default_factory=dict)
    """Method -> what its overlay, which is made for the arithmetic chains, needs changed."""


def teachers(verbal: str, token: str) -> dict[str, list[str]]:
    """The flags that give each method whose overlay names a teacher the one of another task."""
    of_text = {name: [INIT + f"teacher={verbal}"] for name in ("seqkd", "luffy", "gad", "judge_reward")}
    of_tokens = {name: [INIT + f"teacher.init_args.model={token}"] for name in ("opd", "oprd", "sod")}
    return of_text | of_tokens


SETTINGS = {
    "arithmetic": Setting(
        config="configs/quickstart.yaml",
        benchmark="arithmetic",
        students={"first": "ovd_lightning/assets/student", "second": "ovd_lightning/assets/second_student"},
        methods=ALL,
    ),
    "tools": Setting(
        config="configs/quickstart_tools.yaml",
        benchmark="tool_arithmetic",
        students={"first": "ovd_lightning/assets/tools/student"},
        methods=["grpo", "seqkd", "opd", "sod", "ovd"],
        flags=teachers("configs/teacher/quickstart_tools.yaml", "ovd_lightning/assets/tools/teacher"),
    ),
    "web": Setting(
        config="configs/quickstart_web.yaml",
        benchmark="small_world",
        students={"first": "ovd_lightning/assets/web/student"},
        methods=["grpo", "seqkd", "opd", "ovd"],
        flags=teachers("configs/teacher/quickstart_web.yaml", "ovd_lightning/assets/web/teacher"),
    ),
}
