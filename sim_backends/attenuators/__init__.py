"""Simulated optical attenuators."""
