"""On-policy Verbal Distillation (arXiv 2601.21968) on PyTorch Lightning."""

__version__ = "0.1.0"
