"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: their settings, and base and adapter as one model's weights.

The base is frozen and stays as it was loaded, bit for bit. Whoever needs the model as one, an engine or a file, gets
W + alpha/r B A, a layer at a time. The base alone, with the adapter switched off, is the initial student.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ovd_lightning.errors import ConfigError
from ovd_lightning.settings.ranges import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter"
"""Of an exported student's folder, where the adapter alone is."""
NAME = "default"
"""peft's name of the one adapter."""
BASE = ".base_layer"
"""Under which peft keeps the module that it adapts."""
ALL_LINEAR = "all-linear"
PARTS = {"lora_A", "lora_B"}


@dataclass(frozen=True)
class LoRA:
    """A low-rank adapter is trained, and the student's own weights are frozen.

    There is no dropout: the student trains as it samples (docs/models.md).

    Args:
        r: rank of the adapter.
        alpha: the product B A is scaled by alpha / r.
        targets: what is adapted: all-linear, every linear layer but the language-model head; a list of names of
            modules (q_proj, v_proj); or a regular expression of whole names.
        quantize: the frozen weights in 4 bits (NF4 with double quantisation: QLoRA, arXiv 2305.14314) or 8 (LLM.int8)
            by bitsandbytes, which does so on the CPU too, if slowly.
    """

    r: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: list[str] | str = ALL_LINEAR
    quantize: Literal["4bit", "8bit"] | None = None

    def loading(self, dtype: torch.dtype) -> dict[str, Any]:
        """What ``from_pretrained`` is told beside the dtype."""
        if self.quantize is None:
            return {}
        from transformers import BitsAndBytesConfig

        four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        bits = {"load_in_4bit": True, **four} if self.quantize == "4bit" else {"load_in_8bit": True}
        return {"quantization_config": BitsAndBytesConfig(**bits)}


# ------------------------------------------------------------------ checks


def lora_errors(lora: LoRA, model: PreTrainedModel | None, sharded: bool) -> Iterator[ConfigError]:
    """What is known before a weight is loaded: packages, devices, and whether the targets are there.

    Args:
        model: the student on the meta device, which is changed; None where its configuration alone does not make one.
        sharded: by FSDP2.
    """
    yield from package_errors("model.lora", "peft", "lora")
    if lora.quantize:
        yield from package_errors("model.lora.quantize", "bitsandbytes", "qlora")
        if sharded:
            yield ConfigError(
                "model.lora.quantize",
                f"is {lora.quantize}, and FSDP2 cannot shard what bitsandbytes packs.",
                "Set it to null, or trainer.strategy to ddp.",
            )
    if model is None or find_spec("peft") is None:
        return
    layers = linear_layers(model)
    wrong = list(_target_errors(lora.targets, layers))
    yield from wrong
    if not wrong:
        try:
            Adapter(model, lora)
        except ValueError as error:  # peft's, or Adapter's
            yield ConfigError("model.lora.targets", f"is {lora.targets}: {error}", f"Use some of: {_ends(layers)}.")


def package_errors(setting: str, package: str, extra: str) -> Iterator[ConfigError]:
    """That a package is not installed which an extra brings."""
    if find_spec(package) is None:
        yield ConfigError(
            setting,
            f"needs {package}, which is not installed.",
            f'Install the extra: pip install "ovd-lightning[{extra}]", in a checkout pip install ".[{extra}]".',
        )


def _target_errors(targets: list[str] | str, layers: list[str]) -> Iterator[ConfigError]:
    known = _ends(layers)
    if isinstance(targets, str):
        if targets == ALL_LINEAR:
            return
        try:
            found = any(re.fullmatch(targets, name) for name in layers)
        except re.error as error:
            yield ConfigError("model.lora.targets", f"{targets!r} is no regular expression: {error}.", f"Use {known}.")
            return
        lost = [] if found else [targets]
    else:
        lost = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers)]
        if not targets:
            yield ConfigError("model.lora.targets", "is empty.", f"Use {ALL_LINEAR}, or some of: {known}.")
    if lost:
        yield ConfigError(
            "model.lora.targets",
            f"names {', '.join(lost)}, which no linear layer of the student's transformer is called.",
            f"Use {ALL_LINEAR}, or some of: {known}.",
        )


def _ends(layers: list[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in layers}))


