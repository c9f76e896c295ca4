"""Whether the rounds of a training hang together: who gave what, which key it took at both ends, and how the model moved.

The next model is worked out again from the one before and the published sum, bit for bit, by the function that server and
clients use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from fl.modes.base import Aggregation, model_digest
from fl.rounds.aggregation import aggregation_for
from fl.rounds.following import next_model
from fl.rounds.records import sum_digest
from fl.rounds.run_state import RunStateError, load_array
from fl.workloads.base import Parameters
from lab.runs.audit.case import Case, Learning
from lab.runs.audit.findings import Asking, Check
from orchestrator.events.learning import RoundRecord
from orchestrator.records.kinds import ModelFollowed, PadsTaken, Span, SumKept, UpdateGiven


@dataclass
class RoundTold:
    """All that is on record of one round: by the server, and by user, each with where it stands."""

    sums: list[tuple[SumKept, str]] = field(default_factory=list)
    updates: dict[str, tuple[UpdateGiven, str]] = field(default_factory=dict)
    followed: dict[str, tuple[ModelFollowed, str]] = field(default_factory=dict)
    pads: dict[str, list[tuple[PadsTaken, str]]] = field(default_factory=lambda: defaultdict(list))


def told_of(case: Case, run_id: str) -> dict[int, RoundTold]:
    """What roles have on record of a run's rounds."""
    told: dict[int, RoundTold] = defaultdict(RoundTold)
    for role in case.roles():
        for each in role.told:
            match each.record:
                case SumKept() as record if record.run_id == run_id:
                    told[record.round].sums.append((record, each.where))
                case UpdateGiven() as record if record.run_id == run_id:
                    told[record.round].updates[record.client] = record, each.where
                case ModelFollowed() as record if record.run_id == run_id:
                    told[record.round].followed[record.client] = record, each.where
                case PadsTaken() as record if record.run_id == run_id and not record.burnt:
                    told[record.round].pads[record.owner].append((record, each.where))
                case _:
                    pass
    return told


def _each_round(
    case: Case, ask: Asking
) -> Iterator[tuple[Learning, RoundRecord, RoundTold, SumKept | None, str]]:
    """Every completed round with what is on record of it; what does not even meet is told here."""
    for learning in case.learning:
        told = told_of(case, learning.state.config.run_id)
        for record in learning.state.rounds:
            of_round = told[record.round]
            kept, where = of_round.sums[-1] if of_round.sums else (None, case.place(learning.folder))
            yield learning, record, of_round, kept, where
    if not case.learning:
        ask.note("no training is in this folder")


def check_rounds(case: Case) -> Check:
    """The server's state and its records tell of the same rounds with the same figures."""
    ask = Asking("rounds of the learning server")
    for learning, record, told, kept, where in _each_round(case, ask):
        state = f"{case.place(learning.folder)}/run.json"
        if kept is None:
            ask.that(
                False,
                f"round {record.round} is in the run's state and not on record",
                state,
                "the round was put in, or its record was taken out (a kill between the two leaves this as well)",
            )
            continue
        ask.that(
            len(told.sums) == 1,
            f"round {record.round} is on record {len(told.sums)} times",
            where,
            "a round number is spent once",
        )
        ask.same_figures(
            ("the run's state", "the record"),
            {
                "accuracy": (record.accuracy, kept.accuracy),
                "loss": (record.loss, kept.loss),
                "key bits": (record.key_bits_used, kept.key_bits),
                "uploaded bytes": (record.upload_bytes, kept.upload_bytes),
                "participants": (record.participants, kept.participants),
                "survivors": (record.survivors, kept.survivors),
            },
            f"of round {record.round}",
            f"{state}, {where}",
            "a figure of a round was edited after it ended",
        )
    for learning in case.learning:
        known = {record.round for record in learning.state.rounds}
        for number, told in told_of(case, learning.state.config.run_id).items():
            for _, where in told.sums if number not in known else ():
                ask.that(
                    False,
                    f"round {number} is on record and not in the run's state",
                    where,
                    "a completed round was taken out of the run",
                )
    return ask.done()


def check_round_keys(case: Case) -> Check:
    """Each pair took one range for a round, the same at both ends, as long as the mode needs."""
    ask = Asking("key of the rounds")
    for learning, record, told, kept, where in _each_round(case, ask):
        config = learning.state.config
        aggregation = _aggregation(learning)
        if aggregation is None:
            ask.note(f"{case.place(learning.folder)}: the first model is not here, so rounds have no context")
            continue
        bits, context = aggregation.key_bits_per_pair, kept.context if kept is not None else ""
        pairs = list(combinations(record.participants, 2)) if bits else []
        ask.that(
            record.key_bits_used == bits * len(pairs) or config.protection.thresholds,
            f"round {record.round} used {record.key_bits_used} bits of key on record; {len(pairs)} pairs at {bits} bits are "
            f"{bits * len(pairs)}",
            where,
            f"mode {config.mode} protects every value with so much key, and with no less",
        )
        for pair in pairs:
            _pair_key(ask, record.round, pair, told, bits, context)
    return ask.done()


