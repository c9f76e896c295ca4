"""What a protocol gives: the one seam between a way of making key and everything that runs it.

A :class:`KeyProtocol` stands in the catalogue under its name.  It plans blocks, and whatever differs between protocols
hangs on the :class:`BlockPlan`: the symbols of a frame and the phases that they drive (:class:`PulseSymbols`), what a user
publishes of a click and which clicks are kept, what the counts of a block must be, and how many bits of it are secret.
Light phase, sifting and post-processing know plans and no protocol.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator.bits import BitArray
from orchestrator.events.status import Light, Monitoring
from orchestrator.protocols.epsilons import verification_tags

BoolArray = npt.NDArray[np.bool_]
"""1-d bool."""
Codes = npt.NDArray[np.uint8]
"""1-d uint8: one symbol, or one published label, per element."""

_LEAK_FACTOR = 1.3
"""Reconciliation is given up when it has disclosed this multiple of n h(qber_limit)."""


def binary_entropy(p: float) -> float:
    """h(p) in bits; p outside [0, 1] is clamped."""
    if p <= 0.0 or p >= 1.0:
        return 0.0
    return -(p * math.log2(p) + (1.0 - p) * math.log1p(-p) / math.log(2.0))


class PulseSymbols(ABC):
    """The symbols of a block: how they are drawn, driven, published and kept.

    ``phases_rad`` is the optical phase of each symbol code.  A user publishes a *label* of ``label_bits`` bits for
    every click; what the label does not tell stays secret.
    """

    phases_rad: ClassVar[tuple[float, ...]]
    label_bits: ClassVar[int]

    @property
    @abstractmethod
    def of_bytes(self) -> Codes:
        """Symbol code of each value of a random byte, uint8 of shape (256,)."""

    @abstractmethod
    def labels(self, symbols: Codes) -> Codes:
        """What is published of each symbol: uint8 of shape (n,), below ``2**label_bits``."""

    @abstractmethod
    def bits(self, symbols: Codes) -> BitArray:
        """The secret bit of each symbol: uint8 of shape (n,)."""

    @abstractmethod
    def kept(self, first: Codes, second: Codes) -> tuple[BoolArray, BoolArray]:
        """Which clicks make key and which are disclosed as test bits, by the labels of both users; bool, shape (n,)."""

    def told(self, first: Codes, second: Codes) -> BoolArray:
        """Of which clicks, neither key nor test, the second user tells its symbols; bool, shape (n,).

        None, unless the proof of a protocol allows it: they serve to follow what drifts.
        """
        return np.zeros(first.shape, np.bool_)

    def code_of(self, labels: Codes, bits: Codes) -> Codes:
        """The symbols of these labels and bits, uint8 of shape (n,)."""
        codes = np.arange(len(self.phases_rad), dtype=np.uint8)
        table = np.zeros((1 << self.label_bits, 2), np.uint8)
        table[self.labels(codes), self.bits(codes)] = codes
        return table[labels, bits]


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """What a user counted in a block.

    ``n_pulses`` slots emitted by its own count, lost frames included; ``n_announced`` clicks of exactly one
    detector; ``n_key`` and ``n_test`` of them kept for key and disclosed; ``n_drawn`` key rounds with a drawn label
    (:meth:`BlockPlan.draw_labels`); ``test_errors`` among the disclosed bits; ``key_errors`` found by reconciliation
    (None if not known); ``leak_bits`` every bit disclosed by reconciliation plus one per verification outcome;
    ``n_kept`` key rounds that become key (None: all).  ``by_labels[a][b]``: clicks for which the first user
    published label a and the second label b.  ``lost_pulses`` of the slots were in lost frames, from which nothing is
    kept.  ``by_detector``: the announced clicks of D1 and D2, and ``test_errors_by_detector`` those of the test errors;
    zeros where nobody counted.
    """

    n_pulses: int
    n_announced: int
    n_key: int
    n_test: int
    n_drawn: int
    test_errors: int
    leak_bits: int
    key_errors: int | None = None
    n_kept: int | None = None
    by_labels: tuple[tuple[int, ...], ...] = ()
    lost_pulses: int = 0
    by_detector: tuple[int, int] = (0, 0)
    test_errors_by_detector: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a block is given up, and the calibrations that would mend it, likeliest first; none where none would."""

    reason: str
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}: calibrate {', '.join(self.steps)}" if self.steps else self.reason


