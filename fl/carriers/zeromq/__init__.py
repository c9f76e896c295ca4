"""Rounds between machines: the learning server, one client per user, and what they say to each other."""
