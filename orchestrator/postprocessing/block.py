"""One block between its two users: from announced clicks to a secret key that both hold.

Steps, whatever the protocol that planned the block, and their messages (:mod:`orchestrator.postprocessing.messages`)::

    both       check the announcements and the own pulse count             before anything is revealed
    both       Opening: session, plan, digests of the announcements, MAC   settles which frames are lost
    both       Labels: of the clicks in all other frames
    first  ->  Drawn: labels drawn privately and only at this point; test bits; Cascade seeds
    second ->  TestBits: test bits, bits told of discarded rounds          counts and error rate fit, or give up
    second ->  ParityRequest, first -> ParityReply, ..., second -> Reconciled
    first  ->  VerificationTag, second -> Verdict                          a mismatch discards the whole block
    first  ->  AmplificationSeed                                           fresh, after all disclosures
    both       TranscriptTag over all of the above and the relay's announcements
    both       Accepted, then amplify

Nothing before the tags is authenticated for good, the MAC of an opening being computational, so nothing before the
tags yields key: a meddler can learn at most what the leak counter counts, and every difference between the two transcripts is found by the tags.  Whatever does not
fit raises :class:`BlockAborted` on the side that sees it, tells the peer, and destroys the bits and symbols held.

The last message of any protocol may be lost: one side can have returned its key while the other never saw Accepted
and gave up.  Hence a key returned by :func:`run_block` is *provisional*: it is deposited as pending and used only
after the key store's own authenticated confirmation by the peer, which a side that gave up never sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from orchestrator import runtime
from orchestrator.bits import PackedBits, pack
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.lanes import PairEnd
from orchestrator.light.clicks import D2_ONLY, BlockClicks
from orchestrator.light.messages import LOST, block_digest, frame_digest
from orchestrator.one_time_tags import TAG_KEY_BITS
from orchestrator.postprocessing import messages as m
from orchestrator.postprocessing import verification
from orchestrator.postprocessing.amplification import amplify, draw_seed, seed_bytes
from orchestrator.postprocessing.authentication import AuthKeys, BlockId, Transcript
from orchestrator.postprocessing.cascade import (
    MIN_BITS,
    SEED_BYTES,
    CascadeCorrector,
    CascadeError,
    CascadeReference,
    n_frames,
)
from orchestrator.postprocessing.conversation import BlockAborted, Conversation
from orchestrator.postprocessing.lost_frames import OpeningText, frame_digests, settle
from orchestrator.postprocessing.sifting import (
    OwnRounds,
    SiftedBits,
    SiftingError,
    check_clicks,
    unpack_exactly,
)
from orchestrator.protocols.base import BlockCounts, BlockPlan, KeyLength, binary_entropy
from orchestrator.protocols.epsilons import forgery_bound, undetected_error_bound
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.codec import WireError

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the estimated part of it that is done, 0 to 1."""

OnTold = Callable[[npt.NDArray[np.int64]], None]
"""Gets clicks of D1 and D2 by the symbols of first and second, of rounds that make no key; int64 of shape (2, n, n)."""

_HINT_ROUNDS = 200.0
"""Weight, in rounds, of the planned error rate against the test errors when the first block size is chosen."""


@dataclass(frozen=True, slots=True)
class BlockEpsilons:
    """What a finished block adds to the epsilons of its pair.

    ``sec`` as planned; ``cor``, what the verification really bounds (at most the plan's eps_cor), with that many
    ``tags``; ``auth``, that the transcript's tag of either direction was forged, for the bytes it covered.
    """

    sec: float
    cor: float
    auth: float
    tags: int


