"""The statements of the paper's section 3.5 on worlds that can be enumerated; `benchmarks.paper.theory` runs them."""
