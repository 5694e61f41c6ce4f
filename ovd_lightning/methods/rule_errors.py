"""Rules of OVD that do not go together, or not with the teacher."""

from __future__ import annotations

from collections.abc import Iterator

from ovd_lightning.errors import ConfigError, raise_errors
from ovd_lightning.methods.rules import Credit, Replacement, threshold_errors
from ovd_lightning.methods.scoring import Scoring
from ovd_lightning.teachers.verbal import VerbalTeacher


def check_rules(
    threshold: float,
    teacher: VerbalTeacher,
    scoring: Scoring,
    replacement: Replacement,
    credit: Credit,
    group_size: int,
) -> None:
    """Raises: ConfigError, with everything that is wrong."""
    raise_errors(rule_errors(threshold, teacher, scoring, replacement, credit, group_size))


def rule_errors(
    threshold: float,
    teacher: VerbalTeacher,
    scoring: Scoring,
    replacement: Replacement,
    credit: Credit,
    group_size: int,
) -> Iterator[ConfigError]:
    """A threshold that is not on the teacher's scale, and rules that do not go together, or not with the teacher."""
    yield from threshold_errors("method.init_args.threshold", threshold, teacher.scale)
    if replacement.kept_share and not teacher.writes:
        yield ConfigError(
            "method.init_args.replacement",
            f"is {type(replacement).__name__}, and the teacher has no engine to continue a trajectory.",
            "Use ovd_lightning.methods.rules.Whole, or name an engine.",
        )
    inside = getattr(replacement, "replacement", None)
    if isinstance(inside, Replacement) and not inside.composes:
        yield ConfigError(
            "method.init_args.replacement",
            f"is {type(replacement).__name__} of {type(inside).__name__}, which chooses for a whole group.",
            f"Use {type(inside).__module__}.{type(inside).__name__} by itself.",
        )
    for name, rule in (("replacement", replacement), ("credit", credit)):
        if rule.needs_step_scores and scoring.level != "step":
            problem = f"is {type(rule).__name__}, which needs scored steps."
            yield ConfigError(f"method.init_args.{name}", problem, "Use scoring.level: step with it.")
    if group_size < 2 and credit.needs_group and not replacement.adds:
        yield ConfigError(
            "method.init_args.group_size",
            f"is 1, and credit: {type(credit).__name__} normalises within the group, which gives 0 for a group of one.",
            "Use 2 or more, or credit: ovd_lightning.methods.rules.Reward.",
        )
