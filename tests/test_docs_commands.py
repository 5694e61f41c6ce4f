"""What the documents name exists: commands, files of the benchmarks, and the targets of links. The commands of the
guides are executed at tiny size, page by page, in a folder with the files that the page shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ovd_lightning import __version__
from tests import warm
from tests.workflow import cli

ROOT = Path(__file__).parents[1]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/reference/*.md",
        "configs/**/*.yaml",
        "benchmarks/**/*",
        "ovd_lightning/**/*",
        "tests/**/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".md", ".py", ".yaml")
}
DOCUMENTS = [name for name in TEXTS if name.endswith(".md")]
GIVEN = [text for name, text in TEXTS.items() if not name.endswith(".py") or name.startswith("benchmarks/")]
MODULES = sorted({m for text in GIVEN for m in re.findall(r"-m\s+((?:benchmarks|ovd_lightning)(?:\.\w+)*)", text)})
"""Of the commands that a reader is given."""


def prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_modules_of_commands_exist() -> None:
    assert len([name for name in MODULES if name.startswith("benchmarks.")]) > 12
    places = {name: ROOT / name.replace(".", "/") for name in MODULES}
    missing = [m for m, p in places.items() if not (p.with_suffix(".py").exists() or (p / "__main__.py").exists())]
    assert not missing


def test_files_of_benchmarks_exist() -> None:
    """Written as paths or as modules, in prose, comments, and code."""
    missing = []
    for place, text in TEXTS.items():
        names = re.findall(r"(?<![\w/.-])benchmarks/[\w/.]*\w", text)
        names += re.findall(r"(?<![\w/.-])benchmarks\.(?:paper|compare|speed|assets)(?:\.\w+)*", text)
        for name in names:
            path = ROOT / (name if "/" in name else name.replace(".", "/"))
            # a folder or file, a module, or what a module defines
            if not any(p.exists() for p in (path, path.with_suffix(".py"), path.parent.with_suffix(".py"))):
                missing.append(f"{place}: {name}")
    assert not missing


@pytest.mark.slow
def test_commands_answer_help() -> None:
    for name in MODULES:
        done = cli.run("--help", module=name)
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        assert "usage:" in done.stdout, name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name: str) -> None:
    """To files and headings of this repository; the web is left out."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(TEXTS[name])):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (ROOT / name).parent / file if file else ROOT / name
        if not place.exists() or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            broken.append(target)
    assert not broken


def anchors(text: str) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.+?)\s*$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


# ------------------------------------------------------------------------------------------ commands of the guides

GUIDES = ("README", "start", "commands", "notebook", "data", "reward", "teacher", "one_gpu", "lora", "eight_gpus",
          "reading", "student")  # fmt: skip
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = """
engine: {class_path: ovd_lightning.engines.hf.HFEngine}
data: {rounds: 1, problems_per_round: 4, validation_limit: 2, test_limit: 2}
benchmark: {samples: 0}
method:
  init_args:
    teacher:
      init_args:
        engine: {class_path: ovd_lightning.engines.hf.HFEngine, init_args: {model: ovd_lightning/assets/teacher}}
"""
COMMANDS = ("ovd-lightning", "python -m ovd_lightning")
FIT = ("fit", "validate", "test", "predict")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def page(name: str) -> str:
    return TEXTS["README.md" if name == "README" else f"docs/{name}.md"]


def blocks(name: str) -> list[tuple[str, str, str]]:
    """(language, file that the block is, text) of a page's fenced blocks, in order."""
    return FENCE.findall(page(name))


def lines(block: str) -> list[str]:
    """The commands of a block of bash, each on a line of its own."""
    joined = re.sub(r"\\\n\s*", " ", block).splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def executed(block: str) -> bool:
    """Not so what is marked by its first line, "# needs a GPU"."""
    return not block.startswith("# needs")


def words_of(line: str) -> list[str]:
    """Of a command of this project, ``fit`` first; nothing for another command."""
    words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
    for command in COMMANDS:
        if words[: len(command.split())] == command.split():
            return words[len(command.split()) :]
    return []


OTHERS = [path.stem for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in GUIDES]
PARSED = [line for name in (*GUIDES, *OTHERS) for kind, _, block in blocks(name) if kind == "bash"
          for line in lines(block) if name in OTHERS or not executed(block)]  # fmt: skip
"""What is not executed: marked in the guides, and all of the other pages."""


@pytest.mark.parametrize("line", [line for line in PARSED if words_of(line)[:1] == ["fit"] and "…" not in line])
def test_commands_that_need_more_are_parsed(line: str, tmp_path: Path) -> None:
    done = cli.run(*words_of(line), "--print_config", f"--trainer.default_root_dir={tmp_path}", OPENAI_API_KEY="none")
    assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("name", GUIDES)
