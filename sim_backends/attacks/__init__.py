"""Attacks that a simulated ring can be put under: what each does, and those that act on its light."""
