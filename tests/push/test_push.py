"""A student on a hub of this machine, by the client's own requests: what was committed, its card, and that it loads."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from ovd_lightning.errors import ConfigError
from ovd_lightning.push import prepare
from ovd_lightning.push.command import main
from tests import hub
from tests.workflow import cli

BASE = cli.ROOT / "ovd_lightning/assets/student"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push") / "run"
    cli.fit(folder, *cli.HF, "--run.wandb=disabled")
    return folder


def on_hub(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command with the hub of a folder, and the token of one who may write to it."""
    folder.mkdir(exist_ok=True)
    environment = {k: v for k, v in cli.environment().items() if not k.startswith("HF_")}
    environment |= {"HF_TOKEN": hub.WRITER, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder.parent / "home"), **env}
    return subprocess.run(
        [sys.executable, "-m", "tests.hub", str(folder), sys.executable, *command], cwd=cli.ROOT, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def push(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return on_hub(folder, "-m", "ovd_lightning", "push", *args, **env)


LOADED = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
here, there = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in ({run!r}, "me/quick"))
assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
a, b = (AutoTokenizer.from_pretrained(place) for place in ({run!r}, "me/quick"))
assert a.get_vocab() == b.get_vocab() and a("12+34-5=?") == b("12+34-5=?")
"""


@pytest.mark.slow
def test_a_student_goes_to_the_hub_and_loads_from_there(run: Path, tmp_path: Path) -> None:
    done = push(tmp_path / "hub", str(run), "me/quick", "--private")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"http://127.0.0.1:\d+/me/quick/commit/\w{40}\n", done.stdout)
    assert (tmp_path / "hub/.stored/visibility-quick").read_text() == "private"

    there = tmp_path / "hub/me/quick"
    for file in (run / "student").iterdir():
        assert (there / file.name).read_bytes() == file.read_bytes()
    for name in ("config.yaml", "provenance.yaml", "metrics.csv"):
        assert (there / "run" / name).read_bytes() == (run / name).read_bytes()
    assert (there / "curves.png").read_bytes().startswith(b"\x89PNG")

    card = ModelCard.load(there / "README.md")
    last = [row for row in cli.metrics(run) if "test/arithmetic/accuracy" in row][-1]
    (accuracy, sampled) = card.data.eval_results
    assert accuracy.metric_value == round(last["test/arithmetic/accuracy"], 4)
    assert (sampled.metric_name, card.data.model_name) == ("arithmetic, test, sampled accuracy", "quick")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert card.data.base_model is None  # a folder of this machine is none of the hub
    assert card.data.tags == ["ovd-lightning", "distillation", "ovd"]
    assert "Trained from `ovd_lightning/assets/student` on `ArithmeticTask`" in card.text
    assert "ovd-lightning fit --config=configs/quickstart.yaml" in card.text
    links = re.findall(r"\]\(([^):]+)\)", card.text)
    assert len(links) == 4
    assert all((there / link).is_file() for link in links)

    loaded = on_hub(tmp_path / "hub", "-c", LOADED.format(run=str(run / "student")))
    assert loaded.returncode == 0, loaded.stderr
    (program,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    printed = on_hub(tmp_path / "hub", "-c", program.replace('"..."', r'"12+34-5=?\n"'))
    assert printed.returncode == 0, printed.stderr
    assert "=" in printed.stdout

    # A second one: weights that an earlier push left would be loaded in place of these, or beside them.
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "mine.txt"):
        (there / name).write_text("{}")
    again = push(tmp_path / "hub", str(run / "student"), "me/quick", "--license", "mit")
    assert again.returncode == 0, again.stderr
    left = {path.name for path in there.iterdir()}
    assert not left & {"model-00001-of-00002.safetensors", "model.safetensors.index.json"}
    assert {"mine.txt", "model.safetensors"} <= left
    assert ModelCard.load(there / "README.md").data.license == "mit"


def test_by_xet(run: Path, tmp_path: Path) -> None:
    """The way that large files take by default: into a storage that knows pieces, the repository gets pointers."""
    pytest.importorskip("hf_xet")
    done = push(tmp_path / "hub", str(run), "me/quick", HF_HUB_DISABLE_XET="0")
    assert done.returncode == 0, done.stderr
    weights = (run / "student/model.safetensors").read_bytes()
    pointer = hub.POINTER.format(oid=hashlib.sha256(weights).hexdigest(), size=len(weights))
    assert (tmp_path / "hub/me/quick/model.safetensors").read_text() == pointer
    stored = sum(path.stat().st_size for path in (tmp_path / "hub/.stored/xet").rglob("*") if path.is_file())
    assert stored > len(weights) / 2  # they are compressed there


def test_who_may_not_write(run: Path, tmp_path: Path) -> None:
    student = str(run / "student")
    for repo, token, told in (
        ("me/quick", "hf_wrong", "refuses to write to me/quick"),
        ("you/quick", hub.WRITER, "refuses to write to you/quick"),
        ("me/quick", "", "hf auth login"),
    ):
        done = push(tmp_path / "hub", student, repo, HF_TOKEN=token)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "hub/me").exists()


def test_a_hub_that_is_not_there(run: Path, tmp_path: Path) -> None:
    env = {**cli.environment(), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x"}
    done = subprocess.run([*cli.command("push", str(run), "me/quick")], cwd=cli.ROOT, env=env, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "refused" in done.stderr


def test_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    """The command's own environment is offline and has no token."""
    done = cli.run("push", str(tmp_path), "quick", HOME=str(tmp_path), HF_HOME=str(tmp_path))
    assert done.returncode == 2
    for told in ("no config.json", "ENTITY/NAME", "HF_HUB_OFFLINE", "hf auth login"):
        assert told in done.stderr


@pytest.mark.parametrize(
    ("repo", "told"),
    [("quick", "has no owner"), ("me/a--b", "is no name on the hub"), ("me/x.git", "is no name"), ("a/b/c", "no name")],
)
def test_names(repo: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        prepare(BASE, repo, offline=True)


def test_a_run_without_a_student(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    with pytest.raises(ConfigError, match=r"holds no student.*summary.export"):
        prepare(tmp_path, "me/x", offline=True)
    with pytest.raises(ConfigError, match="is no folder"):
        prepare(tmp_path / "none", "me/x", offline=True)


def copied(run: Path, target: Path, **changes: object) -> Path:
    """A run's record with other settings."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("checkpoints", "transcripts", "wandb"))
    config = yaml.safe_load((target / "config.yaml").read_text())
    for name, value in changes.items():
        section, _, key = name.partition("__")
        config[section][key] = value
    (target / "config.yaml").write_text(yaml.safe_dump(config))
    return target


def test_licence_of_a_base_on_this_machine(run: Path, tmp_path: Path) -> None:
    """With its text, and the link that goes with a licence without a short name."""
    base = shutil.copytree(BASE, tmp_path / "base")
    keys = "license: other\nlicense_name: own-1\nlicense_link: https://example.org/own\n"
    (base / "README.md").write_text(f"---\n{keys}---\n")
    (base / "LICENSE.txt").write_text("terms")
    upload = prepare(copied(run, tmp_path / "run", model__student=str(base)), "me/x", offline=True)
    card = ModelCard(upload.card)
    assert (card.data.license, card.data.license_name) == ("other", "own-1")
    assert "own-1 (https://example.org/own), as the initial student." in upload.card
    assert "Trained from `base` on" in upload.card  # no folder of this machine
    assert str(tmp_path) not in upload.card
    assert upload.files["LICENSE.txt"] == base / "LICENSE.txt"
    assert upload.notes == []


def test_base_and_data_of_the_hub(run: Path, tmp_path: Path) -> None:
    task = {"class_path": "ovd_lightning.tasks.math.MathTask", "init_args": {"data": "openai/gsm8k"}}
    tasks = {"a": task, "b": {"init_args": {"data": "b.csv"}}}
    folder = copied(run, tmp_path / "run", model__student="Qwen/Qwen2.5-0.5B", rollout__chat=True,
                    task__class_path="x.MixtureTask", task__init_args={"tasks": tasks})  # fmt: skip
    upload = prepare(folder, "me/x", offline=True)
    card = ModelCard(upload.card)
    assert (card.data.base_model, card.data.datasets) == ("Qwen/Qwen2.5-0.5B", ["openai/gsm8k"])
    assert card.data.license is None
    assert "Not known" in upload.card
    assert "--license" in upload.notes[0]
    assert "apply_chat_template(messages" in upload.card


def test_a_student_without_its_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = shutil.copytree(run / "student", tmp_path / "elsewhere/student")
    assert main([str(student), "me/x", "--dry_run", "--license", "mit"]) == 0
    shown, notes = capsys.readouterr()
    assert re.search(r"[\d,]+ bytes  model.safetensors\n", shown)
    assert "## Results" not in shown
    assert "## Training" not in shown
    assert "about the weights alone" in notes
    assert ModelCard(shown[shown.index("---") :]).data.license == "mit"


def test_the_card_cites_who_is_to_be_cited(run: Path) -> None:
    cited = yaml.safe_load((cli.ROOT / "CITATION.cff").read_text())["references"][0]
    text = prepare(run, "me/x", offline=True).card
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in cited["authors"])
    assert f"author = {{{authors}}}" in text
    assert cited["title"] in text


# ------------------------------------------------------------------ an adapter


@pytest.fixture(scope="module")
def adapted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder whose student has an adapter, as an export writes it."""
    pytest.importorskip("peft")
    from ovd_lightning.lora import ADAPTER, LoRA
    from ovd_lightning.student import Student

    folder = copied(run, tmp_path_factory.mktemp("adapted") / "run", model__lora={"r": 64, "quantize": "4bit"})
    adapter = Student(str(BASE), lora=LoRA(r=64)).adapter
    assert adapter is not None
    adapter.save(folder / "student" / ADAPTER, adapter.state())
    return folder


def test_an_adapter_of_a_base_on_the_hub(adapted: Path, tmp_path: Path) -> None:
    folder = copied(adapted, tmp_path / "run", model__student="Qwen/Qwen2.5-0.5B")
    upload = prepare(folder, "me/x", offline=True, adapter=True)
    settings = json.loads(bytes(upload.files["adapter_config.json"]))  # type: ignore[arg-type]
    assert settings["base_model_name_or_path"] == "Qwen/Qwen2.5-0.5B"
    assert str(tmp_path) not in upload.card + str(settings)
    assert not {"model.safetensors", "config.json", "tokenizer.json"} & {*upload.files}
    card = ModelCard(upload.card)
    assert (card.data.library_name, card.data.base_model) == ("peft", "Qwen/Qwen2.5-0.5B")
    assert "--enable-lora --max-lora-rank 64 --lora-modules student=me/x`" in upload.card
    assert "| base while training | 4bit |" in upload.card
    assert upload.what == "Adapter"
    # the student as a whole goes as before
    whole = prepare(folder, "me/x", offline=True)
    assert "adapter_config.json" not in whole.files
    assert ModelCard(whole.card).data.library_name == "transformers"
    # without its run, what peft recorded is all there is
    alone = shutil.copytree(folder / "student", tmp_path / "elsewhere/student")
    with pytest.raises(ConfigError, match=r"a folder of this machine.*--base ENTITY/NAME"):
        prepare(alone, "me/x", offline=True, adapter=True)
    recorded = alone / "adapter/adapter_config.json"
    recorded.write_text(json.dumps({**json.loads(recorded.read_text()), "base_model_name_or_path": "them/base"}))
    assert ModelCard(prepare(alone, "me/x", offline=True, adapter=True).card).data.base_model == "them/base"


def test_an_adapter_that_cannot_go(adapted: Path, run: Path, tmp_path: Path) -> None:
    for folder, base, told in (
        (adapted, None, r"trained over .*assets/student, a folder of this machine.*--base ENTITY/NAME"),
        (adapted, "ovd_lightning/assets", "is no id of the hub"),
        (adapted, "./student", "is no id of the hub"),
        (run, "them/base", "holds no adapter.*model.lora"),
    ):
        with pytest.raises(ConfigError, match=told) as error:
            prepare(folder, "me/x", offline=True, adapter=True, base=base)
        assert "\n" not in str(error.value)
    with pytest.raises(SystemExit):
        main([str(adapted), "me/x", "--base", "them/base"])


def test_another_model_than_the_base_is_noticed(adapted: Path, tmp_path: Path) -> None:
    (tmp_path / "hub/them/other").mkdir(parents=True)
    other = {**json.loads((BASE / "config.json").read_text()), "hidden_size": 8}
    (tmp_path / "hub/them/other/config.json").write_text(json.dumps(other))
    calls = [[str(adapted), "me/x", "--adapter", "--base", base] for base in ("them/other", "them/none")]
    program = f"from ovd_lightning.push.command import main; print([main(call) for call in {calls}])"
    done = on_hub(tmp_path / "hub", "-c", program)
    assert done.stdout == "[2, 2]\n", done.stderr
    assert "them/other has hidden_size 8, and the student 96" in done.stderr
    assert "the hub has no them/none with a config.json" in done.stderr
    assert done.stderr.count("\n") == 2
    assert not (tmp_path / "hub/me").exists()
