"""What `benchmarks/memory.py` is made of: the paper's numbers, one batch for every method, measurements, figures."""