@dataclass(frozen=True, slots=True)
class BlockResult:
    """A finished block; ``key`` is None where the length is 0, and ``no_key_reason`` says why.

    ``qber`` is the error rate of the key rounds, exact where the block was reconciled and of the test rounds otherwise; ``f_ec`` is
    parity bits over ``n_key h(qber)``; ``leak_bits`` counts every parity bit and one per verification tag.
    ``epsilons`` belongs to ``key``.  ``frames_lost`` were settled to be lost, and ``agreed`` is the
    :func:`~orchestrator.light.messages.block_digest` of the announcements after that.  ``predicted_bits``: what the plan
    makes of the arrivals counted, error rates left out.
    """

    key: SecretBits | None
    n_key: int
    n_test: int
    test_errors: int
    qber: float
    f_ec: float
    leak_bits: int
    rounds: int
    secret_bits: int
    phase_error_upper: float
    predicted_bits: int
    counts: BlockCounts
    no_key_reason: str = ""
    epsilons: BlockEpsilons | None = None
    frames_lost: tuple[int, ...] = ()
    agreed: str = ""

    @property
    def lost_frames(self) -> int:
        """How many."""
        return len(self.frames_lost)


@dataclass(slots=True)
class _Reconciled:
    """The reference's bits as this user holds them, and what it took to get them."""

    bits: PackedBits = field(repr=False)
    parity_bits: int
    corrected_bits: int
    rounds: int

    def wipe(self) -> None:
        self.bits[:] = 0


_Wipeable = BlockClicks | OwnRounds | SiftedBits | CascadeReference | CascadeCorrector | _Reconciled


@dataclass(slots=True)
class _Block:
    """One user's view of the block while it runs; ``secrets`` is what must not outlive it."""

    talk: Conversation
    identity: BlockId
    plan: BlockPlan
    auth: AuthKeys
    random_bytes: Callable[[int], bytes]
    progress: Progress
    on_told: OnTold
    secrets: list[_Wipeable] = field(default_factory=list)
    frames_lost: tuple[int, ...] = ()
    lost_pulses: int = 0

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        self.talk.stage = stage
        self.progress(stage, 0.0)


def run_block(
    *,
    pair_end: PairEnd,
    channel: Channel,
    clicks: BlockClicks,
    announcement_transcript: list[bytes],
    plan: BlockPlan,
    session: tuple[int, int],
    pair: tuple[str, str],
    auth: AuthKeys,
    random_bytes: RandomBytes = random_bytes,
    timeout_s: float = 30.0,
    progress: Progress | None = None,
    block: int = 0,
    clock: Callable[[], float] = runtime.now,
    on_told: OnTold = lambda clicks: None,
) -> BlockResult:
    """Turn one announced block into key together with the peer, who runs the same from the other end of the pair.

    ``session`` is the lease's (epoch, number), ``pair`` the names of (first, second), ``block`` numbers the blocks of
    one lease.  ``announcement_transcript`` holds the relay's announcements as received, one per frame of the block, LOST
    in the place of a frame that this user lost.  The symbols in ``clicks`` are overwritten before the call returns or
    raises.  ``timeout_s`` bounds each wait for the peer, 50 times as much the whole block.  The key returned is
    provisional (see the module).  ``on_told``, at the first user, gets what is counted of the rounds whose symbols are told,
    before anything is authenticated and whatever becomes of the block.

    Raises BlockAborted, and nothing else, for whatever the peer, the relay or the channel do.
    """
    identity = BlockId(pair[0], pair[1], session[0], session[1], block)
    talk = Conversation(pair_end, channel, Transcript(identity), timeout_s, clock)
    state = _Block(talk, identity, plan, auth, random_bytes, progress or _silent, on_told, secrets=[clicks])
    try:
        _settle(state, clicks, announcement_transcript)
        return _make_key(state, clicks, _sift(state, clicks))
    except BlockAborted as error:
        talk.tell_peer(error.reason)
        raise
    except (WireError, ChannelError, KeyStoreError, CascadeError, SiftingError) as error:
        talk.tell_peer(str(error))
        raise BlockAborted(str(error), talk.stage) from error
    finally:
        for secret in state.secrets:
            secret.wipe()


