"""The tokenizer, students and teacher of `configs/quickstart.yaml`."""
