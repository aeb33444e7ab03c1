"""Measure the speed of sealchemy, against its lower limit and against other libraries: `python -m benchmarks`."""
