"""``python -m ovd_lightning serve MODEL``: vLLM's own server, started so that a run can sample from it."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from ovd_lightning.engines.vllm import VLLMEngine
from ovd_lightning.engines.vllm_client import WORKER
from ovd_lightning.engines.vllm_installed import installed
from ovd_lightning.errors import ConfigError
from ovd_lightning.packaged import packaged

NEEDED = {
    "--enable-scale-out": "",  # token ids in and out, and the version of the weights
    "--logprobs-mode": "processed_logprobs",
    "--worker-extension-cls": WORKER,
    "--weight-transfer-config": '{"backend": "filesystem"}',
    "--disable-uvicorn-access-log": "",  # a line a completion
}
"""Flags of ``vllm serve`` that `VLLMServerEngine` relies on, besides ``VLLM_SERVER_DEV_MODE=1``."""


def command(words: Sequence[str]) -> list[str]:
    """The command for vLLM's server; of a flag that is given twice, vLLM takes the last.

    Args:
        words: the model, and flags of ``vllm serve``.
    Raises: ConfigError where vLLM is missing or the model cannot be found; SystemExit for ``--help``.
    """
    parser = ArgumentParser(
        prog="python -m ovd_lightning serve",
        usage="%(prog)s MODEL [--port PORT] [--max-model-len N] [any flag of `vllm serve`]",
        description="Start vLLM's server for a student, with what a run needs to sample on it and to send it weights.",
        epilog="Then: python -m ovd_lightning fit ... --engine vllm_server\n"
        "Whoever reaches the port can replace the weights and call functions: keep it inside a private network.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a folder or hub id: the run's model.student")
    parser.add_argument("--port", type=int, default=8001, help="default: 8001")
    parser.add_argument("--max-model-len", type=int, help="longest prompt plus completion, in tokens")
    given, rest = parser.parse_known_args(words)
    if given.model != words[0]:
        parser.error("the model comes first")
    engine = VLLMEngine(packaged(given.model), max_model_len=given.max_model_len)
    engine.check()
    flags = {"--port": str(given.port), **NEEDED, **(on_cpu(engine) if engine.on_cpu else {})}
    if given.max_model_len is not None:
        flags["--max-model-len"] = str(given.max_model_len)
    pairs = [word for name, value in flags.items() for word in ([name, value] if value else [name])]
    server, found = ["vllm.entrypoints.cli.main", "serve", engine.model], installed()
    if found is not None and found[0] != "vllm":  # the command line of the CPU build asks for the package `vllm`
        server = ["vllm.entrypoints.openai.api_server", "--model", engine.model]
    return [sys.executable, "-m", *server, *pairs, *rest]


def on_cpu(engine: VLLMEngine) -> dict[str, str]:
    """The settings of the engine in process, so that both sample the same tokens."""
    arguments = engine._arguments()
    named = ("dtype", "block_size", "max_num_batched_tokens", "kv_cache_memory_bytes")
    flags = {f"--{name.replace('_', '-')}": str(arguments[name]) for name in named}
    return {**flags, "--enforce-eager": "", "--no-enable-chunked-prefill": ""}


def main(words: Sequence[str]) -> None:
    """Does not return: the server takes this process's place, and its signals."""
    try:
        line = command(words)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    if "--enforce-eager" in line:  # otherwise the first batch compiles a small function, for ten seconds on a CPU
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.execv(line[0], line)
