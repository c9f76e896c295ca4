"""What a way of aggregating is: how a client protects its update, and how the server reads the sum.

An :class:`Aggregation` belongs to one run.  It says what a round looks like on the wire (:class:`RoundRules`)
and under which :class:`RoundContext` the nodes release key for it; on the client's side it protects one
update per round, on the server's side it reads the sum off the uploads (and, where a mode has them, the
answers).  The round itself is kept by :mod:`fl.rounds.engine`, which knows rules and no mode.

Values on the wire are those of :mod:`fl.rounds.compression`: as many as a round carries, integers whose weighted sum
is exact.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fl.keys.node import KeyServiceError, KeyWait, NodeKeys, ProtectedUpdate
from fl.modes.table import MODES, Mode
from orchestrator import runtime
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.consent import RunDescription
from orchestrator.delivery.messages import PAIRWISE, RoundContext
from orchestrator.delivery.sharing import TAG_BYTES

MODES_FILE = "fl/modes/table.py"
NO_MODEL = bytes(32)
"""In place of a model's digest, where only size and cost of a round are asked for."""


class AggregationError(Exception):
    """What arrived does not add up to a possible sum; the round is aborted."""


class ModeError(ValueError):
    """A mode of the table whose aggregation is not there."""


class Settings(Protocol):
    """What a mode needs to know of the settings of a run (:class:`fl.rounds.config.FLConfig`)."""

    @property
    def run_id(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def clients(self) -> tuple[str, ...]: ...
    @property
    def client_weights(self) -> tuple[int, ...]: ...
    @property
    def levels(self) -> int: ...
    @property
    def ring_width(self) -> int: ...
    @property
    def thresholds(self) -> tuple[int, int]: ...
    def weights_of(self, participants: Sequence[str]) -> tuple[int, ...]: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class RoundRules:
    """A round on the wire.

    An upload is ``n_values`` numbers of ``value_bits`` bits, packed.  ``survivors`` is U where clients may
    drop out, and None where the sum needs every participant.  With U set, every client first sends each
    other one a sealed share of ``sealed_bytes``, and answers with ``answer_bits`` at the end.  Every pair of
    participants spends ``key_bits_per_pair`` bits.
    """

    n_values: int
    value_bits: int
    key_bits_per_pair: int
    survivors: int | None = None
    sealed_bytes: int = 0
    answer_bits: int = 0

    def upload_bytes(self, n_participants: int) -> int:
        """What one client sends to the server in a round of so many that nobody leaves."""
        update = packed_size(self.n_values * self.value_bits)
        if self.survivors is None:
            return update
        per_peer = self.sealed_bytes + TAG_BYTES  # a share, and that one is bound to the survivors
        return update + (n_participants - 1) * per_peer + packed_size(self.answer_bits)


class Exchange(Protocol):
    """How a client's shares reach its peers (through the server) and theirs come back."""

    def swap(self, sealed: Mapping[str, bytes], key_bits: int) -> Mapping[str, bytes]:
        """Send one sealed share per peer and wait for those of the peers, which may be fewer.

        Raises CancelledError when the round ends before.
        """

    def hold(self, held_shares: RoundShares) -> None:
        """From here on the client can answer."""


class RoundShares(Protocol):
    """The shares that a client holds of others in one round, and of itself."""

    @property
    def context(self) -> RoundContext: ...

    @property
    def senders(self) -> tuple[str, ...]:
        """Whose shares are held, in the order of the participants; the client's own included."""

    def confirmations(self, survivors: Sequence[str]) -> dict[str, bytes]:
        """For every peer among the senders: proof that this client is bound to ``survivors``."""

    def is_confirmed(self, peer: str, survivors: Sequence[str], proof: bytes) -> bool:
        """Did ``peer`` prove that it is bound to the same ``survivors``?"""

    def answer(self, survivors: Sequence[str]) -> PackedBits:
        """The sum of the survivors' shares, packed."""

    def close(self) -> None:
        """Overwrite what is secret."""


@dataclass(frozen=True)
class RoundInputs:
    """What a client has at hand in one round, besides its update."""

    context: RoundContext
    owner: str
    sum_bound: int
    keys: NodeKeys | None
    exchange: Exchange
    cancelled: runtime.Event
    tell: Callable[[KeyWait], None]

    def need_keys(self, mode: str) -> NodeKeys:
        """The node's keys; raises KeyServiceError where no node is configured, as no mode falls back to none."""
        if self.keys is None:
            raise KeyServiceError(f"mode {mode} needs a node that delivers keys, and none is configured")
        return self.keys


class Protection(Protocol):
    """One round at one client: ready to protect a single update."""

    def protect(self, values: npt.NDArray[np.int64], weight: int) -> ProtectedUpdate:
        """What the client uploads for ``weight * values`` (int64, shape (n_values,)); raises CancelledError or KeyServiceError."""


class Aggregation(ABC):
    """One way of adding up updates of ``n_values`` integers a round, in a run of ``config``.

    With the ``description`` to which operators consent, its rounds are those for which consenting clients get
    pads; without it costs and sizes can be asked for, and no pad is given.
    """

    def __init__(self, config: Settings, n_values: int, *, description: RunDescription | None = None) -> None:
        self.config = config
        self.mode: Mode = MODES[config.mode]
        self.n_values = n_values
        self._description = description
        self.run = bytes(32) if description is None else description.digest()
        """The digest of the description, or zeros, which name no run."""

    @abstractmethod
    def padded(self, n_participants: int) -> tuple[int, int]:
        """(numbers, bits of each) for which a round of so many takes pads from every pair."""

    @property
    def value_bits(self) -> int:
        """Bits of one packed value of an upload."""
        return self.padded(len(self.config.clients))[1]

    @property
    def key_bits_per_pair(self) -> int:
        """Key that every pair of participants spends in a round."""
        return self.context(1, self.config.clients).pad_bits if self.mode.cipher else 0

    @property
    def description(self) -> RunDescription:
        """The run as operators consent to it; raises ValueError where no first model is known."""
        if self._description is None:
            raise ValueError(f"run {self.config.run_id} is not described: its first model is not known")
        return self._description

    def context(
        self, round_number: int, participants: tuple[str, ...], model: bytes = NO_MODEL
    ) -> RoundContext:
        """What nodes and clients agree on before any key is released; ``model`` as :func:`model_digest` gives it."""
        n_values, bits = self.padded(len(participants))
        return RoundContext(
            self.config.run_id,
            round_number,
            participants,
            n_values,
            bits,
            self.mode.cipher or PAIRWISE[0],  # no node is asked about a mode without a cipher
            self.binding(len(participants)),
            self.run,
            model,
        )

    def rules(self, participants: Sequence[str]) -> RoundRules:
        """The round on the wire."""
        return RoundRules(self.n_values, self.value_bits, self.key_bits_per_pair)

    def stored(self, context: RoundContext, keys: NodeKeys | None) -> ProtectedUpdate | None:
        """What was protected for this round before a restart, if that may be sent again."""
        return None

    @abstractmethod
    def prepare(self, inputs: RoundInputs) -> Protection:
        """Everything that can be done before the update is there."""

    @abstractmethod
    def total(
        self,
        participants: Sequence[str],
        uploads: Mapping[str, PackedBits],
        answers: Mapping[str, PackedBits],
    ) -> npt.NDArray[np.int64]:
        """The exact sum, int64 of shape (n_values,), of the weighted values in ``uploads``.

        Raises AggregationError where the answers contradict each other or the sum is impossible.
        """

    def check_total(self, total: npt.NDArray[np.int64], survivors: Sequence[str]) -> npt.NDArray[np.int64]:
        """``total`` (int64, shape (n_values,)) if every value is within ``L sum(w)``: a pad that did not cancel shows here."""
        bound = self.config.levels * sum(self.config.weights_of(survivors))
        wrong = int(np.count_nonzero(np.abs(total) > bound))
        if wrong:
            raise AggregationError(
                f"{wrong} of {total.size} sums exceed {bound} in magnitude: masks did not cancel, because an "
                "upload or an answer was not made as agreed"
            )
        return total

    def binding(self, n_participants: int) -> str:
        """Public text that names the settings: clients who were told different ones release no key."""
        return f"settings {self.config.fingerprint()}"


def aggregation_class(mode: Mode) -> type[Aggregation]:
    """The class that the row names; raises ModeError where there is none."""
    module, _, name = mode.aggregation.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModeError(
            f"mode {mode.name} has no aggregation {mode.aggregation} ({error}): mend its row in {MODES_FILE}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Aggregation)):
        raise ModeError(
            f"mode {mode.name}: {mode.aggregation} is no Aggregation; mend its row in {MODES_FILE}"
        )
    return found


def model_digest(parameters: npt.NDArray[np.float32]) -> bytes:
    """SHA-256 of a global model (1-d float32), part of what the clients of a round agree on.

    A server that sent every client but one a model from which no training step leads away (dead units, say)
    would get sums of zeros and one update (Pasquini et al., arXiv:2111.07380).
    """
    return hashlib.sha256(np.ascontiguousarray(parameters, "<f4").tobytes()).digest()
