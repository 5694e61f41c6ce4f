"""What real models show: their answers, kept in files, and tables made from them (docs/real_models.md)."""
