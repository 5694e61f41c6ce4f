"""The tokenizer, student and teacher of `configs/quickstart_tools.yaml`."""
