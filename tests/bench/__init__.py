"""Benchmarks: what things take on this machine, printed as a table and as JSON. Nothing is asserted."""
