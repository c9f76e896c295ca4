"""From the app's trained model to the integers of a round, and under pads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord

from fl.carriers.flower.arrays import change, model_record
from fl.carriers.flower.call import Call
from fl.carriers.flower.leaving import APP_FAILED, AppFailedError, Told, told_of
from fl.carriers.flower.participant import Participant
from fl.carriers.flower.records import RoundAnnouncement
from fl.keys.node import CancelledError, KeyWait, NodeKeys, ProtectedUpdate
from fl.modes.base import Aggregation, RoundInputs
from fl.rounds.clipping import LossBands
from fl.rounds.compression import Compression, ErrorFeedback
from fl.rounds.exchange import ShareExchange
from fl.rounds.messages import Upload, header_of
from fl.workloads.base import Parameters
from orchestrator.delivery.messages import RoundContext

Tell = Callable[[KeyWait], None]
ROUNDS_AHEAD = 2
"""Key demand covers this round and the next, which is made while this one trains."""

_log = logging.getLogger(__name__)


def update_from(call: Call) -> tuple[Parameters, Told]:
    """Let the app train; returns its update, flat, and the metrics that may be told; raises AppFailedError."""
    model = ArrayRecord(dict(call.model))
    trained = call.app_reply()
    try:
        update = change(model, model_record(trained, "the app's reply"))
    except ValueError as error:
        _log.error("%s returned no model that can be added up: %s", call.participant.user, error)
        raise AppFailedError(APP_FAILED) from error
    return update, told_of(trained, call.participant.public_metrics)


def quantise(
    update: Parameters, announcement: RoundAnnouncement, participant: Participant
) -> tuple[npt.NDArray[np.int64], LossBands]:
    """The integers to send for an update (1-d int64, one per value of a round), and what may be told of what they lost; raises UpdateNotFiniteError."""
    config, number, user = announcement.config, announcement.round, participant.user
    compression = Compression.from_config(config)
    rng = participant.choices(config.seed).rounding(number, config.clients.index(user))
    feedback = ErrorFeedback(compression, config.seed, update.size)  # kept nowhere: each message stands alone
    values = feedback.compress(update, number, rng, client=user)
    assert feedback.losses is not None
    if warning := feedback.losses.warning(compression.clip * compression.decayed(number), compression.levels):
        _log.warning("%s, round %d: %s", user, number, warning)
    return values, feedback.losses.bands


def ask_for_keys(announcement: RoundAnnouncement, aggregation: Aggregation, keys: NodeKeys) -> None:
    """Tell the scheduler, through the node, which keys the coming rounds need."""
    peers = tuple(name for name in announcement.participants if name != keys.owner)
    keys.demand(peers, ROUNDS_AHEAD * aggregation.key_bits_per_pair)


def protect_update(
    call: Call,
    announcement: RoundAnnouncement,
    aggregation: Aggregation,
    agreed: RoundContext,
    update: Parameters,
    keys: NodeKeys,
) -> tuple[ProtectedUpdate, LossBands]:
    """The masked update and what may be told of what it lost; gives up, with the reserved pads burnt, after the run's time for waiting."""
    config, user = announcement.config, call.participant.user
    values, bands = quantise(update, announcement, call.participant)
    bound = config.levels * sum(config.weights_of(announcement.participants))
    with patience(call, announcement) as (cancelled, tell):
        inputs = RoundInputs(agreed, user, bound, keys, ShareExchange(cancelled), cancelled, tell)
        return aggregation.prepare(inputs).protect(values, config.weights_of((user,))[0]), bands


def upload_of(
    call: Call,
    announcement: RoundAnnouncement,
    aggregation: Aggregation,
    agreed: RoundContext,
    protected: ProtectedUpdate,
    bands: LossBands | None,
) -> Upload:
    """The message that describes the packed update; ``bands`` where this process quantised it."""
    return Upload(
        agreed.run_id,
        agreed.round,
        agreed.digest(),
        announcement.config.weights_of((call.participant.user,))[0],
        aggregation.n_values,
        aggregation.value_bits,
        protected.key_bits,
        header_of(protected.packed),
        bands,
    )


@contextmanager
def patience(call: Call, announcement: RoundAnnouncement) -> Iterator[tuple[threading.Event, Tell]]:
    """Yields an event that is set after the run's waiting time, and a function that logs why the client waits.

    Raises CancelledError with the last of these reasons when that time is over.
    """
    cancelled = threading.Event()
    told: dict[bool, str] = {}

    def tell(wait: KeyWait) -> None:
        first = wait.for_keys not in told
        told.pop(wait.for_keys, None)
        told[wait.for_keys] = wait.detail
        if first:
            _log.info("%s waits in round %d: %s", call.participant.user, announcement.round, wait.detail)

    timer = threading.Timer(announcement.config.wait_timeout_s, cancelled.set)
    timer.daemon = True
    timer.start()
    try:
        yield cancelled, tell
    except CancelledError as error:
        why = next(reversed(told.values()), "nothing came back from the node")
        text = f"gave up after {announcement.config.wait_timeout_s:g} s: {why}"
        raise CancelledError(text, error.key_bits, error.spent_with) from error
    finally:
        timer.cancel()
