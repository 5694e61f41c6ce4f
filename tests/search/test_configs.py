"""Every shipped search environment can be given to a task, and is what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from ovd_lightning.search.base import SearchEngine
from ovd_lightning.search.simulated import SimulatedSearch
from ovd_lightning.tasks.environment import Environment
from ovd_lightning.tasks.search import SearchEnvironment
from tests.search.parts import Server, query
from tests.search.test_simulated import writes
from tests.workflow.test_configs import parse

FOLDER = Path(__file__).parents[2] / "configs" / "search"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


def environment(path: Path, *overrides: str) -> SearchEnvironment:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Environment, "environment")
    config = parser.parse_args([f"--environment={path}", *overrides])
    built = parser.instantiate(config).environment
    assert isinstance(built, SearchEnvironment)
    return built


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_makes_an_environment(path: Path) -> None:
    built = environment(path)
    assert isinstance(built.search, SearchEngine)
    assert built.tells_answer == (path.stem == "simulated")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_task_takes_it_on_the_command_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = yaml.safe_load(path.read_text())["init_args"]["search"]
    inside = "search" in file["init_args"]  # one engine around another
    search = "--task.init_args.environment.init_args.search.init_args" + (".search.init_args" if inside else "")
    config = parse(
        monkeypatch, "--config=configs/quickstart_web.yaml", f"--task.init_args.environment={path}",
        f"{search}.corpus=mine.jsonl" if path.stem == "bm25" else f"{search}.cache=found.sqlite",
    )  # fmt: skip
    chosen = config.task.init_args.environment.init_args.search
    assert chosen.class_path == file["class_path"]
    chosen = chosen.init_args.search if inside else chosen
    assert {chosen.init_args.get("cache"), chosen.init_args.get("corpus")} & {"found.sqlite", "mine.jsonl"}


def test_there_is_one_for_each_engine_and_each_agent() -> None:
    assert {path.stem for path in CONFIGS} == {"api", "bm25", "http", "simulated", "ra_agent", "search_o1"}


def test_the_published_models_get_the_form_they_were_tuned_on(serve: Callable[..., Server]) -> None:
    server = serve(writes)
    engine = "--environment.init_args.search.init_args.engine.init_args"
    overrides = [f"{engine}.base_url={server.url}/v1", f"{engine}.model=m", f"{engine}.vllm_extensions=false"]
    search = environment(FOLDER / "simulated.yaml", *overrides).search
    assert isinstance(search, SimulatedSearch)
    search.check()
    (result,) = search.search([query("old bridge")], 5)
    assert result.error is None
    messages = server.bodies[0]["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    lines = messages[1]["content"].splitlines()
    assert lines[0] == "You are the Google search engine."
    assert lines[1] == "Given a query, you need to generate five useful documents for the query."
    assert lines[3].endswith('Ostrava bridge from?" whose answer is Telsa.')
    assert lines[-2:] == ["Query: old bridge", "Useful Output:"]
