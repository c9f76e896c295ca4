"""A whole block: two users, one key, every disclosed bit counted, and every way in which a block must end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
from rehearsal import MemoryAuthKeys, Side, honest_sides, rehearse

from orchestrator.bits import pack, unpack
from orchestrator.keystore.errors import LaneShortError
from orchestrator.keystore.lanes import PairEnd
from orchestrator.postprocessing import messages as m
from orchestrator.postprocessing.authentication import BlockId
from orchestrator.postprocessing.block import BlockResult, run_block
from orchestrator.postprocessing.cascade import CascadeCorrector, compile_kernels
from orchestrator.postprocessing.conversation import PATIENCE, BlockAborted
from orchestrator.postprocessing.lost_frames import OpeningText
from orchestrator.protocols.four_phase.planner import FourPhasePlan, block_plan
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.memory_channel import memory_channel_pair


@pytest.fixture(scope="module")
def plan() -> FourPhasePlan:
    compile_kernels()
    return block_plan(2, 2, n_pulses=10**6, visibility=0.99, dark_count=1e-7, eps_sec=1e-3)


@dataclass
class Wire:
    """A channel end that keeps what this side sent, and may change it on the way."""

    inner: Channel
    change: Callable[[m.BlockMessage], m.BlockMessage] = lambda message: message
    sent: list[m.BlockMessage] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def send(self, payload: bytes) -> None:
        message = decode(payload, m.BlockMessage)
        self.sent.append(message)
        self.raw.append(payload)
        self.inner.send(encode(self.change(message)))

    def recv(self, timeout_s: float) -> bytes:
        return self.inner.recv(timeout_s)


def wires(
    change: Callable[[m.BlockMessage], m.BlockMessage] = lambda message: message,
) -> tuple[Wire, Wire]:
    first, second = memory_channel_pair()
    return Wire(first, change), Wire(second, change)


def reasons(sides: dict[PairEnd, Side]) -> tuple[str, str]:
    """Why both sides aborted; fails if one did not, or holds key."""
    for side in sides.values():
        assert isinstance(side.outcome, BlockAborted), side.outcome
        assert not side.clicks.symbol.any(), "the symbols outlived the block"
    return sides["first"].outcome.reason, sides["second"].outcome.reason


def test_both_users_get_the_same_key(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)
    a, b = (sides[pair_end].clicks for pair_end in ("first", "second"))
    xx = (a.symbol < 2) & (b.symbol < 2)
    wrong = np.count_nonzero((a.symbol ^ b.symbol ^ (a.outcome == 2))[xx] & 1)
    n_x = int(xx.sum())
    rehearse(sides)
    first, second = sides["first"].result, sides["second"].result
    assert first.key is not None
    assert second.key is not None
    assert first.key.same_as(second.key)
    assert len(first.key) == first.secret_bits > 1000
    assert replace(first, key=None) == replace(second, key=None)
    assert (first.n_key, first.qber) == (n_x, wrong / n_x)
    assert 1.0 < first.f_ec < 1.15
    assert first.no_key_reason == ""
    assert not sides["first"].clicks.symbol.any()
    assert not sides["second"].clicks.symbol.any()


def test_different_blocks_give_different_keys(plan: FourPhasePlan) -> None:
    keys = []
    for seed in (1, 2):
        sides = honest_sides(plan, seed)
        rehearse(sides, seed=seed)
        keys.append(sides["first"].result.key)
    assert not keys[0].take(0, 1000).same_as(keys[1].take(0, 1000))


def test_the_same_randomness_gives_the_same_key(plan: FourPhasePlan) -> None:
    keys = []
    for _ in range(2):
        sides = honest_sides(plan, 4)
        rehearse(sides, seed=4)
        keys.append(sides["second"].result.key)
    assert keys[0].same_as(keys[1])


def test_leak_is_what_crossed_the_wire(plan: FourPhasePlan) -> None:
    sides, (first, second) = honest_sides(plan, 3), wires()
    rehearse(sides, channels=(first, second))
    result = sides["first"].result
    requests = [message for message in second.sent if isinstance(message, m.ParityRequest)]
    replies = [message for message in first.sent if isinstance(message, m.ParityReply)]
    assert len(requests) == len(replies) == result.rounds
    on_wire = 0
    for reply in replies:
        on_wire += 8 * len(reply.parities)  # whole bytes: at most 7 bits of padding each
    assert on_wire - 7 * len(replies) <= result.leak_bits - 1 <= on_wire
    (report,) = (message for message in second.sent if isinstance(message, m.Reconciled))
    assert result.leak_bits == report.parity_bits + 1  # one for the published verdict
    entropy = -result.qber * math.log2(result.qber) - (1 - result.qber) * math.log2(1 - result.qber)
    assert result.f_ec == pytest.approx(report.parity_bits / (result.n_key * entropy))


def test_no_key_bit_crosses_the_wire(plan: FourPhasePlan) -> None:
    """R9: no 16-byte window of the key or of the sifted bits in any message, at any bit offset; a planted one is found."""
    sides, (first, second) = honest_sides(plan, 5), wires()
    a, b = sides["first"].clicks, sides["second"].clicks
    sifted = (a.symbol & 1)[(a.symbol < 2) & (b.symbol < 2)].copy()
    rehearse(sides, channels=(first, second))
    key = sides["first"].result.key
    assert key is not None
    secrets = [unpack(key.reveal(), len(key)), sifted]

    def windows(bits: np.ndarray) -> set[bytes]:
        rows = np.lib.stride_tricks.sliding_window_view(bits, 128)
        return {row.tobytes() for row in np.packbits(rows, axis=1, bitorder="little")}

    needles = set.union(*map(windows, secrets))
    haystack = b"".join(first.raw + second.raw)
    planted = haystack + pack(sifted[500:800]).tobytes()

    def found(data: bytes) -> bool:
        return any(data[i : i + 16] in needles for i in range(len(data) - 15))

    assert not found(haystack)
    assert found(planted)


def test_labels_and_seeds_are_drawn_after_the_bases_are_in(plan: FourPhasePlan) -> None:
    """The order in which the first user draws its private randomness, seen by its random source."""
    sides, log = honest_sides(plan, 6), []
    first, second = memory_channel_pair()

    class Log:
        def send(self, payload: bytes) -> None:
            log.append("send " + type(decode(payload, m.BlockMessage)).__name__)
            first.send(payload)

        def recv(self, timeout_s: float) -> bytes:
            payload = first.recv(timeout_s)
            log.append("got " + type(decode(payload, m.BlockMessage)).__name__)
            return payload

    rng = np.random.default_rng(1)

    def source(n: int) -> bytes:
        log.append("draw")
        return rng.bytes(n)

    drawn: dict[str, Callable[[int], bytes]] = {"first": source, "second": rng.bytes}
    outcome = in_two_threads(sides, {"first": Log(), "second": second}, drawn)
    assert isinstance(outcome["first"], BlockResult)
    assert log.index("draw") > log.index("got Labels")
    seed_drawn = len(log) - 1 - log[::-1].index("draw")
    assert log[seed_drawn - 1] == "got Verdict"
    assert log[seed_drawn + 1] == "send AmplificationSeed"
    assert log[-2:] == ["send Accepted", "got Accepted"]


def in_two_threads(
    sides: dict[PairEnd, Side],
    channels: dict[str, Channel],
    sources: dict[str, Callable[[int], bytes]],
    **options: object,
) -> dict[str, BlockResult | BlockAborted]:
    """Like :func:`rehearse`, with random sources and other options of run_block given."""
    outcome: dict[str, BlockResult | BlockAborted] = {}

    def run(pair_end: PairEnd) -> None:
        side = sides[pair_end]
        try:
            outcome[pair_end] = run_block(
                pair_end=pair_end, channel=channels[pair_end], clicks=side.clicks, plan=side.plan, session=side.session,
                announcement_transcript=side.announcements, pair=side.pair, auth=side.auth,
                random_bytes=sources[pair_end], timeout_s=20.0, **options,
            )  # fmt: skip
        except BlockAborted as aborted:
            outcome[pair_end] = aborted

    threads = [threading.Thread(target=run, args=(pair_end,)) for pair_end in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def test_progress_names_every_stage(plan: FourPhasePlan) -> None:
    sides, seen = honest_sides(plan, 7), []
    ends = dict(zip(("first", "second"), memory_channel_pair(), strict=True))
    rng = np.random.default_rng(1)
    in_two_threads(
        sides,
        ends,
        {"first": rng.bytes, "second": np.random.default_rng(2).bytes},
        progress=lambda stage, part: seen.append((stage, part)),
    )
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == [
        *(
            "settlement",
            "sifting",
            "reconciliation",
            "verification",
            "authentication",
            "amplification",
            "done",
        )
    ]
    assert all(0.0 <= part <= 1.0 for _, part in seen)


def test_too_small_a_block_ends_without_key_and_without_error() -> None:
    plan = block_plan(6, 6, n_pulses=10**6, visibility=0.99, dark_count=1e-7, p_x=0.75, mu_a=0.01, mu_b=0.01)
    sides = honest_sides(plan, 1)
    rehearse(sides)
    for side in sides.values():
        assert side.result.key is None
        assert side.result.secret_bits == 0
        assert side.result.no_key_reason
        assert side.result.leak_bits == 0
        assert side.auth.outgoing_head == 0
        assert not side.clicks.symbol.any()


def test_a_block_too_dear_to_reconcile_ends_without_key(plan: FourPhasePlan) -> None:
    """Length above 0 before the parities, 0 after them: ends after reconciliation and spends no one-time key."""
    sides = honest_sides(plan, 1, qber=0.045)
    for side in sides.values():
        clean = replace(plan.finite, m_y=0.005 * plan.finite.n_y)
        side.plan = replace(plan, finite=clean, visibility_uncertainty=0.1)
    a, b = sides["first"].clicks, sides["second"].clicks
    repair = (a.symbol > 1) & (
        b.symbol > 1
    )  # Y stays clean, so that the bound leaves something before the leak
    b.symbol[repair] = 2 + ((a.symbol ^ (a.outcome == 2))[repair] & 1)
    rehearse(sides)
    for side in sides.values():
        assert side.result.key is None
        assert side.result.leak_bits > 1
        assert "leak" in side.result.no_key_reason
        assert side.auth.outgoing_head == 0


def test_error_rate_above_the_limit_aborts(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1, qber=0.08)
    rehearse(sides)
    for reason in reasons(sides):
        assert "in Y is above the limit" in reason


@pytest.mark.parametrize(("rate", "words"), [(0.055, "in X is above the limit"), (0.10, "would disclose")])
def test_errors_in_x_alone_are_found_by_reconciliation(plan: FourPhasePlan, rate: float, words: str) -> None:
    plan = replace(plan, finite=replace(plan.finite, m_y=0.0))
    sides = honest_sides(plan, 1, qber=0.0)
    for side in sides.values():
        side.plan = plan
    symbols = sides["second"].clicks.symbol
    wrong = (np.random.default_rng(1).random(symbols.size) < rate) & (symbols < 2)
    symbols[wrong] ^= 1
    rehearse(sides)
    first, second = reasons(sides)
    assert words in first
    assert words in second


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"session": (2, 1)}, "epoch"),
        ({"session": (1, 2)}, "lease_number"),
        ({"block": 1}, "block"),
        ({"pair": ("alice", "carol")}, "second"),
        ({"pair": ("bob", "alice")}, "first"),
    ],
)
def test_users_in_different_sessions_abort(plan: FourPhasePlan, change: dict[str, object], word: str) -> None:
    sides = honest_sides(plan, 1)
    for name, value in change.items():
        setattr(sides["second"], name, value)
    rehearse(sides)
    assert f"'{word}'" in reasons(sides)[0]


def test_users_with_different_plans_abort(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)
    sides["second"].plan = replace(plan, eps_sec=2e-3)
    rehearse(sides)
    assert "'plan'" in reasons(sides)[0]


@pytest.mark.parametrize("fault", ["own pulse count", "slot twice"])
def test_bases_stay_hidden_when_the_announcement_is_unsound(plan: FourPhasePlan, fault: str) -> None:
    sides, (first, second) = honest_sides(plan, 1), wires()
    clicks = sides["first"].clicks
    if fault == "own pulse count":
        clicks.n_pulses -= 1
    else:
        clicks.slot[5], clicks.frame[5] = clicks.slot[4], clicks.frame[4]
    rehearse(sides, channels=(first, second))
    reasons(sides)
    assert [type(message) for message in first.sent] == [m.Aborted]


def test_a_relay_that_deletes_clicks_is_noticed(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)
    for side in sides.values():
        c = side.clicks
        half = c.outcome.size // 2
        c.frame, c.slot, c.outcome, c.symbol = (
            c.frame[:half],
            c.slot[:half],
            c.outcome[:half],
            c.symbol[:half],
        )
    rehearse(sides)
    assert "do not fit the calibrated channel" in reasons(sides)[0]


def corrupt_after_cascade(monkeypatch: pytest.MonkeyPatch, bit: int) -> None:
    honest = CascadeCorrector.corrected

    def wrong(self: CascadeCorrector) -> np.ndarray:
        packed = honest(self)
        packed[bit // 8] ^= 1 << bit % 8
        return packed

    monkeypatch.setattr(CascadeCorrector, "corrected", wrong)


@pytest.mark.parametrize("bit", [0, 7777])
def test_one_wrong_bit_after_reconciliation_destroys_the_block(
    plan: FourPhasePlan, monkeypatch: pytest.MonkeyPatch, bit: int
) -> None:
    corrupt_after_cascade(monkeypatch, bit)
    sides = honest_sides(plan, 1)
    rehearse(sides)
    for reason in reasons(sides):
        assert "verification failed" in reason


def test_a_forged_verdict_does_not_save_a_wrong_block(
    plan: FourPhasePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt_after_cascade(monkeypatch, 100)
    sides = honest_sides(plan, 1)
    rehearse(
        sides,
        channels=wires(lambda message: m.Verdict(equal=True) if isinstance(message, m.Verdict) else message),
    )
    assert "verification failed" in reasons(sides)[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parity_bits": 5}, "the peer counts 5 parity bits"),
        ({"corrected_bits": 10**9}, "corrections in"),
        ({"corrected_bits": 10**4}, "in X is above the limit"),
    ],
)
def test_a_false_report_of_reconciliation_aborts(
    plan: FourPhasePlan, change: dict[str, int], words: str
) -> None:
    sides = honest_sides(plan, 1)

    def lie(message: m.BlockMessage) -> m.BlockMessage:
        return msgspec.structs.replace(message, **change) if isinstance(message, m.Reconciled) else message

    rehearse(sides, channels=wires(lie))
    assert words in reasons(sides)[0]


def test_a_key_length_that_differs_aborts(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)

    def longer(message: m.BlockMessage) -> m.BlockMessage:
        if isinstance(message, m.AmplificationSeed):
            return msgspec.structs.replace(message, key_bits=message.key_bits + 1)
        return message

    rehearse(sides, channels=wires(longer))
    assert "the peer computes" in reasons(sides)[1]


def test_no_clicks_at_all_abort(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)
    for side in sides.values():
        c = side.clicks
        c.frame, c.slot, c.outcome, c.symbol = c.frame[:0], c.slot[:0], c.outcome[:0], c.symbol[:0]
    rehearse(sides)
    assert "0 announced clicks do not fit" in reasons(sides)[0]


def test_a_silent_peer_is_waited_for_only_so_long(plan: FourPhasePlan) -> None:
    side = honest_sides(plan, 1)["first"]
    outcome = alone(side, memory_channel_pair()[0], timeout_s=0.01)
    assert "no message within 0.01 s" in outcome.reason
    assert not side.clicks.symbol.any()


def test_a_closed_channel_ends_the_block(plan: FourPhasePlan) -> None:
    ours, theirs = memory_channel_pair()
    theirs.close()
    assert "closed the channel" in alone(honest_sides(plan, 1)["second"], ours, pair_end="second").reason


def alone(
    side: Side, channel: Channel, *, pair_end: PairEnd = "first", timeout_s: float = 5.0, **options: object
) -> BlockAborted:
    """Run one side against whatever is on the channel."""
    with pytest.raises(BlockAborted) as caught:
        run_block(
            pair_end=pair_end, channel=channel, clicks=side.clicks, plan=side.plan, session=side.session,
            announcement_transcript=side.announcements, pair=side.pair, auth=side.auth,
            timeout_s=timeout_s, **options,
        )  # fmt: skip
    return caught.value


def test_a_peer_that_dawdles_is_given_up_in_the_end(plan: FourPhasePlan) -> None:
    """Each answer within its time-out, the block as a whole not: a clock that jumps while the channel is read."""
    now = [0.0]
    ours, theirs = memory_channel_pair()

    class Slow:
        def send(self, payload: bytes) -> None:
            ours.send(payload)
            theirs.send(encode(reflected(decode(payload, m.BlockMessage))))

        def recv(self, timeout_s: float) -> bytes:
            now[0] += PATIENCE * 5.0
            return ours.recv(timeout_s)

    sides = honest_sides(plan, 1)

    def reflected(message: m.BlockMessage) -> m.BlockMessage:
        """The peer says our own words: same session, same record, same bases."""
        if not isinstance(message, m.Opening):
            return message
        text = OpeningText(BlockId("alice", "bob", 1, 1), message.plan, message.digests)
        return msgspec.structs.replace(message, mac=sides["second"].auth.mac(text.said_by("second")))

    outcome = alone(sides["first"], Slow(), clock=lambda: now[0])
    assert "longer than 250 s" in outcome.reason


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x81" * 5000, bytes(100), encode(m.Accepted())])
def test_garbage_and_messages_out_of_turn_abort(plan: FourPhasePlan, garbage: bytes) -> None:
    ours, theirs = memory_channel_pair()
    theirs.send(garbage)
    alone(honest_sides(plan, 1)["first"], ours)


def test_peers_words_are_made_harmless(plan: FourPhasePlan) -> None:
    ours, theirs = memory_channel_pair()
    theirs.send(encode(m.Aborted(reason="\x1b[31mred\nline two")))
    assert alone(honest_sides(plan, 1)["first"], ours).reason == "the peer gave up: ?[31mred?line two"


def test_empty_authentication_lanes_abort(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)
    sides["first"].auth = MemoryAuthKeys(SecretBits.from_bytes(bytes(40)), SecretBits.from_bytes(bytes(40)))
    sides["second"].auth = MemoryAuthKeys(SecretBits.from_bytes(bytes(40)), SecretBits.from_bytes(bytes(40)))
    rehearse(sides)
    assert "short of" in reasons(sides)[0]
    assert isinstance(sides["first"].outcome.__cause__, LaneShortError)


def test_lanes_that_do_not_match_abort(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)
    macs = sides["second"].auth._macs
    sides["second"].auth = MemoryAuthKeys(
        SecretBits.from_bytes(bytes(1024)), SecretBits.from_bytes(bytes(1024))
    )
    sides["second"].auth._macs = macs
    rehearse(sides)
    assert "verification failed" in reasons(sides)[1]


def test_a_wrong_tag_spends_nothing_of_the_lane(plan: FourPhasePlan) -> None:
    """An offset from an unchecked message must not burn the lane."""
    sides = honest_sides(plan, 1)
    rehearse(
        sides,
        channels=wires(
            lambda message: (
                m.TranscriptTag(key_offset=message.key_offset + 4096, tag=message.tag)
                if isinstance(message, m.TranscriptTag)
                else message
            )
        ),
    )
    reasons(sides)
    assert sides["first"].auth.incoming_head == 0
    assert sides["second"].auth.incoming_head == 256  # the verification tag was right


def test_results_show_no_bits(plan: FourPhasePlan) -> None:
    sides = honest_sides(plan, 1)
    rehearse(sides)
    assert "<SecretBits:" in repr(sides["first"].outcome)