def test_other_commands_exist(name: str) -> None:
    """Targets of make, extras of the package, and nothing else that is not known here."""
    for line in (line for kind, _, block in blocks(name) if kind == "bash" for line in lines(block)):
        words = shlex.split(line, comments=True)
        for extra in re.findall(r"ovd-lightning\[(\w[\w-]*)\]", line):
            assert extra in EXTRAS
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif not words_of(line):
            first = next(word for word in words if not re.match(r"[A-Z_]+=", word))
            assert first in ("pip", "vllm", "export", "source", "lm_eval", "lighteval") or words[:2] == [
                "python",
                "-m",
            ], line


def start(module: str, args: list[str], folder: Path, env: dict[str, str]) -> cli.Process:
    if warm.possible() and warm.server().serves(env):
        return warm.Process(module, args, folder, env)
    return subprocess.Popen([sys.executable, "-m", module, *args], cwd=folder, env=env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def run_page(name: str, folder: Path) -> list[str]:
    """Its commands, in order, in a folder where ``quickstart`` is tiny. Returns those that were executed."""
    for file in ("quickstart", "quickstart.yaml"):
        (folder / file).write_text(f"base: {ROOT}/configs/quickstart.yaml\n{TINY}")
    env = cli.environment(WANDB_MODE="offline")
    done = []
    for kind, title, block in blocks(name):
        if title:
            (folder / title).write_text(block)
        if kind == "python" and not title:
            small = re.sub(r'"data.rounds": \d+', '"data.rounds": 1', block)
            ended = subprocess.run([sys.executable, "-c", small], cwd=folder, env=env, capture_output=True, text=True,
                                   timeout=600)  # fmt: skip
            assert ended.returncode == 0, f"{name}: {block}{ended.stderr[-2000:]}"
        for line in lines(block) if kind == "bash" and executed(block) else []:
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"] and words[2] in ("ovd_lightning.report", "ovd_lightning.sweep"):
                module, args = words[2], words[3:]
                args += ["--dry_run"] if "sweeps/threshold" in args and "--dry_run" not in args else []
            elif words_of(line) and words_of(line)[0] != "--print_completion":
                module, args = "ovd_lightning", words_of(line)
                args = [
                    "2" if before == "--data.rounds" else word for before, word in zip(["", *args], args, strict=False)
                ]
            else:
                continue
            process = start(module, args, folder, env)
            out, err = process.communicate()
            assert process.returncode == 0, f"{name}: {line}\n{out[-1500:]}{err[-3000:]}"
            if args[:3] == ["configs", "copy", "quickstart"]:
                copy = folder / args[3]
                assert copy.read_text().startswith((ROOT / "configs/quickstart.yaml").read_text()[:200])
                copy.write_text((folder / "quickstart").read_text())  # the tiny one goes on under its name
            done.append(line)
    return done


@pytest.mark.slow
@pytest.mark.cpu_limit(900)
@pytest.mark.parametrize("name", GUIDES)
def test_commands_of_a_page_run(name: str, tmp_path: Path) -> None:
    """Every one that is not marked as needing a GPU, a key, a server or the network."""
    done = run_page(name, tmp_path)
    if name == "reading":
        missing = logged(next((tmp_path / "runs/first").glob("metrics.csv"))) - described()
        assert not missing, f"docs/troubleshooting.md has no line on {sorted(missing)}"
    assert len(done) >= {
        "README": 6,
        "start": 6,
        "commands": 14,
        "data": 4,
        "reward": 1,
        "reading": 2,
        "student": 2,
    }.get(name, 0)


def logged(file: Path) -> set[str]:
    return set(file.read_text().partition("\n")[0].split(","))


def described() -> set[str]:
    """The metrics of a quickstart that the tables of troubleshooting name; "…" is a benchmark, <x> is any word."""
    known = set(re.findall(r"`([\w/<>@…]+)`", page("troubleshooting")))
    for name in list(known):
        for split in ("eval", "test"):
            full = name.replace("…", f"{split}/arithmetic").replace("<benchmark>", "arithmetic").replace("<k>", "1")
            known |= {full.replace("<digit>", str(digit)) for digit in range(10)}
            reasons = ("end_of_sequence", "stop_text", "token_limit", "turn_limit", "error")
            known |= {full.replace("<reason>", reason) for reason in reasons}
    return known


def test_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_versions_agree() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## [{__version__}]" in TEXTS["CHANGELOG.md"]


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path / "site"],
                          cwd=ROOT, capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site/reference/methods/index.html").read_text()
    assert "theta of eq. 5" in reference
    assert "http://" not in re.sub(r"http://(localhost|www.w3.org|gpu-1)", "", reference)
