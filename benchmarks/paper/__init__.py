"""Tables, figures, theorems and claims of the paper, recomputed and measured."""