def _settle(state: _Block, clicks: BlockClicks, announcements: list[bytes]) -> None:
    """Check what the relay said, agree on the frames that are lost, and forget their symbols."""
    state.enter("settlement")
    talk, plan = state.talk, state.plan
    if clicks.n_pulses != plan.n_pulses:
        talk.abort(f"{clicks.n_pulses} pulses were emitted, the plan says {plan.n_pulses}")
    check_clicks(clicks, plan.symbols)
    opening = OpeningText(state.identity, bytes.fromhex(plan.digest()), frame_digests(announcements))
    lost = settle(talk, state.auth, opening)
    if len(lost) > plan.lost_frames_limit * len(announcements):
        talk.abort(f"{len(lost)} of {len(announcements)} frames are lost, more than the plan allows")
    if lost:
        clicks.drop(lost)
        state.lost_pulses = round(clicks.n_pulses * len(lost) / len(announcements))
    state.frames_lost = tuple(sorted(lost))
    talk.transcript.announcements = tuple(
        LOST if frame in lost else each for frame, each in enumerate(announcements)
    )


def _sift(state: _Block, clicks: BlockClicks) -> SiftedBits:
    """Exchange labels, keep the rounds that the protocol keeps."""
    state.enter("sifting")
    talk = state.talk
    own = OwnRounds.of(clicks, talk.pair_end, state.plan.symbols)
    state.secrets.append(own)
    talk.send(m.Labels(labels=own.published()))
    sifted = own.sift(talk.receive(m.Labels).labels)
    state.secrets.append(sifted)
    return sifted


def _make_key(state: _Block, clicks: BlockClicks, sifted: SiftedBits) -> BlockResult:
    """Everything after the labels."""
    counts, seeds = _disclose_tests(state, clicks, sifted)
    length = _length(state, counts)
    if not length.bits or sifted.n_key < MIN_BITS:
        return _without_key(state, counts, length)
    state.enter("reconciliation")
    hint = _qber_hint(state.plan, counts)
    done = (_reconcile_first if state.talk.pair_end == "first" else _reconcile_second)(
        state, sifted, hint, seeds
    )
    state.secrets.append(done)
    tags = state.plan.verification_tags(sifted.n_key)
    counts = replace(
        counts, leak_bits=done.parity_bits + tags * verification.LEAK_BITS, key_errors=done.corrected_bits
    )
    length = _length(state, counts)
    if not length.bits:
        return _without_key(state, counts, length, done.rounds)
    state.enter("verification")
    _verify(state, done.bits, sifted.n_key, tags)
    state.enter("authentication")
    seed = _agree_on_seed(state, sifted.n_key, length.bits)
    eps_auth = _authenticate(state)
    state.enter("amplification")
    key = amplify(done.bits, sifted.n_key, length.bits, seed)
    state.progress("done", 1.0)
    epsilons = BlockEpsilons(state.plan.eps_sec, undetected_error_bound(sifted.n_key, tags), eps_auth, tags)
    return _result(state, counts, length, done.rounds, key, epsilons=epsilons)


def _disclose_tests(state: _Block, clicks: BlockClicks, sifted: SiftedBits) -> tuple[BlockCounts, bytes]:
    """Drawn labels, test bits and Cascade seeds; the counts of the block (nothing leaked yet) and the seeds."""
    talk, n_key = state.talk, sifted.n_key
    test_bits = pack(sifted.test).tobytes()
    if talk.pair_end == "first":
        drawn = state.plan.draw_labels(n_key, state.random_bytes)
        seeds = state.random_bytes(SEED_BYTES * n_frames(n_key))
        talk.send(m.Drawn(labels=pack(drawn).tobytes(), test_bits=test_bits, seeds=seeds))
        answer = talk.receive(m.TestBits)
        their_test = answer.test_bits
        state.on_told(sifted.told.clicks(answer.told_bits))
    else:
        theirs = talk.receive(m.Drawn)
        drawn = unpack_exactly(theirs.labels, n_key, "drawn labels")
        seeds, their_test = theirs.seeds, theirs.test_bits
        talk.send(m.TestBits(test_bits=test_bits, told_bits=pack(sifted.told.bits).tobytes()))
    wrong = sifted.test_errors(their_test)
    in_d2 = int(np.count_nonzero(clicks.outcome == D2_ONLY))
    counts = BlockCounts(
        n_pulses=clicks.n_pulses,
        n_announced=clicks.n_single,
        n_key=n_key,
        n_test=sifted.n_test,
        n_drawn=int(drawn.sum()),
        test_errors=sum(wrong),
        leak_bits=0,
        by_labels=sifted.by_labels,
        lost_pulses=state.lost_pulses,
        by_detector=(clicks.n_single - in_d2, in_d2),
        test_errors_by_detector=wrong,
    )
    return counts, seeds


