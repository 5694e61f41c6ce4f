"""Numbers outside their range, and values that are no choice: one line of the command line's parser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.errors import ConfigError
from ovd_lightning.settings import ranges
from ovd_lightning.settings.parser import RunParser
from ovd_lightning.settings.ranges import HalfOpenUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt

Error = Callable[..., str]
QUICKSTART = "configs/quickstart.yaml"
METHOD = "method.init_args"
TEACHER = f"{METHOD}.teacher.init_args"
TASK = "task.init_args"
ENVIRONMENT = f"{TASK}.environment.init_args"
SEARCH = f"{ENVIRONMENT}.search.init_args"
TEST_SET = "ovd_lightning.tasks.web_qa.WebQABenchmark"

# config, flags before it, setting, wrong values, what it takes
SETTINGS = [
    (QUICKSTART, [], "checkpoint.every_n_rounds", ["0", "-3"], "1 or more"),
    (QUICKSTART, [], "run.progress_every_s", ["-1", "-0.5", "nan", "inf"], "0 or more"),
    (QUICKSTART, [], f"{METHOD}.group_size", ["0"], "1 or more"),
    (QUICKSTART, [], f"{METHOD}.clip", ["0", "1", "1.0", "-0.2"], "a value in (0, 1), or null"),
    (QUICKSTART, [], f"{METHOD}.clip_high", ["0"], "more than 0, or null"),
    (QUICKSTART, [], f"{METHOD}.dual_clip", ["1"], "more than 1, or null"),
    (QUICKSTART, [], f"{METHOD}.kl_coefficient", ["-0.001"], "0 or more"),
    (QUICKSTART, [], f"{METHOD}.mismatch_bound", ["1"], "more than 1"),
    (QUICKSTART, [], f"{METHOD}.scoring.temperature", ["0"], "more than 0"),
    (QUICKSTART, ["ovd_soft"], f"{METHOD}.acceptance.init_args.beta", ["0", "-1"], "more than 0"),
    (QUICKSTART, ["ovd_soft"], f"{METHOD}.acceptance.init_args.bound", ["0.5"], "1 or more"),
    (QUICKSTART, ["ovd_one_replaced"], f"{METHOD}.replacement.init_args.limit", ["-1"], "0 or more"),
    (QUICKSTART, ["ovd_student_baseline"], f"{METHOD}.credit.init_args.sigma_floor", ["0"], "more than 0"),
    (QUICKSTART, [], f"{TEACHER}.demonstration_tokens", ["0"], "1 or more, or null"),
    (QUICKSTART, [], f"{TEACHER}.demonstration_temperature", ["-1"], "0 or more"),
    (QUICKSTART, [], f"{TEACHER}.judge.init_args.text_temperature", ["-1"], "0 or more"),
    (QUICKSTART, [], f"{TEACHER}.judge.init_args.score_tokens", ["0"], "1 or more"),
    (QUICKSTART, [], f"{TEACHER}.judge.init_args.samples", ["0"], "1 or more"),
    (QUICKSTART, [], f"{TEACHER}.judge.init_args.max_parse_failures", ["1.5"], "a value in [0, 1]"),
    (QUICKSTART, ["opd"], f"{TEACHER}.chunk_size", ["0"], "1 or more"),
    ("configs/math.yaml", [], "benchmark.rejection.init_args.max_steps", ["0"], "1 or more"),
    ("configs/math.yaml", [], "benchmark.rejection.init_args.score_temperature", ["0"], "more than 0"),
    (QUICKSTART, [], f"{TASK}.train_size", ["0", "200001"], "1 to 200000"),
    (QUICKSTART, [], f"{TASK}.test_size", ["1000000000"], "1 to 200000"),
    (QUICKSTART, ["grpo"], f"{METHOD}.group_size", ["1"], "2 or more"),
    (QUICKSTART, ["grpo"], f"{METHOD}.overlong_buffer", ["0"], "1 or more"),
    (QUICKSTART, ["dapo"], f"{METHOD}.refills", ["-1"], "0 or more"),
    (QUICKSTART, ["dapo"], f"{METHOD}.min_std", ["-1"], "0 or more"),
    (QUICKSTART, ["gkd"], f"{METHOD}.beta", ["1.5", "-0.1"], "a value in [0, 1]"),
    (QUICKSTART, ["gkd"], f"{METHOD}.student_share", ["2"], "a value in [0, 1]"),
    (QUICKSTART, ["opsd"], f"{METHOD}.beta", ["1.01"], "a value in [0, 1]"),
    (QUICKSTART, ["sod"], f"{METHOD}.distillation", ["-1"], "0 or more"),
    (QUICKSTART, ["sod"], f"{METHOD}.delta", ["-1"], "0 or more"),
    (QUICKSTART, ["sg_opd"], f"{METHOD}.agree", ["0.9"], "1 or more"),
    (QUICKSTART, ["sg_opd"], f"{METHOD}.conflict", ["0", "1.1"], "a value in (0, 1]"),
    (QUICKSTART, ["sg_opd"], f"{METHOD}.end", ["1.5"], "a value in [0, 1]"),
    (QUICKSTART, ["sg_opd"], f"{METHOD}.demonstrations", ["0"], "1 or more"),
    ("configs/math.yaml", [], f"{TASK}.timeout_s", ["0", "1e9"], "a value in (0, 600]"),
    ("configs/math.yaml", [], "data.benchmarks.init_args.shots", ["-1"], "0 or more, or null"),
    ("configs/quickstart_web.yaml", [], f"{TASK}.train_size", ["0"], "1 or more"),
    ("configs/quickstart_web.yaml", [], f"{ENVIRONMENT}.top_k", ["0"], "1 or more"),
    ("configs/quickstart_web.yaml", [], f"{ENVIRONMENT}.max_turns", ["-1"], "0 or more"),
    ("configs/quickstart_web.yaml", [], f"{ENVIRONMENT}.max_turn_tokens", ["0"], "1 or more"),
    ("configs/quickstart_web.yaml", [], f"{ENVIRONMENT}.max_failed_share", ["1.5"], "a value in [0, 1]"),
    ("configs/quickstart_web.yaml", [], f"{SEARCH}.k1", ["-1"], "0 or more"),
    ("configs/quickstart_web.yaml", [], f"{SEARCH}.b", ["2"], "a value in [0, 1]"),
    ("configs/web_qa_qwen.yaml", [], f"{TASK}.f1_minimum", ["0", "1.5"], "a value in (0, 1]"),
    ("configs/web_qa_qwen.yaml", [], "data.benchmarks.init_args.limit", ["0"], "1 or more, or null"),
    ("configs/quickstart_tools.yaml", [], f"{ENVIRONMENT}.result_characters", ["1"], "2 or more"),
    ("configs/quickstart_tools.yaml", [], f"{ENVIRONMENT}.error_lines", ["0"], "1 or more"),
    ("configs/quickstart_tools.yaml", [], f"{ENVIRONMENT}.max_failed_share", ["2"], "a value in [0, 1]"),
]


@pytest.mark.parametrize(("config", "method", "setting", "values", "takes"), SETTINGS, ids=lambda value: str(value))
def test_a_number_outside_its_range(
    config: str, method: list[str], setting: str, values: list[str], takes: str, error: Error
) -> None:
    before = [f"--config={config}", *(f"--method=configs/method/{name}.yaml" for name in method)]
    for value in values:
        assert error(*before, f"--{setting}={value}") == f"{setting}: is {value}. Use {takes}."


TWICE = "any other brace is written twice"
DOCUMENT = "a text, with {text}, if you like with {id}, {rank}, {score}, {title}"


@pytest.mark.parametrize(
    ("config", "method", "setting", "values", "takes"),
    [
        ("configs/math.yaml", "ovd", f"{TASK}.data", [""], "a text that is not empty"),
        ("configs/math.yaml", "ovd", f"{TASK}.step_separator", [""], "a text that is not empty"),
        (
            "configs/math.yaml", "ovd", f"{TASK}.prompt", ["no place", "{question} {question}"],
            "a text with {question} in it, once",
        ),
        (
            QUICKSTART, "opsd", f"{METHOD}.hint",
            ["{prompt}", "{reference}", "{prompt}{other}{reference}", "\\boxed{{prompt}", "{prompt}{reference}{}"],
            f"a text, with {{prompt}}, {{reference}}; {TWICE}",
        ),
        ("configs/quickstart_web.yaml", "ovd", f"{ENVIRONMENT}.document_format", ["{title}"], f"{DOCUMENT}; {TWICE}"),
        (
            "configs/quickstart_web.yaml", "ovd", f"{ENVIRONMENT}.untitled_format", ["{text} {url}", "{text} {"],
            f"{DOCUMENT}; {TWICE}",
        ),
        *(
            (
                "configs/quickstart_tools.yaml", "ovd", f"{ENVIRONMENT}.{name}_message", ["{what}", "{"],
                f"a text, if you like with {{reason}}; {TWICE}",
            )
            for name in ("undecodable", "wrong_call", "stopped")
        ),
    ],
)  # fmt: skip
def test_a_text_without_its_places(
    config: str, method: str, setting: str, values: list[str], takes: str, error: Error
) -> None:
    for value in values:
        message = error(f"--config={config}", f"--method=configs/method/{method}.yaml", f"--{setting}={value}")
        assert message == f"{setting}: is {value!r}. Use {takes}."


@pytest.mark.parametrize(
    ("config", "setting", "takes"),
    [
        (
            QUICKSTART,
            "model.lr_scheduler",
            "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt",
        ),
        (QUICKSTART, f"{METHOD}.ratio", "token, trajectory"),
        (QUICKSTART, f"{METHOD}.aggregation", "token_mean, trajectory_mean, constant"),
        (QUICKSTART, f"{METHOD}.mismatch", "none, token_truncation, sequence_masking"),
        (QUICKSTART, "checkpoint.mode", "min, max"),
        (QUICKSTART, f"{METHOD}.replace_when", "score, incorrect, score_or_incorrect"),
        (QUICKSTART, f"{METHOD}.scoring.level", "step, trajectory"),
        (QUICKSTART, f"{METHOD}.scoring.reading", "sample, mean, argmax"),
        (QUICKSTART, f"{METHOD}.scoring.aggregation", "min, mean, last"),
        (QUICKSTART, f"{TEACHER}.demonstration_thinking", "keep, strip"),
        (QUICKSTART, f"{TEACHER}.judge.init_args.scale", "zero_to_nine, one_to_ten"),
        (QUICKSTART, f"{TEACHER}.judge.init_args.read", "distribution, text"),
        ("configs/math.yaml", f"{TASK}.grading", "strict, qwen"),
        ("configs/web_qa_qwen.yaml", f"{TASK}.correct_when", "em, sub_em, f1"),
        ("configs/quickstart_tools.yaml", f"{ENVIRONMENT}.on_undecodable", "end, tell"),
    ],
)
def test_a_value_that_is_no_choice(config: str, setting: str, takes: str, error: Error) -> None:
    message = error(f"--config={config}", f"--{setting}=none_of_these")
    assert message.startswith(f"{setting}: is none_of_these. It takes one of {takes}.")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("checkpoint.every_n_rounds", 0), (f"{METHOD}.group_size", 0), (f"{METHOD}.dual_clip", 1),
     (f"{METHOD}.kl_coefficient", -0.5), (f"{TASK}.train_size", 0)],
)  # fmt: skip
def test_in_a_file(setting: str, value: float, error: Error, tmp_path: Path) -> None:
    nested: Any = value
    for part in reversed(setting.split(".")):
        nested = {part: nested}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(nested))
    message = error(f"--config={QUICKSTART}", f"--config={tmp_path / 'mine.yaml'}")
    assert message.startswith(f"{setting}: is {value}. Use ")


def test_in_an_object_of_a_mapping(error: Error) -> None:
    benchmarks = f"{{quiz: {{class_path: {TEST_SET}, init_args: {{benchmark: nq, limit: 0}}}}}}"
    message = error("--config=configs/web_qa_qwen.yaml", f"--data.benchmarks={benchmarks}")
    assert message == "data.benchmarks.init_args.limit: is 0. Use 1 or more, or null."


def test_the_kind_of_number_comes_first(error: Error) -> None:
    for wrong in ("many", "2.5", "true", "2.0"):
        message = error(f"--config={QUICKSTART}", f"--checkpoint.every_n_rounds={wrong}")
        assert message == f"checkpoint.every_n_rounds: is {wrong}. It takes a whole number."
    message = error(f"--config={QUICKSTART}", f"--{METHOD}.clip=much")
    assert message == f"{METHOD}.clip: is much. It takes a number or null."
    message = error(f"--config={QUICKSTART}", "--checkpoint.every_n_rounds=null")
    assert message.startswith("checkpoint.every_n_rounds: is not set.")


def test_the_values_are_plain_numbers(parse: Any) -> None:
    """Checkpoints and records hold what a config holds: no type of ours, nor of the parser's."""
    config = parse(
        f"--config={QUICKSTART}", f"--{METHOD}.clip=0.3", f"--{METHOD}.kl_coefficient=1", f"--{METHOD}.group_size=4",
        f"--{METHOD}.dual_clip=null", f"--{METHOD}.mismatch_bound=1.5e0", "--run.progress_every_s=0",
    )  # fmt: skip
    method = config.method.init_args
    for value, plain in (
        (method.clip, 0.3), (method.kl_coefficient, 1.0), (method.group_size, 4), (method.mismatch_bound, 1.5),
        (config.run.progress_every_s, 0.0),
    ):  # fmt: skip
        assert value == plain
        assert type(value) is type(plain)
    assert method.dual_clip is None


