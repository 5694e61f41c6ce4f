"""How the tokenizer and the two checkpoints of the tool task are made; run ``benchmarks/pretrain_tools.py``."""
