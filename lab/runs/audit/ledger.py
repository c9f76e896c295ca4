"""Whether every bit of key was used once: the key stores' own books, both ends of a pair, and what roles have on record.

The positions of a lane that blocks fill are stored, or were released for one context, or spent on tags, or burnt; nothing is
left over, nothing is there twice.  Books are read without the store's key: lengths and places, never a bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from lab.runs.audit.case import Case, Ring
from lab.runs.audit.findings import Asking, Check
from lab.runs.audit.spans import bits, named, overlap, uncovered
from orchestrator.keystore.deposits import is_seed
from orchestrator.keystore.lanes import AUTH_LANES, Lane
from orchestrator.keystore.public_books import PublicBooks
from orchestrator.records.kinds import BlockEnded, LaneBook, PadsTaken, RoleStopped, Span

NO_BOOKS = "no key store's books are here"


def _each_store(case: Case, ask: Asking, look: Callable[[Ring, str, PublicBooks], None]) -> Check:
    for ring in case.rings:
        for owner, books in ring.books.items():
            look(ring, owner, books)
        for role in ring.roles.values():
            if role.name not in ring.books and any(True for _ in role.of(BlockEnded)):
                ask.note(f"{ring.name}: the books of {role.name}'s key store are not here")
    if not any(ring.books for ring in case.rings):
        ask.note(NO_BOOKS)
    return ask.done()


def check_books(case: Case) -> Check:
    """Each store's own books: every position of a lane is accounted for, once."""
    ask = Asking("books of key stores")

    def look(ring: Ring, owner: str, books: PublicBooks) -> None:
        where = f"{ring.name}/{owner}"
        for lane in books.lanes:
            _lane(ask, books, lane, where)
        for peer in {lane.peer for lane in books.lanes}:
            _peer_totals(ask, books, peer, where)
        _left_as_it_was(ask, ring, owner, books, where)

    return _each_store(case, ask, look)


def _spans(books: PublicBooks, peer: str, lane: str, state: str) -> list[Span]:
    rows = books.pieces if state == "stored" else books.reservations
    return [each.span for each in rows if (each.peer, each.lane, each.state) == (peer, lane, state)]


def _placed(books: PublicBooks, peer: str, lane: str) -> list[Span]:
    return [block.lanes[lane] for block in books.blocks if block.peer == peer and lane in block.lanes]


def _lane(ask: Asking, books: PublicBooks, lane: LaneBook, where: str) -> None:
    name = f"lane {lane.lane} with {lane.peer}"
    ask.that(
        lane.produced == lane.stored + lane.delivered + lane.authentication + lane.burnt,
        f"{name}: {lane.produced} bits came in, and stored {lane.stored}, delivered {lane.delivered}, spent on tags "
        f"{lane.authentication} and burnt {lane.burnt} are {lane.stored + lane.delivered + lane.authentication + lane.burnt}",
        where,
        "the totals of the store were changed: bits came from nowhere, or left for nobody",
    )
    placed = _placed(books, lane.peer, lane.lane)
    stored = _spans(books, lane.peer, lane.lane, "stored")
    released = _spans(books, lane.peer, lane.lane, "released")
    if doubled := overlap(placed):
        ask.that(False, f"{name}: two blocks lie at {named(doubled)}", where, "a block was used again")
    if doubled := overlap([*stored, *released]):
        ask.that(
            False,
            f"{name}: {named(doubled)} overlap",
            where,
            "bits were released twice, or are still there though they were released",
        )
    used = sum(use.bits for use in books.uses if (use.peer, use.lane) == (lane.peer, lane.lane))
    ask.that(
        bits(released) + used == lane.delivered,
        f"{name}: {lane.delivered} bits were delivered, {bits(released)} of them for a known context and {used} to "
        "applications",
        where,
        "a gap in the ledger: a range left the store, and for what is not, or wrongly, on record",
    )
    strays = uncovered([*stored, *released], placed)
    ask.that(
        not strays,
        f"{name}: {named(strays)} belong to no block",
        where,
        "key that no block brought in, or a block was taken out of the ledger",
    )
    gone = bits(uncovered(placed, [*stored, *released]))
    ask.that(
        gone <= lane.authentication + lane.burnt + used,
        f"{name}: {gone} bits are neither stored nor delivered, only {lane.authentication + lane.burnt} were spent on tags or "
        f"burnt and {used} given to applications",
        where,
        "a gap in the ledger that nothing accounts for",
    )


