"""How the quickstart's tokenizer and its two checkpoints are made; run ``benchmarks/pretrain_quickstart.py``."""
