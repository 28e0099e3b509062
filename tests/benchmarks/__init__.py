"""Benchmarks, measured as ratios in one run: `python -m tests.benchmarks [--only NAME]`."""
