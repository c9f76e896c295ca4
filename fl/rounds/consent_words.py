"""The text with which an operator is asked for consent: what is agreed to, and who learns what from the sums."""

from __future__ import annotations

import msgspec

from fl.modes.table import MODES
from fl.rounds.config import listed
from orchestrator.delivery.consent import LEAK, RunDescription
from orchestrator.delivery.errors import ConsentError
from orchestrator.delivery.messages import pad_bits

RETRAINED = (
    "a round that gives no sum is trained again from the same model: two such sums over the same clients tell "
    "the server about the noise of training, and no client's update alone"
)
BESIDE = (
    "beside the sums the server learns of each client, in every round, in which of four bands the shares of its values "
    "lie that were clipped and rounded to nothing, whether its update was finite, and when it did what; in Flower also "
    "the coarse metrics that this client's operator made public"
)
ELSEWHERE = (
    "whoever is not in a run is not asked about it: if all the others agree to one over the same data without this "
    "client, before or after this one, the server learns its updates approximately from both"
)
CHOSEN_SUMS = (
    "no client can check a published sum: a server that lies moves the model as it likes, by at most the clip in every "
    "round and alike for all clients, and learns the sums of what they train from there"
)


def explained(description: RunDescription, user: str) -> tuple[str, ...]:
    """What ``user``'s operator agrees to, one statement an item."""
    return (*_agreed(description, user), *told(description))


def _agreed(description: RunDescription, user: str) -> tuple[str, ...]:
    d, others = description, [name for name in description.participants if name != user]
    weights = "all weights are 1"
    if set(d.weights) != {1}:
        weights = "weights " + ", ".join(f"{n} {w}" for n, w in zip(d.participants, d.weights, strict=True))
    rounds = f"{d.rounds} rounds" if d.rounds > 1 else "one round"
    clip = f"clip {d.clip:g}" + (f", times {d.clip_decay:g} after every round" if d.clip_decay != 1 else "")
    if d.arrays:
        clip += "; " + ", ".join(
            f"{each.name} {each.clip:g}" if each.clip else f"{each.name} left out" for each in d.arrays
        )
    subject = f"task {d.task} on its own part of {d.data}"
    begins = f"the first model is the one that seed {d.seed} gives ({d.first_model[:16]}...)"
    if not d.task_fingerprint:
        subject += " (the server's words: no client has a task of its own to compare them with)"
        begins = f"the first model is the server's ({d.first_model[:16]}...)"
    data = (
        f"{listed(d.sources)}, the same for every client"
        if d.sources
        else "what each client has, which is not compared"
    )
    share = "" if d.keep == 1 else f", {100 * d.keep:g} % of the values in a round"
    return (
        f"run {d.run_id}: {user} trains {subject} for {rounds}, with {', '.join(others) or 'nobody else'}",
        f"mode {d.mode}, {weights}; {d.levels} levels on either side of zero, {clip}{share}",
        f"{begins}, every later one follows from the published sums, as this client works it out itself",
        f"data: {data}",
        _cost(d),
    )


def _cost(d: RunDescription) -> str:
    if d.cipher is None:
        return "no key is used"
    peers = len(d.participants) - 1
    per_round = pad_bits(d.cipher, d.n_values * d.ring_width)
    return (
        f"key: {per_round} bits with each of {peers} in a round, {per_round * d.rounds * peers} bits in all; rounds "
        f"that give no sum cost more, up to round number {d.attempts}"
    )


def told(description: RunDescription) -> tuple[str, ...]:
    """What the sums of such a run tell, and to whom; raises ConsentError for a mode that is not in the table."""
    d = description
    mode = MODES.get(d.mode)
    if mode is None or mode.cipher != d.cipher:
        raise ConsentError(
            f"run {d.run_id!r} is of mode {d.mode} with cipher {d.cipher or 'none'}, which this program does not have"
        )
    mode_tells = tuple(text.format(leak=LEAK, **msgspec.structs.asdict(d)) for text in mode.told)
    if d.cipher is None:
        return mode_tells
    n = len(d.participants)
    found = [
        f"the learning server learns the sum of the updates of every round, and of a single one of the {n} clients only "
        "what follows here",
        BESIDE,
        CHOSEN_SUMS,
    ]
    if n == 2:
        found.append("two participants: each learns the other's update, which is the sum less its own")
    else:
        found.append(
            f"if {n - 2} of the participants tell the server what they know, the other two hide only behind each other"
        )
    if set(d.weights) != {1}:
        heaviest = max(range(n), key=lambda place: d.weights[place])
        found.append(
            f"the sum tells the more of an update the heavier it is beside the others, and of a light one what is left "
            f"modulo the others' weights: {d.participants[heaviest]} has {d.weights[heaviest]} of {sum(d.weights)}"
        )
    return (*found, *mode_tells, ELSEWHERE, RETRAINED)
