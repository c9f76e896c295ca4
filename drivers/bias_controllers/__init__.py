"""Bias controllers of Mach-Zehnder modulators."""
