"""The parts of `benchmarks.speed.memory`: one batch for every method, measurements, tables and figures."""
