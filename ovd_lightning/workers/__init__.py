"""Processes that are killed when they hang: the pool, and the worker's end of its pipe."""
