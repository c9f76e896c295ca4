"""Pairwise pads from expanded keys: 256 bits per pair and round, stretched by ChaCha20 in the delivery client.

Key use does not depend on the size of the model.  The price is that the secrecy of an update rests on a
cipher: the mode is labelled "computational" wherever it is named, and is taken only where server and client
were both told to.
"""

from __future__ import annotations

from fl.aggregation.otp import OneTimePads


class ExpandedKeys(OneTimePads):
    """Mode ``expanded``."""

    label = "expanded"
    security = "computational"
    cipher = "expanded"
