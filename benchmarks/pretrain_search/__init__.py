"""How the tokenizer and checkpoints of ``configs/quickstart_web.yaml`` are made; run ``benchmarks/pretrain_web.py``."""
