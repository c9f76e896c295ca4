"""Whole experiments: what is trained, with which seeds, and what it is compared with."""