def _peer_totals(ask: Asking, books: PublicBooks, peer: str, where: str) -> None:
    lanes = [lane for lane in books.lanes if lane.peer == peer]
    blocks = [block for block in books.blocks if block.peer == peer]
    produced, told = sum(lane.produced for lane in lanes), sum(block.n_bits for block in blocks)
    ask.that(
        produced == told,
        f"with {peer}: {produced} bits came in, blocks and seeds have {told}",
        where,
        "a block was taken out of the ledger, put in, or its length was changed",
    )


def _left_as_it_was(ask: Asking, ring: Ring, owner: str, books: PublicBooks, where: str) -> None:
    told = ring.roles[owner].told
    last = told[-1].record if told else None
    if not isinstance(last, RoleStopped) or not last.lanes:
        ask.note(f"{where}: {owner} has not put its books on record at its end (it runs, or was killed)")
        return
    ask.that(
        sorted(last.lanes, key=_lane_name) == sorted(books.lanes, key=_lane_name),
        f"the books of {owner} are not those that it put on record when it ended",
        told[-1].where,
        "the store was changed while its node did not run, or put back from a copy",
    )


def _lane_name(lane: LaneBook) -> tuple[str, str]:
    return lane.peer, lane.lane


def check_ends(case: Case) -> Check:
    """Both ends of a pair have the same blocks in the same places, and released the same ranges for the same."""
    ask = Asking("both ends of each pair")
    for ring in case.rings:
        for owner, books in ring.books.items():
            for peer in sorted({lane.peer for lane in books.lanes}):
                if peer not in ring.books:
                    ask.note(f"{ring.name}: the books of {peer} are not here")
                elif owner < peer:
                    _ends(ask, f"{ring.name}/{owner}-{peer}", books, ring.books[peer])
    return ask.done()


def _ends(ask: Asking, where: str, one: PublicBooks, other: PublicBooks) -> None:
    ours = {block.block_id: block for block in one.blocks if block.peer == other.owner}
    theirs = {block.block_id: block for block in other.blocks if block.peer == one.owner}
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None or "confirmed" not in (a.state, b.state):
            held = a or b
            assert held is not None
            if held.state == "confirmed":
                ask.that(
                    False,
                    f"{name} is confirmed at one end and unknown at the other",
                    where,
                    "a block was taken out of one ledger, or put into the other",
                )
            continue
        ask.same(
            f"length and place of {name}",
            {one.owner: (a.n_bits, a.lanes), other.owner: (b.n_bits, b.lanes)},
            where,
            "the two ends would use other bits for one purpose",
        )
    _released_alike(ask, where, one, other)


def _released_alike(ask: Asking, where: str, one: PublicBooks, other: PublicBooks) -> None:
    ours = [each for each in one.reservations if each.peer == other.owner and each.state == "released"]
    theirs = [each for each in other.reservations if each.peer == one.owner and each.state == "released"]
    for a in ours:
        for b in theirs:
            meets = a.lane == b.lane and a.span.start < b.span.end and b.span.start < a.span.end
            if meets or (a.lane, a.context) == (b.lane, b.context):
                ask.that(
                    (a.span, a.context) == (b.span, b.context),
                    f"{named([a.span])} of lane {a.lane} left {one.owner}'s store for {a.context[:16]}, {named([b.span])} "
                    f"{other.owner}'s for {b.context[:16]}",
                    where,
                    "one-time bits were used for two purposes: what they masked is no secret any more",
                )


def check_store_records(case: Case) -> Check:
    """Blocks and released ranges of each store are those that its owner put on record."""
    ask = Asking("key stores against records")

    def look(ring: Ring, owner: str, books: PublicBooks) -> None:
        _blocks(ask, ring, owner, books)
        _pads(ask, ring, owner, books)

    return _each_store(case, ask, look)


def _blocks(ask: Asking, ring: Ring, owner: str, books: PublicBooks) -> None:
    role, where = ring.roles[owner], f"{ring.name}/{owner}"
    told = {(block.peer, block.block_id): (block, at) for block, at in role.of(BlockEnded)}
    held = {(each.peer, each.block_id): each for each in books.blocks if not is_seed(each.block_id)}
    for key, block in held.items():
        if key not in told:
            ask.that(
                False,
                f"{block.block_id} with {block.peer} is in {owner}'s store and no record tells of it",
                where,
                "key that nobody made, or its record was taken out (a kill between the two leaves this as well)",
            )
            continue
        record, at = told[key]
        if record.counts is None:
            continue
        if record.stored:
            ask.same(
                f"length and place of {block.block_id} with {block.peer}",
                {
                    "the store": (block.n_bits, block.lanes),
                    "the record": (record.secret_bits, record.lanes),
                },
                f"{where}, {at}",
                "the key in the store is not the one that this block made",
            )
        elif block.state == "confirmed":
            ask.note(f"{at}: {block.block_id} was stored later, when both ends met again")
    for (peer, name), (record, at) in told.items():
        if record.stored and (peer, name) not in held:
            ask.that(
                False,
                f"{name} with {peer} was stored, and is not in {owner}'s store",
                at,
                "a block was taken out of the ledger, or the store was put back from an older copy",
            )


