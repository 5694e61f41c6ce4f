"""How settings are read, which ones are refused, and how mistakes are reported."""
