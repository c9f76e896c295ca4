"""The four histograms that an ID900 makes on board, as QCoDeS parameters with a time axis.

A histogram counts the events of its input by the time since the last one of START, while records run, until it is
flushed.  Sources: ID Quantique, Time Controller Series User Manual, sections 8.2.1.7 and 9.2.9; IDQ Python examples
``utils/acquisitions.py`` (``acquire_histograms``) and ``adjust_bin_width`` (bins are a multiple of the resolution);
MSLNZ/pr-single-photons ``photons/equipment/idq_time_controller.py`` (``Flushed Histogram!``, reply of ``DATA?``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from drivers.links.errors import InstrumentError, InstrumentRefusedError, MalformedReplyError
from drivers.links.limits import Within
from drivers.settings import WithSettings
from drivers.timetaggers.id900_state import Known

MAX_BINS = 16384
MAX_TIME_PS = 1e12
COARSE_PS = 100.0
"""Bins come in steps of the resolution, which is this in its coarse mode: the nearest width is taken."""
DEFAULT_BIN_PS, DEFAULT_BINS = 1300.0, 1000  # multiples of the resolution in either mode

_COUNTS = re.compile(r"\s*\[\s*(?:\d+\s*(?:,\s*\d+\s*)*)?\]\s*", re.ASCII)


class Histogram:
    """One histogram of ``owner``, whose parameters ``histogram_N...`` it adds.

    ``ask`` asks the instrument, ``count`` its number at such a query, ``hold`` sets and reads back.
    """

    def __init__(
        self,
        owner: WithSettings,
        number: int,
        *,
        ask: Callable[[str], str],
        count: Callable[[str], int],
        hold: Callable[[Known], None],
        resolution_ps: Callable[[], int],
        error: Callable[[type[InstrumentError], str], InstrumentError],
    ) -> None:
        self._header = f"HISTogram{number}"
        self._ask, self._count, self._hold = ask, count, hold
        self._resolution_ps = resolution_ps
        self._error = error
        name = f"histogram_{number}"
        self.bin_width_ps = owner.add_setting(
            f"{name}_bin_width_ps",
            label=f"Bin width of histogram {number}",
            unit="ps",
            get=partial(count, f"{self._header}:BWIDth?"),
            put=self._put_bin_width,
            limits=Within(1.0, 1e9, "ps"),
            resolution=COARSE_PS,
        )
        self.bin_count = owner.add_setting(
            f"{name}_bin_count",
            label=f"Bins of histogram {number}",
            get=partial(count, f"{self._header}:BCOUnt?"),
            put=partial(self._put, "BCOUnt"),
            limits=Within(1, MAX_BINS, ""),
        )
        self.begin_ps = owner.add_setting(
            f"{name}_begin_ps",
            label=f"Beginning of histogram {number}",
            unit="ps",
            get=partial(count, f"{self._header}:MINimum?"),
            put=lambda time_ps: self._put("MINimum", time_ps, "TB"),
            limits=Within(0.0, MAX_TIME_PS, "ps"),
            resolution=1.0,
        )
        self._axis = (0.0, DEFAULT_BIN_PS, DEFAULT_BINS)  # beginning and bin width in ps, bins; as last read
        owner.add_curve(
            name,
            label=f"Histogram of input {number}",
            unit="counts",
            get=self._counts,
            axis=f"{name}_time_ns",
            axis_label="Time since START",
            axis_unit="ns",
            axis_points=self._centres_ns,
            docstring="Counts per bin since the last flush, int64 of shape (bins,); see flush_histogram().",
        )

    def reset(self) -> None:
        """The default axis, and no counts."""
        self._put("BWIDth", DEFAULT_BIN_PS, "TB")
        self._put("BCOUnt", DEFAULT_BINS)
        self.flush()

    def flush(self) -> None:
        """Forget the counts."""
        reply = self._ask(f"{self._header}:FLUSh")
        if not reply.startswith("Flushed"):
            raise self._error(InstrumentRefusedError, f"{self._header}:FLUSh was answered by {reply[:60]!r}")

    def _put_bin_width(self, width_ps: float) -> None:
        step_ps = self._resolution_ps()
        self._put("BWIDth", max(1, round(width_ps / step_ps)) * step_ps, "TB")

    def _put(self, name: str, value: float, unit: str = "") -> None:
        self._hold(Known(f"{self._header}:{name}", float(round(value)), unit))
        self._read_axis()

    def _read_axis(self) -> int:
        bins = int(self.bin_count())
        self._axis = (float(self.begin_ps()), float(self.bin_width_ps()), bins)
        return bins

    def _centres_ns(self) -> npt.NDArray[np.float64]:
        """Centres of the bins in ns since START, float64 of shape (bins,)."""
        begin_ps, width_ps, bins = self._axis
        return np.asarray((begin_ps + (np.arange(bins) + 0.5) * width_ps) / 1000.0, dtype=np.float64)

    def _counts(self) -> npt.NDArray[np.int64]:
        """Counts per bin, int64 of shape (bins,)."""
        bins = self._read_axis()
        reply = self._ask(f"{self._header}:DATA?")
        if not _COUNTS.fullmatch(reply):
            raise self._error(
                MalformedReplyError,
                f"{self._header}:DATA? was answered by {len(reply)} characters, no counts",
            )
        numbers = [int(count) for count in re.findall(r"\d+", reply)]
        if max(numbers, default=0) > np.iinfo(np.int64).max:
            raise self._error(MalformedReplyError, f"{self._header}:DATA? holds a count beyond 64 bits")
        counts = np.array(numbers, dtype=np.int64)
        if len(counts) > bins:
            raise self._error(MalformedReplyError, f"{self._header} shows {len(counts)} bins of {bins}")
        return np.pad(counts, (0, bins - len(counts)))  # bins that nothing reached may be left out at the end
