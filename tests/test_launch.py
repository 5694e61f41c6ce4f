"""The files of examples/launch: they parse, and their commands are ones that this package takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.served import free_port
from tests.workflow import cli

FILES = sorted((cli.ROOT / "examples/launch").iterdir())
TRAIN, TORCHRUN, SERVERS = (cli.ROOT / "examples/launch" / n for n in ("train.sbatch", "torchrun.sh", "servers.sbatch"))


def commands(path: Path) -> list[str]:
    return re.sub(r"\\\n\s*", " ", path.read_text()).splitlines()


def directives(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", path.read_text(), re.M))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_bash_takes_it(path: Path) -> None:
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_trainers_job_is_a_run(tmp_path: Path) -> None:
    """Its command, by bash with the variables that it uses, is parsed as a whole; its numbers agree with SLURM's."""
    (line,) = [line for line in commands(TRAIN) if line.startswith("srun ")]
    (tmp_path / "servers.txt").write_text("http://a:8001\nhttp://b:8001\n")
    (tmp_path / "srun").write_text(f'#!/bin/bash\nshift\nexec {sys.executable} -m ovd_lightning "$@" --print_config\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {**cli.environment(), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    config = yaml.safe_load(done.stdout)
    assert config["engine"]["class_path"].endswith("VLLMServerEngine")
    assert config["engine"]["init_args"]["base_urls"] == ["http://a:8001", "http://b:8001"]
    assert config["engine"]["init_args"]["weights_folder"] == f"{tmp_path}/weights"
    nodes, devices = (int(directives(TRAIN)[name]) for name in ("nodes", "ntasks-per-node"))
    assert (config["trainer"]["num_nodes"], int(config["trainer"]["devices"])) == (nodes, devices)
    assert config["trainer"]["strategy"]["init_args"]["data_parallel_size"] == nodes * devices
    assert config["data"]["problems_per_round"] % (nodes * devices) == 0
    trajectories = config["data"]["problems_per_round"] * 8 // (nodes * devices)
    assert trajectories // config["trainer"]["accumulate_grad_batches"] == 4, "micro-batches as in docs/eight_gpus.md"


@pytest.mark.vllm
def test_the_servers_job_is_a_command_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flag is one of vLLM's, and the student's worker is found."""
    pytest.importorskip("vllm")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from ovd_lightning.engines import serve

    (line,) = [line for line in commands(SERVERS) if line.startswith("srun ")]
    words = shlex.split(line)[3:]
    assert shlex.split(line)[:3] == ["srun", "ovd-lightning", "serve"]
    monkeypatch.setattr(serve.VLLMEngine, "check", lambda self: None)  # the model is on the hub
    monkeypatch.setattr(serve, "on_cpu", lambda engine: {})
    started = serve.command(words)
    given = make_arg_parser(FlexibleArgumentParser()).parse_args(started[started.index("--port") :])
    assert (given.port, given.max_model_len, given.data_parallel_size) == (8001, 4096, 8)
    assert given.enable_scale_out
    assert given.logprobs_mode == "processed_logprobs"
    assert callable(resolve_obj_by_qualname(given.worker_extension_cls).describe_student)


@pytest.mark.slow
def test_two_machines_by_torchrun_are_one_run(tmp_path: Path) -> None:
    """Both on this one, a rank each: they meet, share a folder, and save once."""
    text = TORCHRUN.read_text().replace("$FIRST:29500", f"127.0.0.1:{free_port()}")
    text = text.replace("exec torchrun", '"$PYTHON" -m torch.distributed.run')
    small = ["--config=configs/quickstart.yaml", *cli.SMALL, *cli.HF, *cli.GRPO, "--data.rounds=1"]
    environment = {**cli.environment(), "NODES": "2", "GPUS": "1", "FIRST": "here", "PYTHON": sys.executable}
    started = [
        subprocess.Popen(
            ["bash", "-c", text, "torchrun.sh", *small, "--trainer.strategy=ddp", f"--run.root={tmp_path}"],
            cwd=cli.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    out = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], out[0][-3000:] + out[1][-3000:]
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    folder = checkpoint.parents[1]
    assert folder.name == "run-1"
    assert len(cli.rounds(folder)) == 1
    assert len(cli.transcripts(folder)) == 4 * 8
