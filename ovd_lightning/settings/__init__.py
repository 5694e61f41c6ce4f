"""How settings are read: what replaces what, what is refused, and how a mistake is told."""
