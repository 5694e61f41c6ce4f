"""The corpus, tokenizer, student and teacher of `configs/quickstart_web.yaml`."""