def _length(state: _Block, counts: BlockCounts) -> KeyLength:
    """Length of the key of these counts; aborts where they do not fit the plan."""
    broken = state.plan.violations(counts)
    if broken:
        steps = dict.fromkeys(step for each in broken for step in each.steps)
        state.talk.abort("; ".join(map(str, broken)), tuple(steps))
    return state.plan.secret_length(counts)


def _qber_hint(plan: BlockPlan, counts: BlockCounts) -> float:
    """Error rate that sets the block sizes of Cascade: test errors, steadied by the plan; equal at both users."""
    return (counts.test_errors + _HINT_ROUNDS * plan.qber) / (counts.n_test + _HINT_ROUNDS)


def _reconcile_first(state: _Block, sifted: SiftedBits, hint: float, seeds: bytes) -> _Reconciled:
    """Answer parities until the peer is done; its counts must be ours."""
    talk = state.talk
    side = CascadeReference(sifted.key, sifted.n_key, hint, seeds, state.plan.leak_limit_bits(sifted.n_key))
    state.secrets.append(side)
    expected = _expected_parities(sifted.n_key, hint)
    while True:
        message = talk.receive_either(m.ParityRequest, m.Reconciled)
        if isinstance(message, m.Reconciled):
            break
        talk.send(side.answer(message))
        state.progress(talk.stage, min(side.parity_bits / expected, 1.0))
    if message.parity_bits != side.parity_bits:
        talk.abort(f"the peer counts {message.parity_bits} parity bits, {side.parity_bits} were sent")
    if message.corrected_bits > sifted.n_key:
        talk.abort(f"the peer claims {message.corrected_bits} corrections in {sifted.n_key} bits")
    return _Reconciled(sifted.key, side.parity_bits, message.corrected_bits, side.rounds)


def _reconcile_second(state: _Block, sifted: SiftedBits, hint: float, seeds: bytes) -> _Reconciled:
    """Ask for parities until every frame is through."""
    talk = state.talk
    side = CascadeCorrector(sifted.key, sifted.n_key, hint, seeds)
    state.secrets.append(side)
    expected = _expected_parities(sifted.n_key, hint)
    request = side.next_request(None)
    while request is not None:
        talk.send(request)
        request = side.next_request(talk.receive(m.ParityReply))
        state.progress(talk.stage, min(side.parity_bits / expected, 1.0))
    talk.send(m.Reconciled(parity_bits=side.parity_bits, corrected_bits=side.corrected_bits))
    return _Reconciled(side.corrected(), side.parity_bits, side.corrected_bits, side.rounds)


def _expected_parities(n_bits: int, qber: float) -> float:
    """For showing progress only."""
    return max(1.06 * n_bits * binary_entropy(qber), 1.0)


def _verify(state: _Block, bits: PackedBits, n_bits: int, tags: int) -> None:
    """Abort unless both users hold the same bits."""
    talk, key_bits = state.talk, tags * TAG_KEY_BITS
    if talk.pair_end == "first":
        offset, key = state.auth.take_outgoing(key_bits)
        talk.send(m.VerificationTag(key_offset=offset, tag=verification.block_tag(key, bits, n_bits)))
        key.wipe()
        equal = talk.receive(m.Verdict).equal
    else:
        message = talk.receive(m.VerificationTag)
        forgery = undetected_error_bound(n_bits, tags)
        equal = _tag_fits(
            state, message, lambda key: verification.block_tag(key, bits, n_bits), key_bits, forgery
        )
        talk.send(m.Verdict(equal=equal))
    if not equal:
        talk.abort("verification failed: the two users' bits differ after reconciliation")


