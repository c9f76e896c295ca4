"""Losses of an update by clip and rounding, and how much of them is told to whom.

A clip that is far too small cuts every value down to the same size; one that is far too large rounds all of them
to nothing.  Either way the sums are exact and the model stays at chance.  So every client counts, in every round,
among the values that it sends:

clipped    the share that lies beyond the clip
vanished   the share of those that were not zero and became zero

*Who learns it.*  Both shares are functions of a private update.  Their exact values stay with the client, which
warns its own operator (:meth:`Losses.warning`).  What leaves the client in the clear is the band each lies in
(:class:`LossBands`): one of four, with the ends at the limits beyond which somebody must act.  That is four bits a
round about many thousand values, the same four in every round of a run whose clip fits, and it is what a server
needs to say whether the fault is one client's or everybody's.  A count inside the masked sum would tell the mean
alone and hide the one client among many whose update is lost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from fl.rounds.settings import Naming
from orchestrator.events.learning import Clipping

CLIPPED_LIMIT, VANISHED_LIMIT = 0.05, 0.99
"""Beyond these somebody is warned."""
CLIPPED_ENDS = (0.01, CLIPPED_LIMIT, 0.25, 1.0)
VANISHED_ENDS = (0.5, 0.9, VANISHED_LIMIT, 1.0)
"""The upper ends of the bands that are told."""

Band: TypeAlias = Annotated[int, Meta(ge=0, le=3)]


class LossBands(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client tells of one round: the band of either share, counted from 0."""

    clipped: Band
    vanished: Band


class Losses(msgspec.Struct, frozen=True):
    """The shares themselves, from 0 to 1: for the client's own operator and nobody else."""

    clipped: float
    vanished: float

    @property
    def bands(self) -> LossBands:
        """What may be told."""
        return LossBands(bisect_left(CLIPPED_ENDS, self.clipped), bisect_left(VANISHED_ENDS, self.vanished))

    def warning(self, clip: float, levels: int) -> str:
        """What the client's operator is warned of; empty where nothing is wrong."""
        found = []
        if self.clipped > CLIPPED_LIMIT:
            found.append(f"{100 * self.clipped:.1f} % of the update was cut off at the clip {clip:g}")
        if self.vanished > VANISHED_LIMIT:
            found.append(
                f"{100 * self.vanished:.1f} % of the update was rounded to nothing (one level is {clip / levels:.3g})"
            )
        return " and ".join(found)


def clipping_of(bands: Iterable[LossBands | None]) -> Clipping | None:
    """The round of clients that told these bands; None where none of them could tell."""
    told = [each for each in bands if each is not None]
    if not told:
        return None
    clipped = [CLIPPED_ENDS[each.clipped] for each in told]
    vanished = [VANISHED_ENDS[each.vanished] for each in told]
    return Clipping(
        len(told),
        max(clipped),
        max(vanished),
        sum(end > CLIPPED_LIMIT for end in clipped),
        sum(end > VANISHED_LIMIT for end in vanished),
    )


def worst(rounds: Iterable[Clipping | None]) -> Clipping | None:
    """The worst of the same round of several runs, figure by figure."""
    told = [each for each in rounds if each is not None]
    if not told:
        return None
    return Clipping(*(max(getattr(each, name) for each in told) for name in Clipping.__struct_fields__))


def clip_warnings(
    rounds: Sequence[Clipping | None], clip: float, levels: int, named: Naming = str
) -> tuple[str, ...]:
    """What to warn of after these rounds of a run, loudest first; empty where clip and levels fit.

    ``clip`` is that of the first round, ``levels`` L of :mod:`fl.rounds.quantise`; ``named`` says how whoever chose them
    calls them.
    """
    told = [each for each in rounds if each is not None]
    cut = [each for each in told if each.clipped_clients]
    lost = [each for each in told if each.vanished_clients]
    found = []
    if cut:
        found.append(
            f"WARNING: the clip is too small: more than {100 * CLIPPED_LIMIT:g} % of the update was cut off "
            f"{_where(cut, told, [each.clipped_clients for each in cut])} (up to "
            f"{100 * max(each.clipped for each in cut):g} %); {named('clip')} is {clip:g}: raise it"
        )
    if lost:
        found.append(
            f"WARNING: the clip is too large: more than {100 * VANISHED_LIMIT:g} % of the update was rounded to "
            f"nothing {_where(lost, told, [each.vanished_clients for each in lost])}; one level is "
            f"{named('clip')} / {named('levels')} = {clip / levels:.3g}: lower the one or raise the other"
        )
    return tuple(found)


def _where(hit: Sequence[Clipping], told: Sequence[Clipping], clients: Sequence[int]) -> str:
    most = max(each.clients for each in hit)
    if len(told) == 1:
        return f"at {max(clients)} of {most} clients"
    return f"in {len(hit)} of {len(told)} rounds, at up to {max(clients)} of {most} clients"
