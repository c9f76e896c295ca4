"""Classifying entangled and magic states with a quantum convolutional network."""
