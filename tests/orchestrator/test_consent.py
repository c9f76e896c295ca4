"""Consent: what a learning server may ask of a client, as a rule without sockets and as files that last."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.delivery.consent import (
    DESCRIPTION_VERSION,
    FORMAT,
    Consent,
    DescribedArray,
    RunDescription,
    RunPosition,
    check_description,
    check_round,
    check_terms,
)
from orchestrator.delivery.consent_book import ConsentBook, read_run_file, write_run_file
from orchestrator.delivery.errors import ConsentError, OtherTermsError
from orchestrator.delivery.messages import RoundContext

NAMES = ("alice", "bob", "charlie")
FIRST = hashlib.sha256(b"first").digest()
RUN = RunDescription(
    version=DESCRIPTION_VERSION, run_id="run", task="digits", task_fingerprint="f00d", data="digits", participants=NAMES,
    weights=(1, 2, 1), rounds=3, attempts=30, mode="otp", cipher="otp", colluders=0, survivors=0, smallest_set=3,
    n_parameters=40, n_values=40, ring_width=10, levels=31, clip=1.0, clip_decay=1.0, keep=1.0,
    error_feedback=False, seed=3, first_model=FIRST.hex(),
)  # fmt: skip
SHARING = msgspec.structs.replace(
    RUN, run_id="sharing", mode="lightsecagg", cipher="lightsecagg", colluders=1, survivors=3, smallest_set=3,
    participants=(*NAMES, "dora"), weights=(1, 1, 1, 1),
)  # fmt: skip


def context(described: RunDescription = RUN, number: int = 1, **changes: Any) -> RoundContext:
    fields: dict[str, Any] = {
        "run_id": described.run_id,
        "round": number,
        "participants": described.participants,
        "n_values": described.n_values,
        "ring_width": described.ring_width,
        "cipher": described.cipher,
        "run": described.digest(),
        "model": bytes.fromhex(described.first_model),
    }
    return RoundContext(**{**fields, **changes})


def after(run: RunDescription, completed: int, number: int, model: bytes = b"next") -> RunPosition:
    return RunPosition(FORMAT, run.digest(), completed, number, model)


@pytest.mark.parametrize(
    ("changes", "weight", "words"),
    [
        ({"run_id": "run-2"}, 1, "belongs to another run"),
        ({"run": bytes(32)}, 1, "belongs to another run"),
        ({"run": msgspec.structs.replace(RUN, seed=4).digest()}, 1, "belongs to another run"),
        ({"run": msgspec.structs.replace(RUN, clip=0.5).digest()}, 1, "belongs to another run"),
        ({"cipher": "expanded"}, 1, "mode otp was agreed to"),
        ({"participants": ("alice", "bob")}, 1, "charlie missing"),
        ({"participants": ("bob", "alice", "charlie")}, 1, "were agreed to"),
        ({"participants": (*NAMES, "dora")}, 1, "were agreed to"),
        ({"n_values": 39}, 1, "39 values"),
        ({"ring_width": 11}, 1, "of 11 bits"),
        ({}, 2, "weight 2 where 1 was agreed to"),
        ({}, 1 << 40, "where 1 was agreed to"),
        ({"round": 0}, 1, "not one of 1 to 30"),
        ({"round": 31}, 1, "not one of 1 to 30"),
        ({"model": bytes(32)}, 1, "does not follow"),
    ],
)
def test_a_round_that_is_not_as_consented_is_refused(
    changes: dict[str, Any], weight: int, words: str
) -> None:
    alice = Consent(FORMAT, "alice", RUN)
    check_round(alice, None, context(), 1)
    with pytest.raises(ConsentError, match=words):
        check_round(alice, None, context(**changes), weight)


def test_rounds_go_on_from_the_model_that_the_client_worked_out_and_end_with_the_run() -> None:
    alice, here = Consent(FORMAT, "alice", RUN), after(RUN, 1, 4)
    follows = hashlib.sha256(b"next").digest()
    check_round(alice, here, context(number=5, model=follows), 1)
    with pytest.raises(ConsentError, match="does not follow"):
        check_round(alice, here, context(number=5), 1)
    with pytest.raises(ConsentError, match="not one of 5 to 30"):
        check_round(alice, here, context(number=4, model=follows), 1)
    with pytest.raises(ConsentError, match="the run is over"):
        check_round(alice, after(RUN, 3, 9), context(number=10, model=follows), 1)


def test_shares_may_go_without_somebody_but_not_below_the_smallest_set() -> None:
    alice = Consent(FORMAT, "alice", SHARING)
    check_round(alice, None, context(SHARING))
    check_round(alice, None, context(SHARING, participants=("alice", "bob", "dora")))
    for names in (("alice", "bob"), ("bob", "charlie", "dora"), ("bob", "alice", "dora")):
        with pytest.raises(ConsentError):
            check_round(alice, None, context(SHARING, participants=names))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, "version is 1"),
        ({"participants": ("alice", "alice", "bob")}, "a user is named twice"),
        ({"weights": (1, 1)}, "weights: 2 for 3"),
        ({"smallest_set": 2}, "smallest_set: 2 of 3"),
        ({"attempts": 2}, "attempts"),
        ({"ring_width": 7}, "sums wrap at a ring width of 7 bits"),
        ({"cipher": "lightsecagg", "survivors": 2, "colluders": 1}, "do not hide an update"),
    ],
)
def test_a_description_that_contradicts_itself_is_not_agreed_to(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConsentError, match=words):
        ConsentBook(tmp_path).give("alice", msgspec.structs.replace(RUN, **changes))
    assert not list(tmp_path.glob("consent-*"))


@pytest.mark.parametrize("weight", [0, 1 << 40])
def test_a_weight_that_is_none_is_named_with_its_place(tmp_path: Path, weight: int) -> None:
    path = tmp_path / "run.json"
    write_run_file(path, RUN)
    data = json.loads(path.read_text())
    data["description"]["weights"][2] = weight
    path.write_text(json.dumps(data))
    with pytest.raises(ConsentError, match=r"run\.json .*\$\.description\.weights\[2\]|description.weights"):
        read_run_file(path)


def test_an_edited_run_file_and_an_edited_consent_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_run_file(path, RUN)
    assert read_run_file(path) == RUN
    path.write_text(path.read_text().replace('"rounds": 3', '"rounds": 4'))
    with pytest.raises(ConsentError, match=r"run\.json was edited"):
        read_run_file(path)
    book = ConsentBook(tmp_path / "book")
    book.give("alice", RUN)
    book.check(context(), 1)
    (file,) = book.folder.glob("consent-*")
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text().replace('"charlie"', '"dora"'))
    with pytest.raises(ConsentError, match=f"{file.name} was edited"):
        book.check(context(), 1)
    file.write_text("{")
    with pytest.raises(ConsentError, match=file.name):
        book.consents()


def test_without_consent_the_answer_names_digest_and_command(tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match=f"{RUN.name}.*qunetlab fl consent") as caught:
        ConsentBook(tmp_path).check(context(), 1)
    assert "no key was spent" in str(caught.value)


def test_one_and_one_point_zero_are_one_run() -> None:
    assert msgspec.structs.replace(RUN, clip=1).digest() == RUN.digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"participants": ("alice", "bob"), "weights": (1, 2), "smallest_set": 2},
        {"weights": (1, 1, 1)},
        {"clip": 0.5},
        {"levels": 15},
        {"mode": "expanded", "cipher": "expanded"},
        {"keep": 0.5},
    ],
)
def test_other_terms_over_the_same_data_need_a_consent_of_their_own(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    book, other = ConsentBook(tmp_path), msgspec.structs.replace(RUN, run_id="run-2", **changes)
    book.give("alice", RUN)
    with pytest.raises(
        OtherTermsError, match=r"approximately known .correlation about .8.*--accept-leak run"
    ):
        book.give("alice", other)
    assert book.find(other.digest()) is None
    assert book.give("alice", other, ["run"]).accepted == ("run",)
    book.check(context(other), 1)
    unnamed = msgspec.structs.replace(other, run_id="run-4", task_fingerprint="")
    with pytest.raises(OtherTermsError):
        book.give("alice", msgspec.structs.replace(unnamed, seed=9, levels=3))
    elsewhere = msgspec.structs.replace(other, run_id="run-3", task_fingerprint="beef", data="mnist")
    book.give("alice", elsewhere)


def test_a_label_that_the_server_chooses_makes_no_other_subject(tmp_path: Path) -> None:
    """Another split of the same data under the same model, or a task that no client can verify."""
    book = ConsentBook(tmp_path)
    book.give("alice", RUN)
    fewer = msgspec.structs.replace(
        RUN, run_id="run-2", participants=NAMES[:2], weights=(1, 2), smallest_set=2
    )
    split = msgspec.structs.replace(fewer, task="digits@other", task_fingerprint="beef")
    relabelled = msgspec.structs.replace(fewer, task="weather", data="weather", task_fingerprint="")
    for dodge in (split, relabelled):
        with pytest.raises(OtherTermsError, match="charlie took part in one of them only"):
            book.give("alice", dodge)
    book.give("alice", msgspec.structs.replace(split, n_parameters=41, n_values=41))


@pytest.mark.parametrize("hidden", ["\x1b[2A\x1b[J", "\n* nothing is told", "\u202e", "\u0430lice", "\r"])
@pytest.mark.parametrize("where", ["run_id", "task", "data", "participants", "arrays"])
def test_what_an_operator_reads_cannot_be_rewritten_on_the_screen(where: str, hidden: str) -> None:
    values: dict[str, Any] = {
        "participants": ("alice", "bob", f"c{hidden}"),
        "arrays": (DescribedArray(f"w{hidden}", 40, 1.0),),
    }
    with pytest.raises(ConsentError, match="not printable ASCII") as caught:
        check_description(msgspec.structs.replace(RUN, **{where: values.get(where, f"d{hidden}")}))
    assert str(caught.value).isprintable()


def test_what_is_no_consent_of_this_user_is_refused(tmp_path: Path) -> None:
    book = ConsentBook(tmp_path)
    with pytest.raises(ConsentError, match="eve is not among the participants"):
        book.give("eve", RUN)
    book.give("alice", RUN)
    with pytest.raises(ConsentError, match="consents of alice, not of bob"):
        book.give("bob", msgspec.structs.replace(RUN, run_id="run-2"))
    with pytest.raises(ConsentError, match="needs another id"):
        book.give("alice", msgspec.structs.replace(RUN, rounds=4))
    with pytest.raises(ConsentError, match="never consented to a run run-9"):
        book.give("alice", msgspec.structs.replace(RUN, run_id="run-2", clip=0.5), ["run-9"])


def test_a_server_that_offers_run_after_run_fills_no_disk(tmp_path: Path) -> None:
    book = ConsentBook(tmp_path / "journal")
    book.give("alice", RUN)
    for number in range(50):
        offered = msgspec.structs.replace(RUN, run_id=f"run-{number}", seed=number)
        assert read_run_file(book.keep_offer(offered)) == offered
    assert len(list(book.folder.glob("offered-*"))) == 1
    assert book.consents()


def test_a_position_only_moves_on_and_outlives_the_process(tmp_path: Path) -> None:
    book, run = ConsentBook(tmp_path), RUN.digest()
    book.give("alice", RUN)
    book.advance(run, 2, b"model two")
    with pytest.raises(ConsentError, match="does not come after round 2"):
        book.advance(run, 2, b"another model")
    again = ConsentBook(tmp_path)
    assert again.position(run) == RunPosition(FORMAT, run, 1, 2, b"model two")
    again.check(context(number=3, model=hashlib.sha256(b"model two").digest()), 1)
    (file,) = tmp_path.glob("position-*")
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"\x93")
    with pytest.raises(ConsentError, match="how far the run is, is unknown"):
        again.check(context(number=3), 1)


# -- whatever the server does --------------------------------------------------------------------------

USERS = ("alice", "bob", "charlie", "dora")
SETS = tuple(names for size in (2, 3, 4) for names in itertools.combinations(USERS, size))
OFFERS = st.builds(
    lambda names, mode, heavy, clip, seed, run_id: msgspec.structs.replace(
        RUN, run_id=run_id, participants=names, weights=(1 + heavy,) + (1,) * (len(names) - 1), mode=mode, cipher=mode,
        smallest_set=len(names), clip=clip, seed=seed,
    ),
    st.sampled_from(SETS), st.sampled_from(["otp", "expanded"]), st.integers(0, 1), st.sampled_from([1.0, 0.5]),
    st.integers(0, 1), st.sampled_from(["r1", "r2", "r3"]),
)  # fmt: skip


class Honest:
    """A client whose operator agrees to whatever has no other terms, and that follows what is published."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.consents: list[Consent] = []
        self.positions: dict[bytes, RunPosition] = {}
        self.masked: dict[tuple[str, int], bytes] = {}

    def offered(self, run: RunDescription) -> None:
        if self.name not in run.participants or any(
            c.description.run_id == run.run_id for c in self.consents
        ):
            return
        try:
            check_description(run)
            check_terms(run, self.consents)
        except ConsentError:
            return
        self.consents.append(Consent(FORMAT, self.name, run))

    def masks(self, asked: RoundContext, weight: int) -> bool:
        consent = next((c for c in self.consents if c.description.digest() == asked.run), None)
        if consent is None:
            return False
        try:
            check_round(consent, self.positions.get(asked.run), asked, weight)
        except ConsentError:
            return False
        return self.masked.setdefault((asked.run_id, asked.round), asked.digest()) == asked.digest()

    def follows(self, run: bytes, number: int, model: bytes) -> None:
        before = self.positions.get(run)
        if before is None or number > before.round:
            completed = 1 if before is None else before.completed + 1
            self.positions[run] = RunPosition(FORMAT, run, completed, number, model)


