"""What the SCPI drivers share: a link that identifies the model, and free text for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from drivers.base import Identity, LabInstrument
from drivers.links.errors import WrongInstrumentError
from drivers.links.scpi_visa import ScpiLink


class ScpiInstrument(LabInstrument):
    """A :class:`LabInstrument` on a :class:`ScpiLink`.

    Subclasses name the models they drive in ``MODELS`` (field 2 of ``*IDN?``).  ``timeout_s`` bounds the replies that
    need no time of their own; ``clock`` is for tests.
    """

    MODELS: ClassVar[Collection[str]]

    def __init__(
        self,
        name: str,
        address: str,
        *,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        self.link = ScpiLink(name, address, timeout_s=timeout_s, bring_up=self.bring_up, clock=clock)
        self.links = (self.link,)

    def identify(self) -> Identity:
        """Ask ``*IDN?``.  Raises WrongInstrumentError for a model that this driver does not drive."""
        identity = self.link.identify()
        if identity.model not in self.MODELS:
            raise self.error(
                WrongInstrumentError,
                f"answers as {identity.vendor[:40]} {identity.model[:40]}, not as "
                f"{' or '.join(sorted(self.MODELS))}; correct the address or the model in the testbed file",
            )
        return identity

    def know_state(self) -> None:
        """Read and log what the error queue holds from earlier times."""
        self.link.clear_errors()

    def ask_raw(self, cmd: str) -> str:
        """Send a query and return its reply."""
        return self.link.query(self.link.one_line(cmd))

    def write_raw(self, cmd: str) -> None:
        """Send a command; InstrumentRefusedError with the instrument's reason."""
        self.link.command(self.link.one_line(cmd))
