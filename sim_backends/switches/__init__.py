"""Simulated optical switches."""
