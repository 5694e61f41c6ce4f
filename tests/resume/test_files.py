"""Finding a checkpoint, reading it byte by byte, and a folder that goes back to it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from ovd_lightning.errors import ConfigError
from ovd_lightning.metrics_file import MetricsLogger, history, read_rows
from ovd_lightning.resume.damage import damage, read
from ovd_lightning.resume.find import RANKS, check_intact, find
from ovd_lightning.resume.rewind import rewind


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", RANKS):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone too
        monkeypatch.delenv(name)


def save(path: Path, step: int = 2, when: int | None = None, **more: object) -> Path:
    """A checkpoint; ``when`` it was written, in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"w": torch.arange(2000.0)}
    torch.save({"global_step": step, "loops": {}, "state_dict": weights, **more}, path)
    if when is not None:
        os.utime(path, (when, when))
    return path


def shards(folder: Path) -> Path:
    from torch.distributed.checkpoint import FileSystemWriter
    from torch.distributed.checkpoint import save as save_shards

    save_shards({"w": torch.arange(3000.0), "v": torch.ones(7)}, storage_writer=FileSystemWriter(folder), no_dist=True)
    torch.save({"global_step": 2, "loops": {}}, folder / "meta.pt")
    return folder


# --- whole ------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_tensor_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt")
    assert damage(path) is None
    good, draw = path.read_bytes(), random.Random(0)
    for _ in range(40):
        data = bytearray(good)
        data[draw.randrange(len(data) // 4, len(data) // 2)] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        torch.load(path)  # notices nothing
        assert "is damaged" in str(damage(path))


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_truncated_file_is_found(share: float, tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert damage(path) in ("is empty", "is truncated, or no checkpoint")


def test_a_sharded_checkpoint_is_looked_at_as_well(tmp_path: Path) -> None:
    folder = shards(tmp_path / "last.ckpt")
    assert damage(folder) is None
    (part,) = folder.glob("*.distcp")
    good = part.read_bytes()
    part.write_bytes(good[: len(good) // 2])
    assert "truncated" in str(damage(folder))
    data = bytearray(good)
    data[len(data) // 2] ^= 4
    part.write_bytes(data)
    assert "damaged" in str(damage(folder))
    part.unlink()
    assert "missing" in str(damage(folder))


def test_the_newest_whole_checkpoint_is_named(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path / f"checkpoints/step-{step:06d}.ckpt", step, when=step)
    last = save(tmp_path / "checkpoints/last.ckpt", when=9)
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"last.ckpt is truncated.*newest intact one is .*step-000004.ckpt"):
        check_intact(last)


def test_a_checkpoint_with_code_is_not_trusted_unasked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", parts=tmp_path)
    with pytest.raises(ConfigError, match="--weights_only false"):
        read(path)
    assert read(path, weights_only=False)["parts"] == tmp_path


# --- find -------------------------------------------------------------------------------------------------------


def test_last_is_the_newest_checkpoint_of_the_newest_run(tmp_path: Path) -> None:
    """The run that was trained last, whichever began last; last.ckpt before its step's own, unless that is newer."""
    save(tmp_path / "b/checkpoints/last.ckpt", when=10)
    save(tmp_path / "a/checkpoints/step-000004.ckpt", when=20)
    last = save(tmp_path / "a/checkpoints/last.ckpt", when=20)
    (tmp_path / "c/checkpoints").mkdir(parents=True)  # begun, nothing saved
    assert find("last", runs=tmp_path, folder=None, fitting=True) == last
    newer = save(tmp_path / "a/checkpoints/step-000006.ckpt", when=21)
    assert find("last", runs=tmp_path, folder=None, fitting=True) == newer
    assert find("last", runs=tmp_path, folder=tmp_path / "b", fitting=True).parts[-3] == "b"


def test_an_evaluations_folder_need_not_hold_the_checkpoint(tmp_path: Path) -> None:
    last = save(tmp_path / "runs/a/checkpoints/last.ckpt")
    assert find("last", runs=tmp_path / "runs", folder=tmp_path / "out", fitting=False) == last
    with pytest.raises(ConfigError, match=r"there is no checkpoint in .*out/checkpoints"):
        find("last", runs=tmp_path / "runs", folder=tmp_path / "out", fitting=True)


def test_ranks_that_lightning_starts_mean_their_parents_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(tmp_path / "a/checkpoints/last.ckpt", when=10)
    assert find("last", runs=tmp_path, folder=None, fitting=True) == first
    save(tmp_path / "b/checkpoints/last.ckpt", when=20)  # of another run, in the meantime
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find("last", runs=tmp_path, folder=None, fitting=True) == first


def test_a_path_that_is_no_checkpoint_is_refused_with_one_that_is(tmp_path: Path) -> None:
    last = save(tmp_path / "a/checkpoints/last.ckpt")
    for path, problem in (
        (tmp_path / "a", "is a folder"),
        (tmp_path / "a/checkpoints", "is a folder"),
        (tmp_path / "a/checkpoints/lost.ckpt", "is not there"),
    ):
        with pytest.raises(ConfigError, match=problem) as error:
            find(str(path), runs=tmp_path, folder=None, fitting=True)
        assert str(last) in error.value.hint


def test_best_is_the_runs_best(tmp_path: Path) -> None:
    best = save(tmp_path / "a/checkpoints/step-000004.ckpt", when=1)
    for monitor in (None, "eval/x/accuracy"):
        state = {
            "RoundCheckpoint": {"monitor": monitor, "best_model_path": "/moved/since/checkpoints/step-000004.ckpt"}
        }
        save(tmp_path / "a/checkpoints/last.ckpt", when=2, callbacks=state)
        if monitor is None:
            with pytest.raises(ConfigError, match=r"checkpoint\.monitor"):
                find("best", runs=tmp_path, folder=None, fitting=False)
    assert find("best", runs=tmp_path, folder=None, fitting=False) == best


def test_hpc_is_what_slurm_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hpc_ckpt"):
        find("hpc", runs=tmp_path, folder=tmp_path, fitting=True)
    for n in (1, 2, 10):
        save(tmp_path / f"hpc_ckpt_{n}.ckpt")
    assert find("hpc", runs=tmp_path, folder=tmp_path, fitting=True).name == "hpc_ckpt_10.ckpt"


# --- metrics.csv and the folder ---------------------------------------------------------------------------------


def log(folder: Path, *rows: tuple[int, dict[str, float]]) -> None:
    """As one process."""
    logger = MetricsLogger(folder)
    for step, values in rows:
        logger.log_metrics(values, step=step)
    logger.save()


def test_metrics_go_on_in_one_file_with_new_columns(tmp_path: Path) -> None:
    log(tmp_path, (0, {"eval/a": 0.5}), (2, {"round": 0.0, "b": 1.0}))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.7,1")  # killed while it wrote
    log(tmp_path, (4, {"round": 1.0, "b": 2.0, "new/column": 3.0}), (4, {"eval/a": 0.6}))
    columns, rows = read_rows(tmp_path / "metrics.csv")
    assert columns == sorted(["eval/a", "b", "round", "step", "new/column"])
    assert [{k: float(v) for k, v in row.items() if v} for row in rows] == [
        {"step": 0, "eval/a": 0.5},
        {"step": 2, "round": 0, "b": 1},
        {"step": 4, "round": 1, "b": 2, "new/column": 3},
        {"step": 4, "eval/a": 0.6},
    ]
    assert history(tmp_path / "metrics.csv", 2) == [(0, {"eval/a": 0.5}), (2, {"round": 0.0, "b": 1.0})]


def test_a_folder_goes_back_to_a_checkpoint(tmp_path: Path) -> None:
    log(tmp_path, *((step, {"round": step / 2 - 1}) for step in (2, 4, 6)))
    names = [f"transcripts/round-{n:06d}{rank}.jsonl.gz" for n in range(3) for rank in ("", "-rank1")]
    names += [f"evaluations/validation-{n:06d}.json{end}" for n in (0, 4, 6) for end in ("", "l")]
    names += [f"failures/round-{n:06d}.txt" for n in (1, 2)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for step in (2, 4, 6):
        save(tmp_path / f"checkpoints/step-{step:06d}.ckpt", step)
    kept = save(tmp_path / "checkpoints/last.ckpt", 4)
    aside = rewind(tmp_path, 4, 2, keep=kept)
    assert aside == tmp_path / "superseded-1"
    moved = {str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file()}
    assert moved == {
        "metrics.csv", "transcripts/round-000002.jsonl.gz", "transcripts/round-000002-rank1.jsonl.gz",
        "evaluations/validation-000006.json", "checkpoints/step-000006.ckpt", "failures/round-000002.txt",
    }  # fmt: skip
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")[1]] == ["2", "4"]
    assert rewind(tmp_path, 4, 2, keep=kept) is None
    assert rewind(tmp_path, -1, 0) == tmp_path / "superseded-2"  # a run that begins anew in the folder
    assert not (tmp_path / "metrics.csv").exists()
    assert not list((tmp_path / "transcripts").iterdir())
    assert len(list((tmp_path / "evaluations").glob("*.jsonl"))) == 3
