"""Checkpoints and tokenizers that cannot be loaded, as one line that names the setting."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovd_lightning.errors import ConfigError

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
MEND = "Give the folder of a Hugging Face checkpoint, or the id of one that can be reached."


@contextmanager
def loading(setting: str, path: str) -> Iterator[None]:
    """Raises: ConfigError for whatever ends a ``from_pretrained``: no network, no file, a broken one."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # any: each architecture's code has its own
        told = next(iter(str(error).strip().splitlines()), "").rstrip(": ")
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        offline = offline if "huggingface.co" in told or "offline" in told else ""
        raise ConfigError(setting, f"{path} cannot be loaded: {told or type(error).__name__}{offline}", MEND) from error


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
    """What can be known of a model without loading it: config.json and, in a folder, whether its weights are whole.

    Raises: ConfigError.
    """
    load_config(setting, path, trust_remote_code)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        raise ConfigError(setting, f"{path} holds no weights ({' or '.join(WEIGHTS)}).", MEND)
    index = folder / "model.safetensors.index.json"
    with loading(setting, path):
        shards = sorted({*json.loads(index.read_text())["weight_map"].values()}) if index.is_file() else []
    for shard in shards:
        if not (folder / shard).is_file():
            raise ConfigError(setting, f"{path} lacks {shard}, which its index names.", "Copy or download it again.")
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        with loading(setting, str(file)), safe_open(file, framework="pt"):  # reads the header: a cut file is found
            pass
