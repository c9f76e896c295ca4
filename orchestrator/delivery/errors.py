"""What a federated-learning client can be told instead of a masked update."""

from __future__ import annotations

from collections.abc import Mapping


class DeliveryError(Exception):
    """Base of everything the delivery client raises."""


class DeliveryUnreachableError(DeliveryError):
    """The node does not answer (not running, wrong endpoint or wrong key)."""


class DeliveryTimeoutError(DeliveryError):
    """The pads did not come together in time; nothing was masked and the same context may be tried again."""


class KeysShortError(DeliveryTimeoutError):
    """Too little key with some peers; nothing was burnt.

    ``missing_bits`` per peer; ``wait_s`` estimates how long making them takes, None where unknown.
    """

    def __init__(self, missing_bits: Mapping[str, int], wait_s: float | None) -> None:
        self.missing_bits = dict(missing_bits)
        self.wait_s = wait_s
        pairs = ", ".join(f"{bits} bits with {peer}" for peer, bits in sorted(self.missing_bits.items()))
        estimate = "" if wait_s is None else f"; about {wait_s:.0f} s at the present rate"
        super().__init__(f"too little key: {pairs} missing{estimate}")


class PadsGoneError(DeliveryError):
    """The pads of this round were released before and the output made with them is not in the journal.

    They are never given twice: the round must be abandoned, and the next one has fresh pads.
    """


class RoundConflictError(DeliveryError):
    """Another update or another participant set was masked in this round before; masking both would
    reveal their difference."""


class DeliveryRefusedError(DeliveryError):
    """The node refuses the request; the text says why."""


class JournalError(DeliveryError):
    """The journal of masked outputs cannot be read or written."""


class OutputLostError(JournalError, PadsGoneError):
    """The masked output could not be kept, so it must not be sent; its pads are gone."""


class ShareSealError(DeliveryError):
    """A sealed share was changed on its way, or a pad for it was used before."""


class ConsentError(DeliveryError):
    """The run was not consented to here, or the round is not as it was consented to; no key was spent."""


class OtherTermsError(ConsentError):
    """An earlier run that may be over the same task and data had other participants or terms; accepting what
    that tells is a choice of its own."""
