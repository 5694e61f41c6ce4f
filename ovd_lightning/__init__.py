"""On-policy Verbal Distillation (arXiv 2601.21968) on PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovd_lightning.api import Run as Run

__version__ = "0.1.0"
__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    """``Run`` when it is asked for: the command line decides by itself what to import."""
    if name == "Run":
        from ovd_lightning.api import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
