"""The package's files are found by name from any folder, and never instead of the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ovd_lightning.packaged import CONFIGS, PACKAGE, config_named, listing, object_named, packaged, resolved
from ovd_lightning.settings.parser import in_place

TEACHER = "ovd_lightning/assets/teacher"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["method/grpo", "method/grpo.yaml", "../method/grpo.yaml", "configs/method/grpo.yaml"])
def test_a_config_by_its_name(name: str) -> None:
    assert config_named(name) == CONFIGS / "method/grpo.yaml"


@pytest.mark.parametrize("name", ["grpo", "", ".", "../pyproject", "method", "quickstart.yml", "/etc/passwd"])
def test_no_config(name: str) -> None:
    assert config_named(name) is None


def test_every_config_says_what_it_is() -> None:
    """A sentence, also where its comment breaks the line, or goes on."""
    said = dict(listing())
    assert all(len(line) > 20 and not line.endswith(":yaml") for line in said.values())
    assert said["method/dr_grpo"].endswith("no KL.")
    assert said["web/search_r1_bm25"] == "search_r1.yaml with a local corpus instead of a server"
    assert said["math_rlvr"].endswith("otherwise as math_one_example.yaml.")
    assert said["overlays/cpu"].endswith("at a size that takes minutes.")
    assert "python -m" not in "".join(said.values())


def test_a_file_of_the_package(elsewhere: Path) -> None:
    assert packaged(TEACHER) == str(PACKAGE / "assets/teacher")
    assert packaged("ovd_lightning/assets/none") == "ovd_lightning/assets/none"
    (elsewhere / TEACHER).mkdir(parents=True)
    assert packaged(TEACHER) == TEACHER  # what is here comes first


def test_an_object_by_its_name(elsewhere: Path) -> None:
    assert object_named("method", "grpo") == CONFIGS / "method/grpo.yaml"
    assert object_named("method.init_args.teacher", "hosted") == CONFIGS / "teacher/hosted.yaml"
    assert object_named("run.name", "quickstart") is None
    assert object_named("trainer.strategy", "fsdp2") is None  # that file is an overlay, not a strategy
    (elsewhere / "grpo").mkdir()
    assert object_named("method", "grpo") is None


def test_a_file_of_the_user_that_names_files_of_the_package(elsewhere: Path) -> None:
    """It is replaced by what is in it; files that do not name any stay names."""
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine/method.yaml").write_text("class_path: A\ninit_args:\n  teacher: ../teacher/quickstart.yaml\n")
    (elsewhere / "mine/rubric.yaml").write_text("criteria: []\n")
    given = {"method": "method.yaml", "rubric": "rubric.yaml", "text": "no.yaml", "n": [1, {"model": TEACHER}]}
    found = resolved(given, elsewhere / "mine")
    assert found["method"]["init_args"]["teacher"]["init_args"]["engine"]["init_args"]["model"].startswith(str(PACKAGE))
    assert (found["rubric"], found["text"]) == ("rubric.yaml", "no.yaml")
    assert found["n"] == [1, {"model": str(PACKAGE / "assets/teacher")}]


def test_in_a_checkout_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    given = {"method": "method/ovd.yaml", "engine": "engine/hf.yaml", "student": "ovd_lightning/assets/student"}
    assert resolved(given, CONFIGS) == given


def test_a_command_line(elsewhere: Path) -> None:
    words = ["fit", "--config", "quickstart", "--run.name=quickstart", "--method", "grpo", f"--model.student={TEACHER}"]
    placed = in_place([*words, "--trainer.logger", "false"])
    assert placed[:4] == words[:4]
    assert placed[4:6] == ["--method", str(CONFIGS / "method/grpo.yaml")]
    assert placed[6:] == [f"--model.student={PACKAGE}/assets/teacher", "--trainer.logger", "false"]


def test_the_current_folder_is_importable(tmp_path: Path) -> None:
    """However it is started: as a script, Python puts the script's folder on the path instead."""
    (tmp_path / "mine.py").write_text("")
    code = (
        "import sys; sys.path = [p for p in sys.path if p]; sys.argv = ['ovd-lightning', 'no_command']\n"
        "from ovd_lightning.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\nimport mine"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
