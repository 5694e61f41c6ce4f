"""Resuming: which checkpoint is meant, whether it is intact, what may differ from it, and its run's folder."""