def _pair_key(
    ask: Asking, number: int, pair: tuple[str, str], told: RoundTold, bits: int, context: str
) -> None:
    name = f"round {number} of {pair[0]}-{pair[1]}"
    found: dict[str, Span] = {}
    where = []
    for owner, peer in (pair, pair[::-1]):
        if owner not in told.pads:
            ask.note(f"round {number}: {owner}'s node has no key on record here")
            continue
        taken = [
            (each.ranges[peer], each.context, at) for each, at in told.pads[owner] if peer in each.ranges
        ]
        if not ask.that(
            len(taken) == 1,
            f"{name}: {owner} took key {len(taken)} times",
            told.pads[owner][-1][1],
            "a round takes one range from each pair: a pad is missing, or two updates were masked",
        ):
            continue
        span, of, at = taken[0]
        found[owner] = span
        where.append(at)
        ask.that(
            not context or of == context,
            f"{name}: {owner}'s key left for {of[:16]}, the sum is of {context[:16]}",
            at,
            "participants, model or size that this node agreed to were not those of the round",
        )
        ask.that(
            span.n_bits == bits,
            f"{name}: {owner} took {span.n_bits} bits, not {bits}",
            at,
            "a pad is too short",
        )
    if len(found) == 2:
        ask.same(
            f"the key of {name}",
            {owner: f"{span.start}+{span.n_bits}" for owner, span in found.items()},
            ", ".join(where),
            "masks of different bits do not cancel, and one-time bits went to two purposes",
        )


def check_uploads(case: Case) -> Check:
    """What each client gave is what the server received, for the same round of the same model."""
    ask = Asking("uploads")
    for learning, record, told, kept, where in _each_round(case, ask):
        if kept is None:
            continue
        if "" in kept.uploads.values() or set(kept.uploads) != set(record.survivors):
            ask.that(
                False, f"round {record.round} sums {sorted(kept.uploads)}", where, "another's update is in"
            )
        for client, digest in kept.uploads.items():
            given, at = told.updates.get(client, (None, ""))
            if given is None:
                ask.note(f"round {record.round}: {client} has no upload on record here")
                continue
            ask.same_figures(
                (client, "the server"),
                {
                    "the upload": (given.upload[:16], digest[:16]),
                    "the context": (given.context[:16], kept.context[:16]),
                    "the model that it began with": (given.model[:16], kept.model[:16]),
                },
                f"of {client} in round {record.round}",
                f"{at}, {where}",
                "the server summed another update than this client gave, or one record was edited",
            )
        if set(kept.uploads) <= set(told.updates) and not learning.state.config.protection.thresholds:
            given_bytes = sum(told.updates[client][0].upload_bytes for client in kept.uploads)
            ask.that(
                given_bytes == record.upload_bytes,
                f"clients gave {given_bytes} bytes in round {record.round}, the server says {record.upload_bytes}",
                where,
                "an upload was counted twice, or is missing",
            )
    return ask.done()


def check_models(case: Case) -> Check:
    """Every model follows from the one before and the sum of its round; files, records and clients have the same."""
    ask = Asking("models from round to round")
    for learning in case.learning:
        told = told_of(case, learning.state.config.run_id)
        model = _array(learning, 0)
        for record in learning.state.rounds:
            model = _follow(ask, case, learning, record, told[record.round], model)
    if not case.learning:
        ask.note("no training is in this folder")
    return ask.done()


def _follow(
    ask: Asking,
    case: Case,
    learning: Learning,
    record: RoundRecord,
    told: RoundTold,
    before: Parameters | None,
) -> Parameters | None:
    """Look at one step of the model; returns the model of its file."""
    number, config = record.round, learning.state.config
    file = f"{case.place(learning.folder)}/model-{number:05d}.npy"
    after, total = _array(learning, number), _sum(learning, number)
    kept, where = told.sums[-1] if told.sums else (None, file)
    if after is None or total is None:
        ask.that(
            False, f"model or sum of round {number} cannot be read", file, "a file was taken away or damaged"
        )
        return after
    digest = model_digest(after).hex()
    if before is None:
        ask.note(f"{file}: the model before it is not here, so that the step cannot be worked out again")
    else:
        follows = next_model(config, before, total, record.survivors, number)
        ask.that(
            follows.tobytes() == after.tobytes(),
            f"the model of round {number} does not follow from the one before and the sum",
            file,
            "the model was swapped or edited, or the sum was",
        )
        _context(ask, learning, record, kept, before, where)
    if kept is not None:
        ask.same(
            f"the model after round {number}",
            {"the file": digest[:16], "the record": kept.model_after[:16]},
            f"{file}, {where}",
            "the model was swapped after the round",
        )
        ask.same(
            f"the sum of round {number}",
            {"the file": sum_digest(total)[:16], "the record": kept.total[:16]},
            f"{case.place(learning.folder)}/aggregate-{number:05d}.npy, {where}",
            "the sum was edited after the round",
        )
    for client, (followed, at) in told.followed.items():
        ask.same(
            f"the model after round {number}",
            {"the file": digest[:16], client: followed.model[:16]},
            f"{file}, {at}",
            "this client works with another model than the server kept",
        )
    return after


def _context(
    ask: Asking, learning: Learning, record: RoundRecord, kept: SumKept | None, before: Parameters, where: str
) -> None:
    """What all participants agreed on, worked out again: it binds their key to participants, sizes and model."""
    aggregation = _aggregation(learning)
    if kept is None or aggregation is None:
        return
    context = aggregation.context(record.round, record.participants, model_digest(before))
    ask.that(
        context.digest().hex() == kept.context,
        f"round {record.round} was agreed on as {kept.context[:16]}; settings, participants and model give "
        f"{context.digest().hex()[:16]}",
        where,
        "nodes released key for another model, other participants or other settings than the run has on record",
    )


def _aggregation(learning: Learning) -> Aggregation | None:
    first = _array(learning, 0)
    return None if first is None else aggregation_for(learning.state.config, first.size, model_digest(first))


def _array(learning: Learning, number: int) -> Parameters | None:
    try:
        return load_array(learning.folder, "model", number).astype(np.float32)
    except RunStateError:
        return None


def _sum(learning: Learning, number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    try:
        return load_array(learning.folder, "aggregate", number).astype(np.int64)
    except RunStateError:
        return None
