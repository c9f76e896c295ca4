"""Keysight N7764A: four variable attenuators (:mod:`drivers.attenuators.keysight_attenuators`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drivers.attenuators.keysight_attenuators import KeysightAttenuators


class KeysightN7764A(KeysightAttenuators):
    """Driver of one N7764A; submodules ``ch1`` to ``ch4``.

    They are in slots "from 1 to 2, 3 to 4, 5 to 6 and 7 to 8 respectively" (programming guide N7744-90C).
    """

    MODELS = frozenset({"N7764A"})
    ATTENUATORS: ClassVar[Mapping[str, int]] = {"ch1": 1, "ch2": 3, "ch3": 5, "ch4": 7}

    def __init__(self, name: str, address: str, **kwargs: Any) -> None:
        super().__init__(name, address, **kwargs)
        self.ch1, self.ch2, self.ch3, self.ch4 = self.channels
