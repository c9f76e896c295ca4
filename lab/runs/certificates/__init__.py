"""Certificates of key delivery: the authority of a testbed, and what the holders of certificates do."""
