"""Whether relay, users and orchestrator tell of the same leases, and the relay announced what both users heard."""

from __future__ import annotations

from itertools import pairwise

from lab.runs.audit.case import Case, Ring, RoleRecords
from lab.runs.audit.findings import Asking, Check
from orchestrator.events.status import ORCHESTRATOR, RELAY, pair_name
from orchestrator.records.kinds import BlockEnded, LeaseEnded, LightServed, Token
from orchestrator.wire.messages import KEY

Lights = dict[Token, tuple[LightServed, str]]
Leases = dict[Token, tuple[LeaseEnded, str]]
Blocks = dict[Token, tuple[BlockEnded, str]]


def lights_of(ring: Ring) -> Lights:
    """The relay's light phases."""
    relay = ring.roles.get(RELAY)
    return {} if relay is None else {each.token: (each, where) for each, where in relay.of(LightServed)}


def leases_of(ring: Ring) -> Leases:
    """The orchestrator's leases."""
    role = ring.roles.get(ORCHESTRATOR)
    return {} if role is None else {each.token: (each, where) for each, where in role.of(LeaseEnded)}


def blocks_of(ring: Ring, user: str) -> Blocks:
    """The blocks that one user has on record."""
    role = ring.roles.get(user)
    return {} if role is None else {each.token: (each, where) for each, where in role.of(BlockEnded)}


def check_leases(case: Case) -> Check:
    """Each lease once, in order, and told alike by relay, users and orchestrator."""
    ask = Asking("leases")
    for ring in case.rings:
        for role in ring.roles.values():
            _each_once(ask, role)
        lights, leases = lights_of(ring), leases_of(ring)
        if RELAY in ring.roles and ORCHESTRATOR in ring.roles:
            _relay_and_orchestrator(ask, ring, lights, leases)
        elif lights or leases:
            ask.note(f"{ring.name}: the records of relay and orchestrator are not both here")
        for user in ring.roles:
            _user(ask, ring, user, lights, leases)
    return ask.done()


def _each_once(ask: Asking, role: RoleRecords) -> None:
    """A fencing token is used once, and tokens only grow."""
    tokens = [
        (each.record.token, each.where)
        for each in role.told
        if isinstance(each.record, LightServed | LeaseEnded)
    ]
    for (before, _), (token, where) in pairwise(tokens):
        ask.that(
            token > before,
            f"lease {_name(token)} of {role.name} follows {_name(before)}",
            where,
            "a lease was used twice, or records were moved or put in: tokens only grow",
        )
    seen: dict[Token, str] = {}
    for block, where in role.of(BlockEnded):
        ask.that(
            block.token not in seen,
            f"block {_name(block.token)} of {role.name} was told before, at {seen.get(block.token)}",
            where,
            "a block was used again: its light makes key once",
        )
        seen.setdefault(block.token, where)


def _relay_and_orchestrator(ask: Asking, ring: Ring, lights: Lights, leases: Leases) -> None:
    for token, (light, where) in lights.items():
        if token not in leases:
            killed = ring.roles[ORCHESTRATOR].was_killed_after(light.at)
            _missing(ask, killed, ORCHESTRATOR, f"lease {_name(token)}, which the relay lit", where)
            continue
        lease, at = leases[token]
        ask.same(
            f"what lease {_name(token)} was for",
            {
                "the relay": (light.purpose, light.first, light.second),
                ORCHESTRATOR: (lease.purpose, lease.first, lease.second),
            },
            f"{where}, {at}",
            "the relay lit another pair, or for another purpose, than it was granted",
        )
        told = {each.party: each for each in lease.told}
        if lease.ok and RELAY in told and light.purpose == KEY:
            ask.same(
                f"what the relay announced in lease {_name(token)}",
                {
                    "the relay's record": light.announced,
                    "its word to the orchestrator": told[RELAY].announced,
                },
                f"{where}, {at}",
                "one of the two records was edited",
            )
    for token, (lease, where) in leases.items():
        if lease.ok and token not in lights:
            killed = ring.roles[RELAY].was_killed_after(lease.at)
            _missing(ask, killed, RELAY, f"lease {_name(token)}, which ended well", where)


def _user(ask: Asking, ring: Ring, user: str, lights: Lights, leases: Leases) -> None:
    blocks = blocks_of(ring, user)
    if RELAY not in ring.roles:
        if blocks:
            ask.note(
                f"{ring.name}: the records of the relay are not here, so blocks stand without their light"
            )
        return
    for token, (block, where) in blocks.items():
        light, at = lights.get(token, (None, ""))
        if light is None:
            granted = ORCHESTRATOR not in ring.roles or token in leases
            killed = granted and ring.roles[RELAY].was_killed_after(block.at)
            _missing(ask, killed, RELAY, f"the light of block {_name(token)} of {user}", where)
            continue
        ask.that(
            light.purpose == KEY,
            f"block {_name(token)} of {user} comes from light for {light.purpose}",
            f"{where}, {at}",
            "a frame of a calibration never makes key",
        )
        ask.same(
            f"pair, frames and pulses of lease {_name(token)}",
            {
                user: (block.first, block.second, block.frames, block.pulses),
                "the relay": (light.first, light.second, light.frames, light.pulses),
            },
            f"{where}, {at}",
            "the number of pulses is part of the proof: one of the two was edited, or told another lease",
        )
    for token, (light, where) in lights.items():
        if user in (light.first, light.second) and light.ok and light.purpose == KEY and token not in blocks:
            if token in leases and not leases[token][0].ok:
                ask.note(
                    f"{where}: lease {_name(token)} failed after its light, and {user} has no block of it"
                )
                continue
            killed = ring.roles[user].was_killed_after(light.at)
            _missing(ask, killed, user, f"block {_name(token)}, for which the relay gave light", where)


def _missing(ask: Asking, killed: bool, role: str, what: str, where: str) -> None:
    """A record that another's calls for: a finding, unless its role was killed and so could not write it."""
    if killed:
        ask.note(f"{where}: {role} was killed and has no record of {what}")
    else:
        ask.that(
            False,
            f"{role} has no record of {what}",
            where,
            "it was taken out of the records of one, or put into those of the other",
        )


def check_announcements(case: Case) -> Check:
    """What the relay announced is what both users heard, but for frames that are lost."""
    ask = Asking("announcements")
    for ring in case.rings:
        lights = lights_of(ring)
        for user in ring.roles:
            for token, (block, where) in blocks_of(ring, user).items():
                light, at = lights.get(token, (None, ""))
                if light is None or not light.ok:
                    continue
                if set(block.own_lost) != set(light.lost_frames):
                    ask.note(
                        f"{where}: {user} lost other frames than the relay, so that what it heard cannot be compared whole"
                    )
                    continue
                ask.same(
                    f"the announcement of lease {_name(token)} of {pair_name((light.first, light.second))}",
                    {"the relay": light.announcements[:16], user: block.heard[:16]},
                    f"{at}, {where}",
                    "the relay told this user something else than it has on record, or one record was edited",
                )
    if not case.rings:
        ask.note("no ring is on record here")
    return ask.done()


def _name(token: Token) -> str:
    return f"{token[0]}/{token[1]}"
