"""Metrics of learning: the server's rounds, and what a client is doing."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.events.learning import (
    ClientDropped,
    ClientState,
    RoundAborted,
    RoundCompleted,
    RoundStarted,
    UploadRefused,
    WaitingForClients,
)
from orchestrator.events.status import Learning
from orchestrator.metrics.rows import OTHER, By, Metric, Sample, one, one_of

CLIENT_PHASES = (
    *("link", "idle", "loading", "training", "waiting for keys", "waiting for peers", "masking"),
    *("uploaded", "answered"),
)
"""What a client does between two words of how a round ended; the phases of its carriers are among them."""
CLIENT_ENDINGS = {"round done": "done", "round aborted": "aborted", "declined": "declined"}


def _phase(item: ClientState) -> str:
    return item.phase if item.phase in CLIENT_PHASES else OTHER


def _ending(item: ClientState, by: By) -> Iterable[Sample]:
    if item.phase in CLIENT_ENDINGS:
        yield (CLIENT_ENDINGS[item.phase],), 1.0


def _missing(item: ClientState, by: By) -> Iterable[Sample]:
    return (((by.names.pair(item.client, peer),), bits) for peer, bits in item.missing_bits.items())


LEARNING = (
    Metric(
        "qunetlab_rounds_completed_total",
        "adds",
        "",
        "Rounds that gave a sum",
        (),
        RoundCompleted,
        one(lambda _: 1),
    ),
    Metric(
        "qunetlab_rounds_aborted_total",
        "adds",
        "",
        "Rounds that gave no sum",
        (),
        RoundAborted,
        one(lambda _: 1),
    ),
    Metric(
        "qunetlab_round",
        "gauge",
        "",
        "The latest round that began",
        (),
        RoundStarted,
        one(lambda item: item.round),
    ),
    Metric(
        "qunetlab_round_participants",
        "gauge",
        "",
        "Clients of the latest round that began",
        (),
        RoundStarted,
        one(lambda item: len(item.participants)),
    ),
    Metric(
        "qunetlab_round_duration_seconds",
        "gauge",
        "seconds",
        "What the latest round took",
        (),
        RoundCompleted,
        one(lambda item: item.record.duration_s),
    ),
    Metric(
        "qunetlab_round_key_wait_seconds",
        "gauge",
        "seconds",
        "For how long the latest round waited for key",
        (),
        RoundCompleted,
        one(lambda item: item.record.key_wait_s),
    ),
    Metric(
        "qunetlab_round_upload_bytes",
        "gauge",
        "bytes",
        "What the clients of the latest round sent",
        (),
        RoundCompleted,
        one(lambda item: item.record.upload_bytes),
    ),
    Metric(
        "qunetlab_upload_bytes_total",
        "adds",
        "bytes",
        "What clients sent in rounds that gave a sum",
        (),
        RoundCompleted,
        one(lambda item: item.record.upload_bytes),
    ),
    Metric(
        "qunetlab_round_key_bits_total",
        "adds",
        "bits",
        "Key that rounds with a sum spent, each pad once",
        (),
        RoundCompleted,
        one(lambda item: item.record.key_bits_used),
    ),
    Metric(
        "qunetlab_round_burnt_bits_total",
        "adds",
        "bits",
        "Key that rounds without a sum had spent by their end",
        (),
        RoundAborted,
        one(lambda item: item.record.key_bits_burnt),
    ),
    Metric(
        "qunetlab_model_accuracy_ratio",
        "gauge",
        "ratio",
        "Accuracy of the global model after the latest round",
        (),
        RoundCompleted,
        one(lambda item: item.record.accuracy),
    ),
    Metric(
        "qunetlab_clients_missing",
        "gauge",
        "",
        "Clients that the server waits for",
        (),
        WaitingForClients,
        one(lambda item: len(item.missing)),
    ),
    Metric(
        "qunetlab_uploads_refused_total",
        "adds",
        "",
        "Updates that the server refused",
        (),
        UploadRefused,
        one(lambda _: 1),
    ),
    Metric(
        "qunetlab_clients_dropped_total",
        "adds",
        "",
        "Participants that gave nothing to a stage of a round",
        (),
        ClientDropped,
        one(lambda _: 1),
    ),
    Metric(
        "qunetlab_training_state",
        "gauge",
        "",
        "1 for how the training run stands",
        ("state",),
        Learning,
        one_of(("running", "waiting", "finished", "failed"), lambda item: item.state),
    ),
    Metric(
        "qunetlab_training_rounds",
        "gauge",
        "",
        "Rounds of the run",
        (),
        Learning,
        one(lambda item: item.rounds),
    ),
    Metric(
        "qunetlab_training_done_rounds",
        "gauge",
        "",
        "Rounds of the run that gave a sum",
        (),
        Learning,
        one(lambda item: item.done),
    ),
    Metric(
        "qunetlab_client_phase",
        "gauge",
        "",
        "1 for what a client is doing",
        ("phase",),
        ClientState,
        one_of((*CLIENT_PHASES, OTHER), _phase),
    ),
    Metric(
        "qunetlab_client_rounds_total",
        "adds",
        "",
        "Rounds of a client by how they ended for it",
        ("outcome",),
        ClientState,
        _ending,
    ),
    Metric(
        "qunetlab_client_missing_bits",
        "gauge",
        "bits",
        "Key that a client waits for",
        ("pair",),
        ClientState,
        _missing,
    ),
)
