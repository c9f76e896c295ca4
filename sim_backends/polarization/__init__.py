"""Simulated polarisation controllers."""
