"""What the SCPI drivers share: a link that identifies the model, connect, close, and restoring after trouble."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from drivers.base import Identity, LabInstrument
from drivers.links.errors import WrongInstrumentError
from drivers.links.scpi_visa import ScpiLink


class ScpiInstrument(LabInstrument):
    """A :class:`LabInstrument` on a :class:`ScpiLink`.

    Subclasses name the models they drive in ``MODELS`` (field 2 of ``*IDN?``) and override
    :meth:`restore_passive` to bring settings back that cannot hurt anyone after the link was reopened.
    """

    MODELS: ClassVar[Collection[str]]

    def __init__(self, name: str, address: str, *, timeout_s: float = 2.0, **kwargs: Any) -> None:
        super().__init__(name, address, **kwargs)
        self.link = ScpiLink(name, address, self._accept, timeout_s=timeout_s, on_reopen=self.restore_passive)

    def connect(self) -> Identity:
        """Open the link and identify the instrument.

        Raises LinkError when nothing sensible answers and WrongInstrumentError for another model.
        """
        return self.link.open()

    def identify(self) -> Identity:
        """Ask ``*IDN?``."""
        return self.link.identify()

    def close(self) -> None:
        """Close the link and free the QCoDeS name; safe to call twice.

        QCoDeS would also delete every attribute, so that later use fails with an AttributeError; here it
        raises LinkClosedError.
        """
        self.link.close()
        self.remove_instance(self)

    def restore_passive(self) -> None:
        """Called after the link was reopened: outputs off, passive settings as they were."""

    def _accept(self, identity: Identity) -> None:
        if identity.model not in self.MODELS:
            raise WrongInstrumentError(
                f"answers as {identity.vendor[:40]} {identity.model[:40]}, not as "
                f"{' or '.join(sorted(self.MODELS))}; correct the address or the model in the testbed file",
                instrument=self.name,
                address=self.address,
            )
