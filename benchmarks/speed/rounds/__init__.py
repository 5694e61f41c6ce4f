"""Rounds of training measured one at a time, in processes that take turns: this project, another commit of it, TRL."""
