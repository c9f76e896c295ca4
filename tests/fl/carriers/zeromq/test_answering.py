"""The end of a lightsecagg round at the clients, with a server that names whatever it likes.

Four clients hold real shares under real channel keys; nothing runs over sockets.
"""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fl.keys.node import KeyServiceError
from fl.modes.answers import AnswerBook, AnswerRefusedError
from fl.modes.base import AggregationError, Protection, RoundInputs, RoundShares
from fl.modes.lightsecagg import HeldShares, LightSecAgg, statement_of
from fl.rounds.answering import Answerer, SharesGoneError
from fl.rounds.client_rules import ClientRefusesError, ClientRules
from fl.rounds.config import FLConfig
from fl.rounds.messages import Answer, Confirm, Confirmed, Survivors, header_of
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.errors import ShareSealError
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.sharing import ShareChannel
from orchestrator.secret import SecretLeakError

NAMES = ("alice", "bob", "charlie", "dora")
D = 11
CONFIG = FLConfig(run_id="run", task="t", clients=NAMES, mode="lightsecagg", weights=(1, 2, 1, 3))
RULES = ClientRules(mode="lightsecagg")
Alter = Callable[[str, str, bytes], bytes]


def channel(owner: str, context: RoundContext) -> ShareChannel:
    pads = {}
    for peer in context.participants:
        if peer != owner:
            seed = [context.round, *sorted((owner, peer))[0].encode(), 0, *sorted((owner, peer))[1].encode()]
            pad = np.random.default_rng(seed).integers(0, 256, packed_size(context.pad_bits), np.uint8)
            pad[-1] &= (1 << (context.pad_bits % 8 or 8)) - 1
            pads[peer] = pad
    return ShareChannel(context, pads)


@dataclass
class Keys:
    """A node that hands out its channel at once."""

    owner: str

    def share_channel(self, context: RoundContext, cancelled: object, tell: object) -> ShareChannel:
        return channel(self.owner, context)


class PostOffice:
    """Collects everybody's shares, lets a dishonest server alter them, and hands them out."""

    def __init__(self, alter: Alter) -> None:
        self.alter = alter
        self.box: dict[str, Mapping[str, bytes]] = {}
        self.full = threading.Barrier(len(NAMES))
        self.held_shares: dict[str, RoundShares] = {}

    def counter(self, owner: str) -> Counter:
        return Counter(self, owner)


@dataclass
class Counter:
    office: PostOffice
    owner: str

    def swap(self, sealed: Mapping[str, bytes], key_bits: int) -> Mapping[str, bytes]:
        self.office.box[self.owner] = sealed
        self.office.full.wait(10)
        return {
            peer: self.office.alter(peer, self.owner, shares[self.owner])
            for peer, shares in self.office.box.items()
            if peer != self.owner
        }

    def hold(self, held_shares: RoundShares) -> None:
        self.office.held_shares[self.owner] = held_shares


