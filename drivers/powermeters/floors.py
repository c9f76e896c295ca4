"""The least power that a sensor tells from none, in watts: facts of data sheets, for drivers and for plans."""

from __future__ import annotations

KEYSIGHT_81634B_W = 1e-14
"""-110 dBm."""
KEYSIGHT_N7752A_W = 1e-11
"""-80 dBm (asakiasako/pyinst ``models/N7752A.py``)."""
THORLABS_W = {"S154C": 1e-10, "S155C": 1e-9}
"""Fibre-coupled heads for the ring's wavelength."""
