"""Simulated optical power meters."""
