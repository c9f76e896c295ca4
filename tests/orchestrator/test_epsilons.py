"""Epsilons are kept, cost what they cost, and are added up where they stay."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rehearsal import MemoryAuthKeys, honest_sides, rehearse

from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import TaggedChannel, _bound
from orchestrator.one_time_tags import TAG_KEY_BITS
from orchestrator.postprocessing import messages as m
from orchestrator.postprocessing.authentication import Transcript
from orchestrator.protocols.epsilons import (
    EPS_MIN,
    ParameterError,
    forgery_bound,
    undetected_error_bound,
    verification_tags,
)
from orchestrator.protocols.four_phase.planner import FourPhasePlan, block_plan
from orchestrator.protocols.four_phase.rates import keyrate_report
from orchestrator.secret import SecretBits
from orchestrator.wire.codec import Message, encode
from orchestrator.wire.memory_channel import memory_channel_pair

KEK = Kek(bytes(range(32)))
MODERATE = 1e-15
STRICT = 1e-60


@pytest.fixture(scope="module")
def strict_plan() -> FourPhasePlan:
    return block_plan(
        3.0, 3.0, n_pulses=1 << 20, visibility=0.99, dark_count=1e-7, eps_cor=STRICT, eps_sec=1e-3
    )


def report(eps_cor: float, n_pulses: int | None = 10**10) -> dict[str, float | int | None]:
    return keyrate_report(
        9.3, 9.3, 0.99, 1e-7, 1.1, n_pulses, 1e-10, eps_cor, mu_a=0.006, mu_b=0.006, p_x=0.9
    )


def bits(eps_cor: float) -> int:
    found = report(eps_cor)["key_bits"]
    assert isinstance(found, int)
    return found


# -- eps_cor ---------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.integers(1, 10**12), st.floats(EPS_MIN, 0.999))
def test_the_tags_of_a_block_keep_eps_cor_and_none_is_spare(n_bits: int, eps_cor: float) -> None:
    tags = verification_tags(n_bits, eps_cor)
    assert undetected_error_bound(n_bits, tags) <= eps_cor
    assert tags == 1 or undetected_error_bound(n_bits, tags - 1) > eps_cor


def test_one_tag_is_the_published_bound() -> None:
    """Bernstein, FSE 2005, theorem 3.3: 8 ceil(L/16) / 2**106 for L bytes."""
    assert undetected_error_bound(10**7) == 8 * 78125 / 2**106
    assert undetected_error_bound(10**7, 2) == pytest.approx((8 * 78125 / 2**106) ** 2)


def test_a_stricter_eps_cor_costs_key() -> None:
    assert bits(MODERATE) > bits(1e-40) > bits(STRICT)
    assert bits(MODERATE) - bits(STRICT) == verification_tags(10**7, STRICT) - 1


@pytest.mark.parametrize("eps_cor", [1e-300, 0.0, -1e-10, 1.0, 2.0, math.nan, math.inf, EPS_MIN / 2])
@pytest.mark.parametrize("n_pulses", [10**10, None])
def test_an_eps_cor_that_cannot_be_kept_is_refused_by_name(eps_cor: float, n_pulses: int | None) -> None:
    with pytest.raises(ParameterError, match=r"eps_cor must lie in \[1e-80, 1\)"):
        report(eps_cor, n_pulses)
    with pytest.raises(ParameterError, match="eps_cor"):
        block_plan(3.0, 3.0, n_pulses=1 << 20, visibility=0.99, dark_count=1e-7, eps_cor=eps_cor)


def test_a_real_block_sends_the_tags_that_its_eps_cor_asks_for(strict_plan: FourPhasePlan) -> None:
    sides = honest_sides(strict_plan, 1)
    ends = memory_channel_pair()
    sent: list[object] = []
    original = Transcript.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Transcript, "add", lambda self, sender, data: (sent.append(data), original(self, sender, data))
        )
        rehearse(sides, channels=ends, timeout_s=120.0)
    first, second = sides["first"].result, sides["second"].result
    assert first.key is not None
    tags = verification_tags(first.n_key, STRICT)
    assert tags == 3
    assert first.epsilons == second.epsilons
    assert first.epsilons is not None
    assert first.epsilons.tags == tags
    assert first.epsilons.cor == undetected_error_bound(first.n_key, tags) <= STRICT
    spent = (tags + 1) * TAG_KEY_BITS  # and one over the transcript
    assert sides["first"].auth.outgoing_head == sides["second"].auth.incoming_head == spent
    (verification,) = {
        message.tag for message in map(_decoded, sent) if isinstance(message, m.VerificationTag)
    }
    assert len(verification) == 16 * tags
    assert len({verification[i : i + 16] for i in range(0, 16 * tags, 16)}) == tags, "keys of their own"


def _decoded(data: object) -> object:
    from orchestrator.wire.codec import decode

    return decode(data, m.BlockMessage)  # type: ignore[arg-type]


def test_every_tag_of_a_block_counts(strict_plan: FourPhasePlan) -> None:
    """A second tag that does not fit destroys the block although the first one does."""
    sides = honest_sides(strict_plan, 2)
    mine = sides["first"].auth
    altered = bytearray(mine._outgoing.reveal_bytes())
    altered[32 + 20] ^= 1
    mine._outgoing = SecretBits.from_bytes(bytes(altered))
    rehearse(sides, timeout_s=120.0)
    assert "verification failed" in str(sides["first"].outcome)


# -- forgery bounds use what was tagged -----------------------------------------------------------------------


def test_the_transcript_of_a_block_bounds_its_forgery_by_its_own_length(strict_plan: FourPhasePlan) -> None:
    lengths = []
    original = Transcript.tag
    sides = honest_sides(strict_plan, 3)
    with pytest.MonkeyPatch.context() as patch:

        def noting(self: Transcript, key: SecretBits, sender: str, offset: int) -> bytes:
            lengths.append(sum(map(len, self._parts(sender, offset))))  # type: ignore[arg-type]
            return original(self, key, sender, offset)  # type: ignore[arg-type]

        patch.setattr(Transcript, "tag", noting)
        rehearse(sides, timeout_s=120.0)
    epsilons = sides["first"].result.epsilons
    assert epsilons is not None
    assert epsilons.auth >= 2 * forgery_bound(min(lengths))
    assert epsilons.auth <= 2 * forgery_bound(max(lengths) + 16)
    auth: MemoryAuthKeys = sides["second"].auth
    assert auth.forgery == pytest.approx(epsilons.auth / 2 + epsilons.cor)


class Note(Message, frozen=True):
    """Anything."""

    text: str


def stores(tmp_path: Path) -> tuple[KeyStore, KeyStore]:
    shared = [SecretBits.from_bytes(bytes([n]) * 8192) for n in (1, 2)]
    pair = []
    for own, peer, pair_end in (("alice", "bob", "first"), ("bob", "alice", "second")):
        store = KeyStore.create(tmp_path / f"{own}.db", own, KEK)
        store.install_initial_secret(peer, *shared, pair_end=pair_end)  # type: ignore[arg-type]
        pair.append(store)
    return pair[0], pair[1]


def test_tags_that_a_node_checks_are_booked_with_the_length_of_their_messages(tmp_path: Path) -> None:
    alice, bob = stores(tmp_path)
    one, other = memory_channel_pair()
    sending, receiving = TaggedChannel(alice, one, "bob"), TaggedChannel(bob, other, "alice")
    expected = 0.0
    for length in (10, 1000, 50_000):
        note = Note("x" * length)
        sending.send(note)
        assert receiving.expect(Expect(tagged=(Note,)), 1.0) == (note, [])
        expected += forgery_bound(len(_bound(0, "alice", "bob", 0, 1, encode(note))))
    booked = bob.epsilons("alice")
    assert booked.auth == pytest.approx(expected)
    assert booked.tags == 3
    assert alice.epsilons("bob").tags == 0, "what alice sent is checked, and booked, by bob"
    alice.close()
    bob.close()


def test_a_forged_message_is_booked_as_the_try_that_it_is(tmp_path: Path) -> None:
    from orchestrator.keystore.errors import TamperedError

    alice, bob = stores(tmp_path)
    one, other = memory_channel_pair()
    TaggedChannel(alice, one, "bob").send(Note("true"))
    forged = bytearray(other.recv(1.0))
    forged[forged.index(b"true")] ^= 1
    one.send(bytes(forged))
    receiving = TaggedChannel(bob, other, "alice")
    with pytest.raises(TamperedError):
        receiving.expect(Expect(tagged=(Note,)), 1.0)
    assert bob.epsilons("alice").tags == 1
    assert bob.epsilons("alice").auth > 0
    alice.close()
    bob.close()


# -- the ledger -----------------------------------------------------------------------------------------------


def test_the_sums_of_a_pair_only_grow_and_survive_a_restart(tmp_path: Path) -> None:
    alice, bob = stores(tmp_path)
    for _ in range(3):
        alice.book_block("bob", sec=1e-10, cor=7e-27)
    before = alice.epsilons("bob")
    assert before.sec == pytest.approx(3e-10)
    assert before.cor == pytest.approx(2.1e-26)
    assert before.blocks == 3
    assert before.total == before.sec + before.cor + before.auth
    alice.close()
    bob.close()
    with KeyStore.open(tmp_path / "alice.db", "alice", KEK) as again:
        assert again.epsilons("bob") == before


def test_epsilons_of_a_stranger_are_refused(tmp_path: Path) -> None:
    from orchestrator.keystore.errors import RefusedError

    alice, bob = stores(tmp_path)
    with pytest.raises(RefusedError, match="mallory"):
        alice.book_block("mallory", sec=1.0, cor=1.0)
    alice.close()
    bob.close()


# -- the command line's numbers ---------------------------------------------------------------------------------

ANY = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1e-300, 1e300, 4000.0, 1.0])
PLAUSIBLE = {
    "loss_a_db": st.floats(0, 60) | ANY,
    "loss_b_db": st.floats(0, 60) | ANY,
    "mu_a": st.floats(1e-6, 1) | ANY,
    "mu_b": st.floats(1e-6, 1) | ANY,
    "p_x": st.floats(0.5, 1) | ANY,
    "visibility": st.floats(0.5, 1) | ANY,
    "dark_count": st.floats(0, 1e-3) | ANY,
    "f_ec": st.floats(1, 2) | ANY,
    "n_pulses": st.none() | st.integers(1, 10**14).map(float) | ANY,
    "eps_sec": st.floats(1e-20, 0.1) | ANY,
    "eps_cor": st.floats(1e-20, 0.1) | ANY,
    "phase_uncertainty_rad": st.floats(0, 0.1) | ANY,
    "intensity_tolerance_db": st.floats(0, 2) | ANY,
    "extinction_db": st.none() | st.floats(30, 60) | ANY,
}


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(PLAUSIBLE))
@example(
    dict.fromkeys(PLAUSIBLE, 1.0)
    | {"n_pulses": None, "eps_sec": 0.0625, "eps_cor": 0.0625, "extinction_db": -3083.0}
)
def test_keyrate_gives_numbers_or_names_the_option(given_options: dict[str, float | None]) -> None:
    from lab.cli.keyrate import OPTIONS, keyrate_command

    options = {OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in given_options}
    refusal = None
    try:
        found = keyrate_command(protocol="four-phase", optimize=False, **given_options)  # type: ignore[arg-type]
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.split()[0] in options
        return
    assert all(value is None or math.isfinite(value) for value in found.values())
    assert found["key_rate_per_pulse"] is not None
    assert 0 <= found["key_rate_per_pulse"] < 1


@pytest.mark.parametrize("loss_db", [0.0, 60.0, 200.0])
@pytest.mark.parametrize("n_pulses", [1, 10**18, None])
def test_the_optimiser_takes_whatever_is_in_range(loss_db: float, n_pulses: int | None) -> None:
    for dark in (0.0, 1e-7):
        found = keyrate_report(loss_db, 3.0, 0.99, dark, 1.16, n_pulses, 1e-10, 1e-15)
        assert all(value is None or math.isfinite(value) for value in found.values())


def test_a_plan_of_other_epsilons_is_another_plan(strict_plan: FourPhasePlan) -> None:
    assert dataclasses.replace(strict_plan, eps_cor=MODERATE).digest() != strict_plan.digest()
