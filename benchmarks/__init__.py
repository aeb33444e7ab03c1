"""How fast it is, against the limit and against what one would pick instead: `python -m benchmarks`."""
