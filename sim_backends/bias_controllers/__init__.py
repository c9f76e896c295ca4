"""Simulated bias controllers of Mach-Zehnder modulators."""
