"""Alarms of a role: what is watched and between which limits, how severe a value is, and what an operator did about it."""
