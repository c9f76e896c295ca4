"""The ways of adding up model updates, one row each; whatever depends on the mode of a run asks its row.

A new mode is a module with its :class:`fl.modes.base.Aggregation` and a row here.  Configuration, command line,
consent, forecasts, reports and Flower follow from the row; a row whose aggregation cannot be had is an error of
:func:`fl.modes.base.aggregation_class`, never another mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from orchestrator.delivery.messages import Cipher

Security: TypeAlias = Literal["information-theoretic", "computational", "none"]
"""What a mode promises, given true quantum keys; the notes of a run say where that is not all."""


@dataclass(frozen=True)
class Mode:
    """One way of adding up updates.

    ``aggregation`` is the class that does it, ``MODULE:CLASS``.  ``cipher`` is for what nodes release key, and so
    how many bits of it a pair spends in a round (:func:`orchestrator.delivery.messages.pad_bits`); without one no
    key is used, nothing is protected and nobody has to consent.  ``drop_outs``: a round may be summed without some
    of the clients; otherwise a run pauses until all are there.  ``thresholds``: the mode has T colluders, U
    survivors, secret shares between clients, and a field in place of a ring width.  ``told`` are statements of what
    the sums tell, with names of fields of the run's description in braces; ``note`` stands beside results.  In both,
    ``{leak}`` is :data:`orchestrator.delivery.consent.LEAK`.  ``hint`` stands after the name in help.
    ``thriftier`` is the mode that a user may allow in its place where key is short.
    """

    name: str
    aggregation: str
    security: Security
    cipher: Cipher | None
    told: tuple[str, ...]
    drop_outs: bool = False
    thresholds: bool = False
    note: str = ""
    hint: str = ""
    thriftier: str = ""

    @property
    def label(self) -> str:
        """What events and records call the masking."""
        return self.name if self.cipher else "none"


_PAUSES = "if a participant is away the run pauses; going on without it is another run, to be agreed to by those who go on"

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            "otp",
            "fl.modes.otp:PairwisePads",
            "information-theoretic",
            "otp",
            (_PAUSES,),
            thriftier="expanded",
        ),
        Mode(
            "lightsecagg",
            "fl.modes.lightsecagg:LightSecAgg",
            "information-theoretic",
            "lightsecagg",
            (
                "up to {colluders} colluding clients learn nothing of a mask; {survivors} must survive a round, and at "
                "least {smallest_set} begin it",
                "clients may be missing, and then {leak}: from sums over sets that differ by it.  The server decides "
                "who counts as missing, and the more rounds it repeats from one model the better it knows that update",
            ),
            drop_outs=True,
            thresholds=True,
            note="clients may be missing from a round of lightsecagg: then {leak}, from sums over sets that differ by "
            "it; with otp and expanded a run pauses instead",
            hint="goes on without missing clients, whose last update the server then knows roughly",
        ),
        Mode(
            "expanded",
            "fl.modes.otp:PairwisePads",
            "computational",
            "expanded",
            (
                "the secrecy of an update is computational: it rests on a cipher under 256 bits of key",
                _PAUSES,
            ),
        ),
        Mode(
            "plain",
            "fl.modes.plain:Plain",
            "none",
            None,
            ("nothing is protected: the learning server sees every update",),
            drop_outs=True,
        ),
    )
}
DEFAULT_MODE = "otp"
UNPROTECTED_MODE = "plain"
"""For comparison."""

if TYPE_CHECKING:
    ModeName: TypeAlias = str
    IfShort: TypeAlias = str
else:
    ModeName = Literal[tuple(MODES)]
    IfShort = Literal[("wait", "stop", *(mode.thriftier for mode in MODES.values() if mode.thriftier))]
"""Names as configurations and options hold them: of a mode, and of what to do where key is short."""
