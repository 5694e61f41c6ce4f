"""Checkpoints and tokenizers: what is known of them before they are loaded, and why one cannot be loaded, in a line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError
from ovd_lightning.lora import empty_model
from ovd_lightning.packing import MASKED, is_flash

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
HINT = "Give the folder of a Hugging Face checkpoint, or a hub id like Qwen/Qwen2.5-0.5B."


def is_hub_id(path: str) -> bool:
    """Whether a path that does not exist can be meant for the hub: org/name, without a local folder org."""
    looks_local = path.startswith((".", "/", "~"))
    return not looks_local and bool(re.fullmatch(r"[\w.-]+/[\w.-]+", path)) and not Path(path).parent.is_dir()


def check_path(setting: str, path: str) -> None:
    """A checkpoint folder, or something that can be a hub id.

    Raises: ConfigError for a folder that does not exist or holds no config.json.
    """
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file() and (folder.is_dir() or not is_hub_id(path)):
        problem = "has no config.json" if folder.is_dir() else "is not there"
        raise ConfigError(setting, f"{path} {problem}.", HINT)


@contextmanager
def loading(setting: str, path: str) -> Iterator[None]:
    """Raises: ConfigError for whatever ends a ``from_pretrained``: no network, no file, a broken one."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # any: each architecture's code has its own
        message = next(iter(str(error).strip().splitlines()), "").rstrip(": ")
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        offline = offline if "huggingface.co" in message or "offline" in message else ""
        raise ConfigError(
            setting, f"{path} cannot be loaded: {message or type(error).__name__}{offline}", HINT
        ) from error


def load_config(setting: str, path: str, trust_remote_code: bool = False) -> Any:
    """A checkpoint's config.json. Raises: ConfigError."""
    from transformers import AutoConfig

    with loading(setting, path):
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def load_tokenizer(setting: str, path: str, trust_remote_code: bool = False) -> Any:
    """Raises: ConfigError, also for a folder without a tokenizer, of which transformers makes one without words."""
    from transformers import AutoTokenizer

    with loading(setting, path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    folder = Path(path).expanduser()
    if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
        raise ConfigError(setting, f"{path} holds no tokenizer.", "Save it there: tokenizer.save_pretrained(FOLDER).")
    return tokenizer


def check_checkpoint(setting: str, path: str, trust_remote_code: bool = False) -> None:
    """What can be known of a model without loading it: path, config.json and, in a folder, whether its weights are
    complete.

    Raises: ConfigError.
    """
    check_path(setting, path)
    load_config(setting, path, trust_remote_code)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return
    files = [file for pattern in WEIGHTS for file in folder.glob(pattern)]
    index = folder / "model.safetensors.index.json"
    with loading(setting, path):
        shards = sorted({*json.loads(index.read_text())["weight_map"].values()}) if index.is_file() else []
    lost = [shard for shard in shards if not (folder / shard).is_file()]
    if lost or not files:
        problem = f"lacks {lost[0]}, which its index names" if files else f"holds no weights ({' or '.join(WEIGHTS)})"
        raise ConfigError(setting, f"{path} {problem}.", "Copy or download it again." if files else HINT)
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        with loading(setting, str(file)), safe_open(file, framework="pt"):  # reads the header: a cut file is found
            pass


def attention_errors(student: str, name: str | None, computes_in: set[str]) -> Iterator[ConfigError]:
    """That transformers has no attention of this name for the student, or lacks what it takes.

    Args:
        computes_in: dtypes of the parameters and of the products.
    """
    model = None if name is None else empty_model(student)
    if name is None or model is None:
        return
    setting, hint = "model.attn_implementation", "Use sdpa, eager, or null for the choice of transformers."
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError, OSError) as error:  # unknown, not for this model, a package or a device that lacks
        yield ConfigError(setting, f"is {name}: {next(iter(str(error).splitlines()), '')}", hint)
        return
    if model.config._attn_implementation != name:
        yield ConfigError(setting, f"is {name}, which {type(model).__name__} cannot be given.", hint)
    elif "flash" in name and computes_in == {"float32"}:
        yield ConfigError(
            setting,
            f"is {name}, whose kernels compute in half precision, and the run computes in float32.",
            "Set trainer.precision to bf16-mixed, or use sdpa.",
        )


def packing_errors(attention: str | None) -> Iterator[ConfigError]:
    """That an attention is not known to keep the sequences of a row apart. Of the model, `Student` says so."""
    if attention is not None and attention not in MASKED and not is_flash(attention):
        problem = f"is true, but the attention {attention} is not known to keep the sequences of a row apart."
        hint = "Set model.attn_implementation to flash_attention_2, sdpa or eager, or packing to false."
        yield ConfigError("model.packing", problem, hint)