class Example:
    """Ranges in every place that an annotation has."""

    def __init__(
        self,
        count: PositiveInt = 1,
        share: HalfOpenUnitInterval = 1,
        counts: list[PositiveInt] | None = None,
        one_or_many: PositiveInt | list[PositiveInt] = 1,
        pair: tuple[NonNegativeInt, PositiveFloat] = (0, 1.0),
        shares: dict[str, HalfOpenUnitInterval] | None = None,
        word_or_count: NonNegativeInt | str = "all",
    ) -> None:
        self.count = count


@pytest.fixture(scope="module")
def example() -> Callable[[str], Any]:
    parser = RunParser(exit_on_error=True)
    parser.add_class_arguments(Example, "it")
    return lambda flag: parser.parse_args([flag])["it"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("counts=[3,0]", "is 0. Use 1 or more."),
        ("counts=[]", None),
        ("one_or_many=0", "is 0. Use 1 or more, or a list."),
        ("one_or_many=[2,-1]", "is -1. Use 1 or more."),
        ("one_or_many=[2,1]", None),
        ("pair=[0,0]", "is 0. Use more than 0."),
        ("pair=[-1,1]", "is -1. Use 0 or more."),
        ("pair=[0,0.5]", None),
        ('shares={"a": 1, "b": 0}', "is 0. Use a value in (0, 1]."),
        ("word_or_count=some", None),
        ("share=1", None),
        ("share=1e-300", None),
        ("share=0.0", "is 0.0. Use a value in (0, 1]."),
        ("count=99999999999999999999", None),
    ],
)
def test_in_lists_mappings_and_unions(
    flag: str, message: str | None, example: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    if message is None:
        example(f"--it.{flag}")
        return
    with pytest.raises((SystemExit, ConfigError)):
        example(f"--it.{flag}")
    assert capsys.readouterr().err == f"error: it.{flag.partition('=')[0]}: {message}\n"


def test_every_type_is_one_of_a_number() -> None:
    """What type checkers see under a name is the kind of number that the parser gives."""
    found = {
        name: kind for name, kind in vars(ranges).items() if isinstance(kind, type) and issubclass(kind, (int, float))
    }
    assert len(found) == 12
    assert all(kind.__name__ == name for name, kind in found.items())
    source = Path(ranges.__file__).read_text()
    assert all(f"    {name} = {kind.__mro__[1].__name__}\n" in source for name, kind in found.items())