def _tag_fits(
    state: _Block,
    message: m.VerificationTag | m.TranscriptTag,
    own_tag: Callable[[SecretBits], bytes],
    n_bits: int,
    forgery: float,
) -> bool:
    """Whether the peer's tag is ours; only a right tag's key is spent, so that a forged offset burns nothing.

    ``n_bits``: length of its one-time keys; ``forgery``: with which probability a wrong one would have passed.
    """
    offset = message.key_offset
    key = state.auth.peek_incoming(offset, n_bits)
    fits = verification.tags_equal(message.tag, own_tag(key))
    key.wipe()
    if fits:
        state.auth.take_incoming(offset, n_bits, forgery).wipe()
    else:
        state.auth.wrong_tag(forgery)
    return fits


def _agree_on_seed(state: _Block, n_bits: int, key_bits: int) -> bytes:
    """The first user's fresh seed of the hash, for the length both computed."""
    talk = state.talk
    if talk.pair_end == "first":
        seed = draw_seed(n_bits, key_bits, state.random_bytes)
        talk.send(m.AmplificationSeed(key_bits=key_bits, seed=seed))
        return seed
    message = talk.receive(m.AmplificationSeed)
    if message.key_bits != key_bits:
        talk.abort(f"the peer computes {message.key_bits} key bits, this side {key_bits}")
    if len(message.seed) != seed_bytes(n_bits, key_bits):
        talk.abort(f"a seed of {len(message.seed)} bytes cannot make {key_bits} key bits")
    return message.seed


def _authenticate(state: _Block) -> float:
    """Exchange and check the tags over the transcript, then tell each other.

    Returns the probability that either tag was forged, at most.
    """
    talk = state.talk
    talk.recording = False
    offset, key = state.auth.take_outgoing(TAG_KEY_BITS)
    talk.send(m.TranscriptTag(key_offset=offset, tag=talk.transcript.tag(key, talk.pair_end, offset)))
    key.wipe()
    theirs = talk.receive(m.TranscriptTag)
    forgery = forgery_bound(talk.transcript.n_bytes)
    if not _tag_fits(
        state,
        theirs,
        lambda key: talk.transcript.tag(key, talk.peer, theirs.key_offset),
        TAG_KEY_BITS,
        forgery,
    ):
        talk.abort("transcript tag mismatch: a message or an announcement was changed on its way")
    talk.send(m.Accepted())
    talk.receive(m.Accepted)
    return 2 * forgery


def _without_key(state: _Block, counts: BlockCounts, length: KeyLength, rounds: int = 0) -> BlockResult:
    """End a sound block that is too small, on both sides alike."""
    reason = length.reason or f"{counts.n_key} key rounds are too few to reconcile"
    state.talk.send(m.NoKey(reason=reason[: m.REASON_LIMIT]))
    state.talk.receive(m.NoKey)
    return _result(state, counts, replace(length, bits=0), rounds, None, reason)


def _result(
    state: _Block,
    counts: BlockCounts,
    length: KeyLength,
    rounds: int,
    key: SecretBits | None,
    reason: str = "",
    epsilons: BlockEpsilons | None = None,
) -> BlockResult:
    errors, n = (
        (counts.test_errors, counts.n_test)
        if counts.key_errors is None
        else (counts.key_errors, counts.n_key)
    )
    qber = errors / n if n else 0.5
    entropy = counts.n_key * binary_entropy(qber)
    return BlockResult(
        key=key,
        n_key=counts.n_key,
        n_test=counts.n_test,
        test_errors=counts.test_errors,
        qber=qber,
        f_ec=(counts.leak_bits - (epsilons.tags if epsilons else 1) * verification.LEAK_BITS) / entropy
        if rounds and entropy
        else 0.0,
        leak_bits=counts.leak_bits,
        rounds=rounds,
        secret_bits=length.bits,
        phase_error_upper=length.phase_error_upper,
        predicted_bits=state.plan.predicted_bits(counts),
        no_key_reason=reason,
        counts=counts,
        epsilons=epsilons,
        frames_lost=state.frames_lost,
        agreed=block_digest(map(frame_digest, state.talk.transcript.announcements)),
    )


def _silent(_stage: str, _part: float) -> None:
    """Progress that nobody wants to see."""
