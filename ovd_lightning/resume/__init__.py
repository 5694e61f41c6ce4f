"""Resuming: which checkpoint is meant, whether it is whole, what may differ, and the folder that goes on."""
