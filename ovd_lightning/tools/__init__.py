"""Tools that a model may call, and the sandboxes they run in."""