@dataclass(frozen=True, slots=True)
class KeyLength:
    """The secret length of a block: ``reason`` says why ``bits`` is 0; ``unclipped_bits`` may be negative."""

    bits: int
    phase_error_upper: float
    leak_bits: float
    unclipped_bits: float
    reason: str = ""

    def refused(self, reason: str) -> KeyLength:
        """The same figures for a block that is given up for ``reason``."""
        return replace(self, bits=0, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan(ABC):
    """What both users of a pair fix, and compare, before a block; "a" is the first user, "b" the second.

    ``mu_a``, ``mu_b`` are the mean photon numbers per slot at the users' outputs, ``gain`` and ``qber`` what is
    expected of the channel, ``expected_bits`` the key of a block that comes out so (0: not worth starting).
    ``light`` and ``monitoring`` say what the secrecy of the key rests on, and stand in every report of it.
    ``lost_frames_limit`` is the part of the frames that may be lost.
    """

    n_pulses: int
    mu_a: float
    mu_b: float
    eps_sec: float
    eps_cor: float
    qber_limit: float
    gain: float
    qber: float
    expected_bits: int
    light: Light = "assumed"
    monitoring: Monitoring = "monitored"
    lost_frames_limit: float = 0.25

    @property
    @abstractmethod
    def p_x(self) -> float:
        """Probability of the basis that makes key."""

    @property
    @abstractmethod
    def symbols(self) -> PulseSymbols:
        """The symbols that both users draw."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex), equal iff both users planned the same block of the same protocol."""

    @abstractmethod
    def violations(self, counts: BlockCounts) -> tuple[Misfit, ...]:
        """Why a block with these counts must be given up; empty if it fits the plan."""

    @abstractmethod
    def secret_length(self, counts: BlockCounts) -> KeyLength:
        """Secret bits of a counted block: 0, with the reason, where it does not fit the plan or is too small."""

    @abstractmethod
    def predicted_bits(self, counts: BlockCounts) -> int:
        """Secret bits that a block of the calibrated ring gives at the arrivals counted, its own error rates left out."""

    def draw_labels(self, n_rounds: int, read_random: Callable[[int], bytes]) -> BitArray:
        """Labels that the first user draws for the key rounds once the announcement is fixed; uint8, shape (n,).

        ``read_random(k)`` returns k uniformly random bytes, private until the labels are published.  All 0 where a
        protocol needs none.
        """
        return np.zeros(n_rounds, np.uint8)

    @property
    def key_rate_per_pulse(self) -> float:
        """Expected secret bits per emitted pulse."""
        return self.expected_bits / self.n_pulses

    @property
    def tolerance_db(self) -> tuple[float, float]:
        """How far either user's intensity may exceed its nominal value and still be charged in full."""
        return 0.0, 0.0

    def figures(self) -> dict[str, float | int | None]:
        """What ``keyrate`` tells of the plan."""
        return {
            "gain": self.gain,
            "qber": self.qber,
            "key_rate_per_pulse": self.key_rate_per_pulse,
            "key_bits": self.expected_bits,
            **{"mu_a": self.mu_a, "mu_b": self.mu_b, "p_x": self.p_x},
        }

    def verification_tags(self, n_key: int) -> int:
        """Tags over the corrected block that keep ``eps_cor``."""
        return verification_tags(n_key, self.eps_cor)

    def leak_limit_bits(self, n_key: int) -> int:
        """Parity bits after which the reference side of reconciliation aborts, ``1.3 n h(qber_limit)``."""
        return math.floor(_LEAK_FACTOR * n_key * binary_entropy(self.qber_limit))


class KeyProtocol(ABC):
    """A way of making key, as the catalogue lists it.

    ``key_rate`` is the answer of ``qunetlab keyrate``, whose options it takes: settings left None are optimised, and
    without ``n_pulses`` it is asymptotic.  It raises ParameterError naming the argument that is out of range.
    """

    key_rate: ClassVar[Callable[..., dict[str, float | int | None]]]

    @abstractmethod
    def plan(self, testbed: Testbed, first: str, second: str) -> BlockPlan:
        """The block plan of a pair, from the testbed file alone, so that both nodes arrive at the same."""

    def refusals(self, testbed: Testbed, first: str, second: str) -> list[str]:
        """Why a pair cannot make key on this testbed, a sentence with its figures each; none where it can."""
        return []
