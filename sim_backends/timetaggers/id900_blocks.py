"""How clicks run through the blocks of a simulated ID900: inputs, delays, combiners, histograms and raw timestamps.

Pure functions.  A *link* names the block that feeds another: ``STAR``, ``INPU1``, ``DELA1``, ``TSCO5``, ``NONE``.  By
default DELA1..4 delay the inputs and TSCO5..8 forward DELA1..4.  Times count from the last event on the block's REF
link; without a reference, from the beginning of the record.  Source: ID Quantique, Time Controller Series User
Manual, sections 8.2.1.7, 8.2.1.8 and 9.2.9.  Whether ``OPIN`` or ``OPOUt`` rules a combiner whose window is off differs
between the vendor's examples: here both must forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Ticks = npt.NDArray[np.uint64]
"""1-d uint64, sorted: ps since the beginning of the record, on the grid of the resolution."""
Value = Callable[[str, int], "str | float"]
"""A setting by its header and channel."""

_BLOCK = re.compile(r"(STAR|INPU|DELA|TSCO)[A-Z]*(\d*)")


def events(link: str, clicks: Mapping[int, Ticks], value: Value) -> Ticks:
    """The events on the block called ``link`` during one record."""
    found = _BLOCK.fullmatch(link)
    nothing = np.empty(0, np.uint64)
    if found is None:
        return nothing
    number = int(found[2] or 0)
    if found[1] == "STAR":
        starts = clicks.get(0, nothing)
        return starts + np.uint64(float(value("STARt:DELAy", 0)))
    if found[1] == "INPU":
        hears = value("INPUt#:ENABle", number) == "ON" and value("INPUt#:SELEct", number) in (
            "SHAPED",
            "UNSHAPED",
            "OUTPUT",
        )
        return clicks.get(number, nothing) if hears else nothing
    if found[1] == "DELA":
        fed_by = str(value("DELAy#:[INPOrt:]LINK", number))
        delay = np.uint64(float(value("DELAy#:VALUe", number)))
        return events(fed_by, clicks, value) + delay if delay else events(fed_by, clicks, value)
    forwards = value("TSCOmbiner#:WINDow:ENABle", number) == "OFF" and all(
        value(f"TSCOmbiner#:{operation}", number) == "ONLYFIR" for operation in ("OPIN", "OPOUt")
    )
    fed_by = str(value("TSCOmbiner#:FIRst:LINK", number))
    return events(fed_by, clicks, value) if forwards else nothing


def intervals(stop: Ticks, reference: Ticks) -> tuple[Ticks, Ticks | np.uint64]:
    """For each stop event: time since the last reference event, and how many of these came before that one.

    Before the first reference event times count from the beginning of the record.  With no reference but the beginning
    the times are the events themselves, in order, and the count is one number for all.
    """
    if not reference.size:
        return stop, np.uint64(0)
    last = np.searchsorted(reference, stop, side="right")
    begun = np.concatenate([np.zeros(1, np.uint64), reference])[last]
    return stop - begun, np.maximum(last, 1).astype(np.uint64) - np.uint64(1)


def binned(block: int, clicks: Mapping[int, Ticks], value: Value) -> npt.NDArray[np.int64]:
    """What one record adds to histogram ``block``: counts per bin, int64 of shape (BCOUnt,)."""
    bins = int(float(value("HISTogram#:BCOUnt", block)))
    if value("HISTogram#:[INPOrt:]ENABle:LINK", block) != "REC":
        return np.zeros(bins, np.int64)
    stop_link, reference_link = (
        str(value(f"HISTogram#:[INPOrt:]{port}:LINK", block)) for port in ("STOP", "REF")
    )
    stop = events(stop_link, clicks, value)
    if stop_link == reference_link:  # autocorrelation: between consecutive events
        times = np.sort(stop[1:] - stop[:-1])
    else:
        times, since = intervals(stop, events(reference_link, clicks, value))
        times = times if since.ndim == 0 else np.sort(times)
    minimum, width = (int(float(value(f"HISTogram#:{name}", block))) for name in ("MINimum", "BWIDth"))
    first, end = np.searchsorted(times, np.array([minimum, minimum + width * bins], np.uint64))
    places = (times[first:end] - np.uint64(minimum)) // np.uint64(width)
    return np.bincount(places.astype(np.int64), minlength=bins).astype(np.int64)
