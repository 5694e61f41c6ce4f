"""``python -m ovd_lightning dry_run``: what a run needs, before anything is loaded."""