class World:
    """Everybody has shared and uploaded."""

    def __init__(
        self, folder: Path, alter: Alter = lambda sender, receiver, share: share, number: int = 1
    ) -> None:
        self.folder = folder
        self.number = number
        self.mode = LightSecAgg(CONFIG, D, np.random.default_rng([9, number]).bytes)
        self.context = self.mode.context(number, NAMES)
        office = PostOffice(alter)
        prepared: dict[str, Protection | BaseException] = {}

        def prepare(name: str) -> None:
            tools = RoundInputs(
                self.context,
                name,
                7 * 127,
                Keys(name),
                office.counter(name),
                threading.Event(),
                print,  # type: ignore[arg-type]
            )
            try:
                prepared[name] = self.mode.prepare(tools)
            except KeyServiceError as error:
                prepared[name] = error

        threads = [threading.Thread(target=prepare, args=(name,)) for name in NAMES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.errors = {name: p for name, p in prepared.items() if isinstance(p, BaseException)}
        self.protections = {name: p for name, p in prepared.items() if not isinstance(p, BaseException)}
        self.held_shares = office.held_shares
        rng = np.random.default_rng(8)
        self.values = {name: rng.integers(-127, 128, D) for name in NAMES}
        self.answerers = {name: self.answerer(name) for name in NAMES}

    def answerer(self, name: str) -> Answerer:
        return Answerer(name, CONFIG, RULES, AnswerBook(self.folder / name))

    def uploads(self, names: tuple[str, ...]) -> dict[str, PackedBits]:
        weights = dict(zip(NAMES, CONFIG.weights, strict=True))
        return {
            name: self.protections[name].protect(self.values[name], weights[name]).packed for name in names
        }

    def survivors(self, *names: str, **changes: object) -> Survivors:
        fields: dict[str, object] = {
            "run_id": "run", "round": self.number, "participants": NAMES, "holders": NAMES, "survivors": names,
        }  # fmt: skip
        return Survivors(**{**fields, **changes})  # type: ignore[arg-type]

    def confirm(self, name: str, asked: Survivors) -> dict[str, bytes]:
        """The tags of ``name`` by whom they are for."""
        given, tags = self.answerers[name].confirm(asked, self.held_shares[name])
        assert isinstance(given, Confirm)
        peers = [peer for peer in NAMES if peer != name]
        return {peer: row.tobytes() for peer, row in zip(peers, tags, strict=True)}

    def answer(
        self, name: str, tags: Mapping[str, Mapping[str, bytes]], said_of: int = 0
    ) -> tuple[Answer, PackedBits]:
        """What ``name`` answers once it has the ``tags`` (by sender, then receiver) of the others.

        The server says that they are about round ``said_of`` (0: the present one).
        """
        senders = tuple(peer for peer in tags if peer != name)
        rows = np.array([np.frombuffer(tags[peer][name], np.uint8) for peer in senders])
        message = Confirmed("run", said_of or self.number, senders, header_of(rows))
        return self.answerers[name].answer(message, rows, self.held_shares[name])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def expected(world: World, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    weights = dict(zip(NAMES, CONFIG.weights, strict=True))
    return np.sum([weights[name] * world.values[name] for name in names], axis=0)


@pytest.mark.parametrize("survivors", [NAMES, NAMES[1:], ("alice", "bob", "dora")])
def test_any_three_answers_give_the_weighted_sum_of_the_survivors(
    world: World, survivors: tuple[str, ...]
) -> None:
    uploads = world.uploads(survivors)
    tags = {name: world.confirm(name, world.survivors(*survivors)) for name in NAMES}
    answers = {name: world.answer(name, tags)[1] for name in NAMES}
    for left_out in NAMES:
        some = {name: packed for name, packed in answers.items() if name != left_out}
        assert np.array_equal(world.mode.total(NAMES, uploads, some), expected(world, survivors))


def test_a_server_that_names_two_lists_gets_no_answer_at_all(world: World) -> None:
    """Two clients are told one list and two the other; neither list finds three who confirm it."""
    one, other = world.survivors(*NAMES), world.survivors("alice", "bob", "charlie")
    told = {"alice": one, "bob": one, "charlie": other, "dora": other}
    tags = {name: world.confirm(name, asked) for name, asked in told.items()}
    for name in NAMES:
        with pytest.raises(ClientRefusesError, match="2 clients are known to be bound"):
            world.answer(name, tags)


def test_the_one_client_that_is_told_another_list_says_nothing(world: World) -> None:
    """Without confirmations its answer would be one more equation about a second sum."""
    tags = {name: world.confirm(name, world.survivors(*NAMES)) for name in NAMES[:3]}
    tags["dora"] = world.confirm("dora", world.survivors("alice", "bob", "dora"))
    for name in NAMES[:3]:
        assert isinstance(world.answer(name, tags)[0], Answer)
    with pytest.raises(ClientRefusesError, match="1 clients are known to be bound"):
        world.answer("dora", tags)


def test_confirmations_of_this_round_are_no_leave_to_answer_in_an_earlier_one(tmp_path: Path) -> None:
    """A list that alice confirmed in round 1, never answered, is kept for round 2, where it binds her to nothing.

    The server passes on round 2's confirmations of bob and of dora, who colludes, as round 1's.  An answer
    from the shares of round 2 would leave alice and charlie free to confirm and answer a second list there:
    with dora that makes U answers for each, and their difference is the update of bob.
    """
    first = World(tmp_path)
    for name in ("alice", "charlie"):
        first.confirm(name, first.survivors(*NAMES))
    second = World(tmp_path, number=2)
    second.answerers = first.answerers
    tags = {name: second.confirm(name, second.survivors(*NAMES)) for name in ("bob", "dora")}
    for name in ("alice", "charlie"):
        with pytest.raises(SharesGoneError, match="was not asked about round 1"):
            second.answer(name, tags, said_of=1)
    tags |= {name: second.confirm(name, second.survivors(*NAMES)) for name in ("alice", "charlie")}
    assert isinstance(second.answer("alice", tags)[0], Answer)
    with pytest.raises(AnswerRefusedError, match="bound to other survivors"):
        second.confirm("alice", second.survivors("alice", "charlie", "dora"))


def test_the_book_counts_the_confirmations_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the Answerer's own count out of order, the book still answers to no fewer than U."""
    tags = {name: world.confirm(name, world.survivors(*NAMES)) for name in ("alice", "bob")}
    monkeypatch.setattr(Answerer, "_needed", 2)
    book = world.answerers["alice"].book
    answer = book.answer
    monkeypatch.setattr(book, "answer", lambda *args, **how: answer(*args, **{**how, "needed": 3}))
    with pytest.raises(AnswerRefusedError, match="2 participants confirmed this list of survivors; U = 3"):
        world.answer("alice", tags)


def test_no_plain_share_stays_behind_once_it_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[PackedBits] = []
    seal = ShareChannel.seal

    def watched(self: ShareChannel, peer: str, share: PackedBits) -> bytes:
        assert share.any()
        plain.append(share)
        return seal(self, peer, share)

    monkeypatch.setattr(ShareChannel, "seal", watched)
    mode = LightSecAgg(CONFIG, D, np.random.default_rng(9).bytes)
    held, mask, sealed = mode.deal(channel("bob", mode.context(1, NAMES)), "bob")
    assert len(plain) == len(sealed) == 3
    assert not np.concatenate(plain).any()
    assert mask.any()
    assert held.senders == ("bob",)


def test_a_confirmation_cannot_be_made_up_or_used_for_another(world: World) -> None:
    tags = {name: dict(world.confirm(name, world.survivors(*NAMES))) for name in ("alice", "bob")}
    forged = {**tags, "charlie": {"alice": bytes(16)}, "dora": {"alice": tags["bob"]["alice"]}}
    with pytest.raises(ClientRefusesError, match="2 clients"):
        world.answer("alice", forged)


def test_a_second_list_is_refused_for_ever(world: World) -> None:
    world.confirm("alice", world.survivors(*NAMES))
    with pytest.raises(AnswerRefusedError, match="bound to other survivors"):
        world.confirm("alice", world.survivors("alice", "bob", "charlie"))
    world.answerers["alice"] = world.answerer("alice")
    with pytest.raises(AnswerRefusedError, match="bound to other survivors"):
        world.confirm("alice", world.survivors("alice", "bob", "charlie"))


@pytest.mark.parametrize(
    ("survivors", "changes", "words"),
    [
        (("alice",), {}, "1 survivors would let the sum tell too much"),
        (("alice", "bob"), {}, "asks for at least 3"),
        (("alice", "bob", "eve"), {}, "must be holders of shares"),
        (("bob", "alice", "charlie"), {}, "in the run's order"),
        (("alice", "alice", "bob"), {}, "each once"),
        (("alice", "bob", "charlie"), {"holders": NAMES[:3]}, "shares came from alice, bob, charlie, dora"),
        (("alice", "bob", "charlie"), {"participants": NAMES[:3], "holders": NAMES[:3]}, "shares came from"),
    ],
)
def test_a_list_that_is_no_good_is_refused(
    world: World, survivors: tuple[str, ...], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ClientRefusesError, match=words):
        world.confirm("alice", world.survivors(*survivors, **changes))


def test_after_a_restart_the_answer_is_repeated_and_nothing_else_said(world: World) -> None:
    asked = world.survivors(*NAMES)
    tags = {name: world.confirm(name, asked) for name in NAMES}
    said = world.answer("alice", tags)
    restarted = world.answerer("alice")
    repeated = restarted.confirm(asked, None)
    assert repeated[0] == said[0]
    assert np.array_equal(repeated[1], said[1])
    with pytest.raises(AnswerRefusedError):
        restarted.confirm(world.survivors("alice", "bob", "charlie"), None)
    with pytest.raises(SharesGoneError, match="was restarted"):
        world.answerer("bob").confirm(asked, None)


def test_a_client_that_was_not_asked_answers_nothing(world: World) -> None:
    tags = {name: world.confirm(name, world.survivors(*NAMES)) for name in NAMES[1:]}
    with pytest.raises(SharesGoneError, match="was not asked"):
        world.answer("alice", tags)


def test_a_share_that_the_server_changed_takes_its_receiver_out(tmp_path: Path) -> None:
    """Flipping all bits of alice's share for bob would make bob's answer tell that share."""

    def flip(sender: str, receiver: str, share: bytes) -> bytes:
        hit = (sender, receiver) == ("alice", "bob")
        return bytes(255 - byte for byte in share[:-16]) + share[-16:] if hit else share

    world = World(tmp_path, flip)
    assert set(world.errors) == {"bob"}
    assert "share of alice was changed on its way" in str(world.errors["bob"])
    assert isinstance(world.errors["bob"], KeyServiceError)
    assert world.errors["bob"].key_bits == 3 * world.context.pad_bits
    assert "bob" not in world.held_shares


def test_without_tags_a_changed_share_shows_in_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: bob opens what the server made of alice's share, and nobody but the server notices.

    U = 3 honest answers predict bob's; by how much his differs tells the bits that were flipped.
    """

    class NoTag:
        def __init__(self, key: bytes) -> None: ...

        def update(self, text: bytes) -> None: ...

        def finalize(self) -> bytes:
            return bytes(16)

        def verify(self, tag: bytes) -> None: ...

    def flip(sender: str, receiver: str, share: bytes) -> bytes:
        hit = (sender, receiver) == ("alice", "bob")
        return bytes([share[0] ^ 1]) + share[1:] if hit else share

    monkeypatch.setattr("orchestrator.delivery.sharing.Poly1305", NoTag)
    world = World(tmp_path, flip)
    assert not world.errors
    tags = {name: world.confirm(name, world.survivors(*NAMES)) for name in NAMES}
    answers = {name: world.answer(name, tags)[1] for name in NAMES}
    with pytest.raises(AggregationError, match="contradicts"):
        world.mode.total(NAMES, world.uploads(NAMES), answers)


def test_a_mask_protects_one_update(world: World) -> None:
    world.uploads(("alice",))
    with pytest.raises(KeyServiceError, match="has protected an update before"):
        world.uploads(("alice",))


def test_a_wrong_answer_or_upload_gives_no_sum(world: World) -> None:
    uploads = world.uploads(NAMES)
    tags = {name: world.confirm(name, world.survivors(*NAMES)) for name in NAMES}
    answers = {name: world.answer(name, tags)[1] for name in NAMES}
    wrong = answers["bob"].copy()
    wrong[0] ^= 1
    with pytest.raises(AggregationError, match="contradicts"):
        world.mode.total(NAMES, uploads, {**answers, "bob": wrong})
    no_symbol = np.full_like(answers["bob"], 255)
    no_symbol[-1] = 0
    with pytest.raises(AggregationError, match="the answer of bob is no array of symbols"):
        world.mode.total(NAMES, uploads, {**answers, "bob": no_symbol})
    with pytest.raises(AggregationError, match="do not determine"):
        world.mode.total(NAMES, uploads, {"alice": answers["alice"]})


def test_what_is_secret_in_a_round_is_neither_shown_nor_pickled(world: World) -> None:
    held = world.held_shares["alice"]
    protection = world.protections["alice"]
    channel_ = held.channel  # type: ignore[attr-defined]
    shown = f"{held!r} {held!s} {protection!r} {channel_!r} {channel_._out!r} {vars(channel_)!r} {channel_.park()!r}"
    assert "round 1" in shown
    assert "array" not in shown
    assert "uint" not in shown
    for secret in (world.held_shares["bob"], world.held_shares["bob"].channel):  # type: ignore[attr-defined]
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            if secret is world.held_shares["bob"] and copying is copy.copy:
                continue  # the same channel, not another
            with pytest.raises(SecretLeakError):
                copying(secret)


def test_with_no_answer_to_spare_a_wrong_one_can_pass_as_a_sum(world: World) -> None:
    """Why a round says how many answers it had to spare: three that are needed fit any sum at all."""
    uploads = world.uploads(NAMES)
    tags = {name: world.confirm(name, world.survivors(*NAMES)) for name in NAMES}
    answers = {name: world.answer(name, tags)[1] for name in NAMES[:3]}
    right = world.mode.total(NAMES, uploads, answers)
    answers["bob"] = answers["bob"].copy()
    answers["bob"][0] ^= 1
    assert np.array_equal(right, expected(world, NAMES))
    assert np.count_nonzero(world.mode.total(NAMES, uploads, answers) != right) == 2
    with pytest.raises(AggregationError, match="contradicts"):
        world.mode.total(NAMES, uploads, {**answers, "dora": world.answer("dora", tags)[1]})


def test_after_the_round_nothing_is_left_to_answer_with(world: World) -> None:
    held = world.held_shares["alice"]
    shares = list(held.shares.values())  # type: ignore[attr-defined]
    assert all(share.any() for share in shares)
    held.close()
    assert not any(share.any() for share in shares)
    with pytest.raises((KeyError, ShareSealError)):
        held.answer(NAMES)


# -- a server that says anything, in any order -----------------------------------------------------------

LISTS = (NAMES, NAMES[:3], ("alice", "charlie", "dora"), NAMES[1:])
HONEST = NAMES[:3]
asking = st.tuples(st.just("ask"), st.sampled_from(HONEST), st.integers(1, 2), st.sampled_from(LISTS))
telling = st.tuples(st.just("tell"), st.sampled_from(HONEST), st.integers(1, 2), st.sampled_from(LISTS))
beginning = st.tuples(st.just("begin"), st.just(""), st.just(2), st.just(NAMES))
ROUNDS = {number: LightSecAgg(CONFIG, 2, np.random.default_rng(number).bytes) for number in (1, 2)}


def everybody_holds(number: int) -> dict[str, HeldShares]:
    """A round in which all shares have arrived."""
    mode = ROUNDS[number]
    context = mode.context(number, NAMES)
    dealt = {name: mode.deal(channel(name, context), name) for name in NAMES}
    for name, (held, _, _) in dealt.items():
        for peer, (_, _, sealed) in dealt.items():
            if peer != name:
                held.shares[peer] = mode.open_share(held.channel, peer, sealed[name])
    return {name: held for name, (held, _, _) in dealt.items()}


@given(st.lists(st.one_of(asking, telling, beginning), max_size=24))
@example(
    [
        ("ask", "alice", 1, NAMES),
        ("begin", "", 2, NAMES),
        ("ask", "bob", 2, NAMES),
        ("tell", "alice", 1, NAMES),
    ]
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_server_says_the_shares_of_a_round_answer_for_one_list(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, str, int, tuple[str, ...]]]
) -> None:
    """dora colludes: she vouches for every list, and the server passes on every tag that it has heard."""
    folder = tmp_path_factory.mktemp("run")
    present = everybody_holds(1)
    answerers = {name: Answerer(name, CONFIG, RULES, AnswerBook(folder / name)) for name in HONEST}
    heard: dict[tuple[int, str, tuple[str, ...]], dict[str, bytes]] = {}
    answered: dict[int, set[tuple[str, ...]]] = {1: set(), 2: set()}
    for what, name, number, survivors in script:
        at = next(iter(present.values())).context.round
        if what == "begin":
            present = everybody_holds(2) if at == 1 else present
            continue
        try:
            if what == "ask":
                asked = Survivors("run", number, NAMES, NAMES, survivors)
                given_, tags = answerers[name].confirm(asked, present[name])
                assert isinstance(given_, Confirm)
                peers = [peer for peer in NAMES if peer != name]
                heard[at, name, survivors] = {p: row.tobytes() for p, row in zip(peers, tags, strict=True)}
                continue
            senders = [peer for peer in HONEST if peer != name and (at, peer, survivors) in heard]
            rows = [heard[at, peer, survivors][name] for peer in senders]
            rows.append(present["dora"].channel._out[name].statement_tag(statement_of(survivors)).finalize())
            array = np.array([np.frombuffer(row, np.uint8) for row in rows])
            message = Confirmed("run", number, (*senders, "dora"), header_of(array))
            before = answerers[name]._asked
            answerers[name].answer(message, array, present[name])
            assert before is not None
            assert number == at, "shares of one round answered for another"
            answered[at].add(before.survivors)
        except (ClientRefusesError, AnswerRefusedError):
            continue
    assert all(len(lists) <= 1 for lists in answered.values())
