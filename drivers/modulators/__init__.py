"""Waveform generators that drive the phase modulators."""