def empty_model(student: str) -> PreTrainedModel | None:
    """A checkpoint's model without its weights, on the meta device; None where its configuration alone makes none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(Path(student).expanduser() if Path(student).exists() else student)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError):  # not there, or of unknown type: the preflight names it
        return None


def linear_layers(model: Any) -> list[str]:
    """Names of the modules that can be adapted: the language-model head is none, it may share the embedding."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]


# ------------------------------------------------------------------ the adapter


class Adapter:
    """peft's adapter inside a model, which is changed in place: adapted modules are replaced, everything is frozen but
    the adapter, whose weights are float32 whatever the model's are.

    Its first weights are a function of the process's seed alone, so that all ranks begin with the same.

    Raises: ValueError where peft would adapt something else than linear layers.
    """

    def __init__(self, model: PreTrainedModel, lora: LoRA) -> None:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float is used as one
            target_modules=lora.targets,
            base_model_name_or_path=model.name_or_path,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch.initial_seed())
            self._peft = get_peft_model(model, config)  # no module of the student's: it would hold everything twice
        model.eval()  # what was put in
        self._layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
        each: Any
        for each in model.modules():
            if hasattr(each, "support_avx512bf16_for_cpu"):  # bitsandbytes: would repack its weights in place
                each.support_avx512bf16_for_cpu = False
        other = [layer for layer in self._layers if not hasattr(layer.get_base_layer(), "weight")]
        if other:
            raise ValueError("that takes in experts, whose matrices are parts of one parameter.")

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base alone, for a forward pass without gradient."""
        trained = [p for p in self._peft.parameters() if p.requires_grad]
        for layer in self._layers:
            layer.enable_adapters(False)
        for parameter in trained:  # peft freezes them; FSDP2 would take that for good if it were to gather them now
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(True)

    def state(self) -> dict[str, Tensor]:
        """Its weights, full and on the CPU. Collective under a sharding strategy."""
        own = [(name, p.detach()) for name, p in self._peft.named_parameters() if base_name(name) is None]
        return {name: full(value).cpu().contiguous() for name, value in own}

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write :meth:`state` and its settings as peft does."""
        self._peft.save_pretrained(str(folder), state_dict=state)


def full(tensor: Tensor) -> Tensor:
    """A tensor as it lies in memory, gathered from its shards where it has some. Collective then."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


# ------------------------------------------------------------------ base and adapter as one


def base_name(name: str) -> str | None:
    """The name that a parameter has without an adapter; None for one of the adapter's own."""
    return None if PARTS & {*name.split(".")} else name.replace(f"{BASE}.", ".")


def composed(model: PreTrainedModel, name: str, parameter: Tensor) -> tuple[torch.Size, torch.dtype] | None:
    """Shape and dtype of :func:`compose`'s result; None where that is the parameter itself."""
    module: Any = model.get_submodule(name.rpartition(".")[0])
    if _is_quantized(parameter):
        return torch.Size([module.out_features, module.in_features]), model.dtype
    adapted = name.endswith(f"{BASE}.weight")
    return (parameter.shape, parameter.dtype) if adapted else None


def compose(model: PreTrainedModel, name: str, parameter: Tensor) -> Tensor:
    """A parameter as it is in the model as one: dequantised, and with the adapter's product.

    The sum is formed in the adapter's precision and rounded once to the weight's, as by peft's ``merge``. Collective
    under a sharding strategy.
    """
    owner = name.rpartition(".")[0]
    module: Any = model.get_submodule(owner)
    if _is_quantized(parameter):
        from peft.utils.integrations import dequantize_bnb_weight  # its ..._module_weight breaks 8 bits on the CPU

        weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None)).detach().to(model.dtype)
    else:
        weight = full(parameter.detach())
    if not name.endswith(f"{BASE}.weight"):
        return weight
    layer: Any = model.get_submodule(owner.removesuffix(BASE))
    a, b = (full(part[NAME].weight.detach()) for part in (layer.lora_A, layer.lora_B))
    product = b @ a
    product = (product.T if layer.fan_in_fan_out else product) * layer.scaling[NAME]
    return (weight + product).to(weight.dtype)


def _is_quantized(parameter: Tensor) -> bool:
    return type(parameter).__name__ in ("Params4bit", "Int8Params")
