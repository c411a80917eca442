"""What the operators take: time, operations, memory. ``python benchmarks/cost/run.py NAME``."""