def asked_of(run: RunDescription, absent: int, names: tuple[str, ...], heavy: int) -> dict[str, int]:
    """Whom the server asks, with which weights: as described, without one, or whomever it likes."""
    if absent < len(run.participants) - 1:
        weights = dict(zip(run.participants, run.weights, strict=True))
        return {name: weights[name] for i, name in enumerate(run.participants) if i != absent - 1}
    return dict.fromkeys(names, 1) | {names[0]: heavy}


@given(
    offers=st.lists(OFFERS, min_size=1, max_size=6),
    script=st.lists(
        st.tuples(
            st.integers(0, 5), st.integers(0, 3), st.sampled_from(SETS), st.integers(1, 4), st.integers(0, 2),
            st.integers(1, 2), st.booleans(),
        ),
        max_size=30,
    ),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_two_sums_differ_by_one_clients_update(
    offers: list[RunDescription], script: list[tuple[int, int, tuple[str, ...], int, int, int, bool]]
) -> None:
    """A server offers runs and asks for what it likes of whom it likes; a sum needs all participants of one context."""
    clients = {name: Honest(name) for name in USERS}
    for run in offers:
        for client in clients.values():
            client.offered(run)
    sums: set[tuple[tuple[str, ...], tuple[int, ...]]] = set()
    for which, absent, names, number, model, heavy, publish in script:
        run = offers[which % len(offers)]
        weights = asked_of(run, absent, names, heavy)
        digest = bytes.fromhex(run.first_model) if model == 0 else hashlib.sha256(b"m%d" % model).digest()
        asked = context(run, number, participants=tuple(weights), model=digest)
        masked = {name: clients[name].masks(asked, weight) for name, weight in weights.items()}
        if all(masked.values()):
            sums.add((tuple(weights), tuple(weights.values())))
        if publish:
            for client in clients.values():
                client.follows(run.digest(), number, b"m%d" % model)
    for (one, first), (other, second) in itertools.combinations(sums, 2):
        assert not set(one) & set(other), f"{one} {first} and {other} {second} tell the difference"
