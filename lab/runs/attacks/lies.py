"""What a process does that lies: the honest one's program with one function replaced, as whoever owns the machine could have it.

:func:`lie` replaces it in the present process and nowhere else; the honest program knows nothing of it.  Seeds are random at every
start: nothing of this is secret, and what is drawn is only where a lie falls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.randomness import random_bytes
from sim_backends.attacks.table import attack_named

if TYPE_CHECKING:
    from fl.rounds.engine import CollectingRound
    from orchestrator.light.relay import Clicks

D1_ONLY, D2_ONLY = 1, 2


def invented(clicks: Clicks, share: float, slots_per_frame: int, rng: np.random.Generator) -> Clicks:
    """The same number of clicks, a ``share`` of them in slots and detectors of one's own choice; slots stay in order.

    Slots are uint32 of shape (n,), increasing; outcomes uint8 of shape (n,), 1 for D1 and 2 for D2 alone.
    """
    slots, outcomes = clicks
    kept = rng.random(slots.size) >= share
    told = {int(slot): int(outcome) for slot, outcome in zip(slots[kept], outcomes[kept], strict=True)}
    while len(told) < min(slots.size, slots_per_frame):
        told.setdefault(int(rng.integers(slots_per_frame)), int(rng.integers(D1_ONLY, D2_ONLY + 1)))
    order = sorted(told)
    return np.array(order, np.uint32), np.array([told[slot] for slot in order], np.uint8)


def flipped(payload: bytes, at: int) -> bytes:
    """The message with one of its bits changed; an empty one stays."""
    if not payload:
        return payload
    place, bit = divmod(at % (8 * len(payload)), 8)
    return payload[:place] + bytes([payload[place] ^ (1 << bit)]) + payload[place + 1 :]


def short_list(participants: tuple[str, ...]) -> tuple[str, ...]:
    """All participants but the last one, whose update the difference of two sums would tell."""
    return participants[:-1]


def lie(name: str, strength: float) -> None:
    """Have this process lie so from here on, whatever of the program runs in it.  ValueError for an attack that is no lie."""
    lies: dict[str, Callable[[float], None]] = {
        "lying-relay": _lying_relay,
        "tampering-hub": _tampering_hub,
        "two-list-server": _two_list_server,
    }
    if name not in lies:
        raise ValueError(f"{attack_named(name).name} is no attack of a process")
    lies[name](attack_named(name).checked(strength))


def _lying_relay(percent: float) -> None:
    from orchestrator.light.messages import FrameLost
    from orchestrator.light.relay import RelayLight

    rng = _anywhere()

    def expose(honest: Callable[..., Any], light: Any, *arguments: Any) -> Any:
        clicks = honest(light, *arguments)
        if isinstance(clicks, FrameLost):
            return clicks
        return invented(clicks, percent / 100, light._testbed.protocol.slots_per_frame, rng)

    _replace(RelayLight, "_expose", expose)


def _tampering_hub(percent: float) -> None:
    from orchestrator.hub.hub import Hub
    from orchestrator.processes.pair_lines import LINE_PREFIX

    rng = _anywhere()

    def on_post(honest: Callable[..., Any], hub: Any, peer: Any, post: Any, payload: Any) -> None:
        if post.topic.startswith(LINE_PREFIX) and rng.random() < percent / 100:
            payload = flipped(bytes(payload), int(rng.integers(1 << 62)))
        honest(hub, peer, post, payload)

    _replace(Hub, "_on_post", on_post)


def _two_list_server(clients: float) -> None:
    from fl.carriers.zeromq.round_server import RoundServer

    def send_start(honest: Callable[..., Any], server: Any, name: str, current: CollectingRound) -> None:
        if name in current.participants[: int(clients)]:
            current = _told_short(current)
        honest(server, name, current)

    _replace(RoundServer, "_send_start", send_start)


def _told_short(current: CollectingRound) -> Any:
    """What of the round is told to a client, with the shorter list."""
    from types import SimpleNamespace

    names = short_list(current.participants)
    return SimpleNamespace(
        run_id=current.run_id,
        number=current.number,
        participants=names,
        weights=current.weights[: len(names)],
    )


def _replace(owner: type, name: str, by: Callable[..., Any]) -> None:
    """``by`` gets the honest function before the arguments; AttributeError where there is none of that name."""
    honest = owner.__dict__.get(name)
    if honest is None:
        raise AttributeError(f"{owner.__name__} has no {name}: the lie has nothing to replace")

    @wraps(honest)
    def lying(*arguments: Any, **named: Any) -> Any:
        return by(honest, *arguments, **named)

    setattr(owner, name, lying)


def _anywhere() -> np.random.Generator:
    seed: npt.NDArray[np.uint64] = np.frombuffer(random_bytes(16), np.uint64)
    return np.random.default_rng(seed)
