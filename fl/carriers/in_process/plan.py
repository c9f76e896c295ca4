"""The public numbers of a cohort, settled and checked before any work begins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fl.carriers.in_process.results import CohortError
from fl.modes.base import Aggregation
from fl.modes.lightsecagg import LightSecAgg
from fl.modes.shares import ShareCode
from fl.modes.table import MODES, Security
from fl.rounds.aggregation import aggregation_for
from fl.rounds.compression import Compression
from fl.rounds.config import FLConfig, check_config


@dataclass(frozen=True)
class Vanished:
    """The clients that drop out of a round: before their upload, or between upload and answer."""

    before_upload: tuple[int, ...] = ()
    before_answer: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before_upload) + len(self.before_answer)


@dataclass(frozen=True)
class CohortPlan:
    """A run of ``config`` for a task of ``n_parameters``; with ``float32`` updates are averaged as they are,
    neither compressed nor protected."""

    config: FLConfig
    n_parameters: int
    float32: bool
    drop_outs: int

    @cached_property
    def aggregation(self) -> Aggregation:
        """The run as a distributed one: what protects its updates and reads its sums."""
        return aggregation_for(self.config, self.n_parameters)

    @cached_property
    def code(self) -> ShareCode | None:
        """The code of the secret shares, where the mode has them."""
        mode = None if self.float32 else self.aggregation
        return mode.code(self.n_clients) if isinstance(mode, LightSecAgg) else None

    @property
    def n_clients(self) -> int:
        return self.config.n_clients

    @property
    def compression(self) -> Compression:
        return Compression.from_config(self.config)

    @property
    def n_values(self) -> int:
        """Values that a client sends in a round."""
        return self.aggregation.n_values

    @property
    def weights(self) -> tuple[int, ...]:
        return self.config.client_weights

    @property
    def value_bits(self) -> int:
        """Bits of one value on the wire."""
        return self.aggregation.value_bits

    @property
    def upload_words(self) -> int:
        """64-bit words that hold a packed upload."""
        return (self.n_values * self.value_bits + 63) // 64

    @property
    def masks_pairwise(self) -> bool:
        return not self.float32 and not self.config.protection.drop_outs

    @property
    def n_pairs(self) -> int:
        return self.n_clients * (self.n_clients - 1) // 2

    @property
    def key_bits_per_pair(self) -> int:
        """Key that a pair of clients spends in a distributed round, the tags on shares included."""
        return 0 if self.float32 else self.aggregation.key_bits_per_pair

    @property
    def upload_bytes_per_client(self) -> int:
        """Bytes that one client sends to the server in a complete distributed round."""
        if self.float32:
            return 4 * self.n_parameters
        return self.aggregation.rules(self.config.clients).upload_bytes(self.n_clients)

    @property
    def security(self) -> Security:
        return "none" if self.float32 else self.config.protection.security

    def vanished(self, round_number: int) -> Vanished:
        """Who drops out of a round: drawn from the seed of the run, half of them after their upload."""
        if not self.drop_outs:
            return Vanished()
        rng = np.random.default_rng([self.config.seed, round_number, 0xD0])
        drawn = [int(client) for client in rng.choice(self.n_clients, self.drop_outs, replace=False)]
        late = len(drawn) // 2 if self.code else 0
        return Vanished(tuple(sorted(drawn[late:])), tuple(sorted(drawn[:late])))


def make_plan(
    config: FLConfig, n_parameters: int, *, float32: bool = False, drop_outs: int = 0
) -> CohortPlan:
    """The plan of a run; raises ConfigError, QuantisationError, ShareCodeError or CohortError."""
    check_config(config)
    plan = CohortPlan(config, n_parameters, float32, drop_outs)
    _check_drop_outs(plan)
    return plan


def _check_drop_outs(plan: CohortPlan) -> None:
    n, drop_outs = plan.n_clients, plan.drop_outs
    if not 0 <= drop_outs < n:
        raise CohortError(f"{drop_outs} of {n} clients cannot drop out of every round")
    if plan.masks_pairwise and drop_outs:
        raise CohortError(
            f"mode {plan.config.mode} has no sum if a client vanishes within a round; "
            f"use mode {' or '.join(each.name for each in MODES.values() if each.drop_outs and each.cipher)} for drop-outs"
        )
    if plan.code and n - drop_outs < plan.code.survivors:
        raise CohortError(
            f"{drop_outs} drop-outs of {n} clients leave fewer than U = {plan.code.survivors} survivors; "
            f"at most {n - plan.code.survivors} may drop out"
        )
