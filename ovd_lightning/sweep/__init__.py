"""A sweep without the service of W&B: ``python -m ovd_lightning.sweep FILE``."""
