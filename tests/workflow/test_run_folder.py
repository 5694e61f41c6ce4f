"""A folder a run, one folder for all ranks of a launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovd_lightning.errors import ConfigError
from ovd_lightning.run_folder import RunConfig, continue_command, run_folder, set_aside

RANK_VARIABLES = ("LOCAL_RANK", "SLURM_PROCID", "OVD_RUN_DIR", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what the code sets is undone too
        monkeypatch.delenv(name)
    return RunConfig(name="x", root=str(tmp_path))


def test_runs_of_one_second_get_folders_of_their_own(run: RunConfig) -> None:
    assert len({run_folder(run) for _ in range(3)}) == 3


def test_ranks_started_by_lightning_inherit_the_folder(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_folder(run)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_folder(run) == first


def test_ranks_of_torchrun_and_slurm_share_the_job(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ConfigError, match="default_root_dir"):
        run_folder(run)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    assert run_folder(run) == Path(run.root) / "x" / "abc"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../x", "/tmp/x", "a/../../x", "a//b", "a/", "a/.", "~x", "a\0b", "a\nb", "x" * 256]
)
def test_a_name_stays_inside_the_root(name: str, run: RunConfig) -> None:
    run.name = name
    with pytest.raises(ConfigError, match=r"^run\.name: "):
        run_folder(run)
    assert not list(Path(run.root).iterdir())


def test_a_name_may_have_parts(run: RunConfig) -> None:
    run.name = "math θ=7/seed 1"
    assert run_folder(run).parent == Path(run.root) / "math θ=7" / "seed 1"


def test_a_root_that_is_no_folder(run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match=r"run\.root: .*x cannot be written to"):
        run_folder(run)
    run.root = str(tmp_path / "x")
    with pytest.raises(ConfigError, match=r"run\.root: .*cannot be written to"):
        run_folder(run)


def test_what_a_logger_would_overwrite_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for text in ("one", "two"):
        path.write_text(text)
        set_aside(path)
    assert not path.exists()
    assert (tmp_path / "metrics-1.csv").read_text() == "one"
    assert (tmp_path / "metrics-2.csv").read_text() == "two"


def test_the_command_that_continues_a_run(tmp_path: Path) -> None:
    """From its newest checkpoint, in its folder; anew where there is none; None for a program of the user's own."""
    argv = ["/x/ovd_lightning/__main__.py", "fit", "--config", "a b.yaml", "--ckpt_path", "old.ckpt"]
    start = "python -m ovd_lightning fit --config 'a b.yaml' --ckpt_path"
    assert continue_command(tmp_path, argv) == f"{start} old.ckpt --trainer.default_root_dir={tmp_path}"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    assert continue_command(tmp_path, argv) == f"{start}=last --trainer.default_root_dir={tmp_path}"
    assert continue_command(tmp_path, ["train.py"]) is None
