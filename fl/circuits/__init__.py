"""Quantum circuits written once as PennyLane functions, traced and run as fast torch programs."""
