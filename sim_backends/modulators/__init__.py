"""Simulated waveform generators."""
