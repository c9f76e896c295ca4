"""Protocols: what is prepared, what is kept, and how many bits of it are secret."""
