"""Every shipped tool environment can be given to a task, and is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ovd_lightning.settings.merging import objects_replace
from ovd_lightning.settings.parser import RunParser
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.tasks.tools import ToolEnvironment
from ovd_lightning.tools.base import Sandbox
from ovd_lightning.tools.calls import hermes_system
from tests.chat_model import TEMPLATE
from tests.workflow.cli import ROOT
from tests.workflow.test_configs import flat, parse

FOLDER = ROOT / "configs" / "tools"
SANDBOXES = sorted(p for p in FOLDER.glob("*.yaml") if p.stem != "chat")
CHAT = FOLDER / "chat.yaml"


def environment(*paths: Path) -> ToolEnvironment:
    parser = RunParser()
    parser.add_subclass_arguments(Environment, "environment")
    objects_replace(parser)
    built = parser.instantiate(parser.parse_args([f"--environment={path}" for path in paths])).environment
    assert isinstance(built, ToolEnvironment)
    return built


def test_there_is_one_for_each_sandbox_and_one_for_chat_models() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"local", "remote", "chat"}


@pytest.mark.parametrize("path", SANDBOXES, ids=lambda path: path.stem)
def test_a_config_makes_an_environment(path: Path) -> None:
    built = environment(path)
    assert isinstance(built.sandbox, Sandbox)
    assert (built.max_turns, built.result_characters) == (15, 256)


@pytest.mark.parametrize("path", SANDBOXES, ids=lambda path: path.stem)
def test_a_chat_models_glue_is_that_of_its_template(path: Path) -> None:
    """A call, its result and the next turn read as the template writes them."""
    import jinja2

    built = environment(path, CHAT)
    assert type(built.sandbox) is type(environment(path).sandbox)
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "<tool_call>{}</tool_call>"},
        {"role": "user", "content": "<tool_response>\n7\n</tool_response>"},
    ]  # fmt: skip
    written = jinja2.Template(TEMPLATE).render(messages=messages, add_generation_prompt=True)
    assert written.endswith("<tool_call>{}</tool_call>" + built.observation_prefix + "7" + built.observation_suffix)


@pytest.mark.parametrize("path", SANDBOXES, ids=lambda path: path.stem)
def test_a_task_takes_it_on_the_command_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(
        monkeypatch, "--config=configs/math.yaml", f"--task.init_args.environment={path}",
        f"--task.init_args.environment={CHAT}", "--task.init_args.environment.init_args.sandbox.init_args.time_s=5",
    )  # fmt: skip
    chosen = config.task.init_args.environment.init_args
    assert chosen.sandbox.class_path == yaml.safe_load(path.read_text())["init_args"]["sandbox"]["class_path"]
    assert chosen.sandbox.init_args.time_s == 5
    assert chosen.observation_prefix.startswith("<|im_end|>")


def test_mathematics_with_the_interpreter_is_sod_at_its_papers_size(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(monkeypatch, "--config=configs/math_tools.yaml")
    method, task = config.method.init_args, config.task.init_args
    suite, tools = config.data.benchmarks.init_args, config.task.init_args.environment.init_args
    assert config.method.class_path.endswith("SOD")
    assert (config.data.problems_per_round, method.group_size, config.data.mini_batches) == (64, 16, 4)
    assert (config.model.learning_rate, config.rollout.temperature) == (1e-6, 1.0)
    assert (method.distillation, method.delta, method.clip, method.clip_high, method.dual_clip) == (
        1,
        0.2,
        0.2,
        0.28,
        3,
    )
    assert (tools.max_turns, tools.result_characters, tools.on_undecodable) == (15, 256, "end")
    assert (tools.sandbox.init_args.time_s, tools.sandbox.init_args.memory_mb) == (60, 2048)
    assert (config.benchmark.samples, config.benchmark.temperature, config.benchmark.top_p) == (32, 1.0, 0.6)
    assert config.benchmark.greedy is False
    instruction, _, _ = task.system.partition("\n\n# Tools")
    assert task.system == suite.system == hermes_system(instruction)
    assert "\\boxed{}" in instruction
    assert flat(task.environment) == flat(suite.environment)  # evaluated as it is trained
    built = environment(FOLDER / "local.yaml", CHAT)
    assert (tools.observation_prefix, tools.observation_suffix) == (built.observation_prefix, built.observation_suffix)
    assert config.rollout.chat is True
    assert config.benchmark.rejection is None
    remaining = 256 / config.trainer.accumulate_grad_batches
    assert remaining == int(remaining)


def test_its_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the config.json of student and teacher and no weight; nothing is loaded, no program is run."""
    from transformers import Qwen3Config

    from ovd_lightning.dry_run.assumptions import Assumptions
    from ovd_lightning.dry_run.command import plan_of
    from ovd_lightning.dry_run.render import as_json

    for name, hidden, inner, layers, heads in (("1.7B", 2048, 6144, 28, 16), ("4B", 2560, 9728, 36, 32)):
        Qwen3Config(
            vocab_size=151936, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
            tie_word_embeddings=True, architectures=["Qwen3ForCausalLM"],
        ).save_pretrained(tmp_path / name)  # fmt: skip
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = [
        "--config=configs/math_tools.yaml", f"--model.student={tmp_path / '1.7B'}",
        f"--method.init_args.teacher.init_args.model={tmp_path / '4B'}",
    ]  # fmt: skip
    plan = as_json(plan_of(given, Assumptions(), 80.0))
    assert 1.6e9 < plan["shapes"]["model.student"]["parameters"] < 1.8e9
    assert any("environment" in note for note in plan["notes"])
    assert plan["fits"]
