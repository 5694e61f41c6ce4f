"""How the embedded models were made: `python -m benchmarks.assets.arithmetic`, `.web`, `.tools`."""