def _pads(ask: Asking, ring: Ring, owner: str, books: PublicBooks) -> None:
    role, where = ring.roles[owner], f"{ring.name}/{owner}"
    told: dict[tuple[str, str], tuple[Span, str]] = {}
    for pads, at in role.of(PadsTaken):
        for peer, span in pads.ranges.items():
            if pads.burnt:
                continue
            if (peer, pads.context) in told:
                ask.that(
                    False,
                    f"pads with {peer} for round {pads.round} of {pads.run_id} are told twice",
                    at,
                    "a pad leaves a store once",
                )
            told[peer, pads.context] = span, at
    held = {
        (each.peer, each.context): each.span
        for each in books.reservations
        if each.state == "released" and each.lane == Lane.MASK
    }
    for key in sorted(told.keys() | held.keys()):
        stored, on_record = held.get(key), told.get(key)
        taken, at = on_record or (None, where)
        ask.that(
            taken == stored,
            f"pads with {key[0]} for {key[1][:16]}: the record says {named([taken]) if taken else 'nothing'}, the store "
            f"{named([stored]) if stored else 'nothing'}",
            at,
            "a range of key left the store, and for what is not, or wrongly, on record (a kill between the two leaves this"
            " as well)",
        )


def check_tags(case: Case) -> Check:
    """The bits of authentication lanes that blocks used lie one behind the other, and are enough for their tags."""
    ask = Asking("authentication bits")
    for ring in case.rings:
        for user, role in ring.roles.items():
            reached: dict[tuple[str, str], int] = defaultdict(int)
            for block, where in role.of(BlockEnded):
                for lane, span in block.auth.items():
                    ask.that(
                        span.start >= reached[block.peer, lane] and span.n_bits >= 0,
                        f"{block.block_id} used {named([span])} of lane {lane} with {block.peer}, which was used up to "
                        f"{reached[block.peer, lane]} before",
                        where,
                        "a one-time tag key was used twice",
                    )
                    reached[block.peer, lane] = max(reached[block.peer, lane], span.end)
                _enough(ask, block, where)
            _within_heads(ask, ring, user, reached)
    return ask.done()


def _enough(ask: Asking, block: BlockEnded, where: str) -> None:
    """The first user sends the verification tags, and both one over the transcript."""
    if block.spent is None or not block.stored:
        return
    for lane, tags in zip(AUTH_LANES, (block.spent.tags + 1, 1), strict=True):
        span = block.auth.get(str(lane), Span(0, 0))
        ask.that(
            span.n_bits >= 256 * tags,
            f"{block.block_id} used {span.n_bits} bits of lane {lane}; its {tags} tags take {256 * tags}",
            where,
            "a message of this block was not authenticated by a key of its own",
        )


def _within_heads(ask: Asking, ring: Ring, user: str, reached: dict[tuple[str, str], int]) -> None:
    if user not in ring.books:
        return
    heads = {(lane.peer, lane.lane): lane.head for lane in ring.books[user].lanes}
    for (peer, lane), end in reached.items():
        ask.that(
            end <= heads.get((peer, lane), 0),
            f"blocks used lane {lane} with {peer} up to {end}; the store says {heads.get((peer, lane), 0)}",
            f"{ring.name}/{user}",
            "the store was put back from an older copy: its one-time bits would be used again",
        )


def check_epsilons(case: Case) -> Check:
    """What each store added up over its blocks is the sum over the records of these blocks."""
    ask = Asking("epsilons")

    def look(ring: Ring, owner: str, books: PublicBooks) -> None:
        for each in books.epsilons:
            spent = [
                block.spent
                for block, _ in ring.roles[owner].of(BlockEnded)
                if block.peer == each.peer and block.spent is not None
            ]
            sec, cor = sum(one.eps_sec for one in spent), sum(one.eps_cor for one in spent)
            close = abs(sec - each.sec) <= 1e-9 * each.sec and abs(cor - each.cor) <= 1e-9 * each.cor
            ask.that(
                close and len(spent) == each.blocks,
                f"with {each.peer}: {each.blocks} blocks add up to eps_sec {each.sec:.6g} and eps_cor {each.cor:.6g}; "
                f"{len(spent)} on record to {sec:.6g} and {cor:.6g}",
                f"{ring.name}/{owner}",
                "a block that was relied on is not on record, or what it may have gone wrong with was edited",
            )

    return _each_store(case, ask, look)
