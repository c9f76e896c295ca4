"""One composition of a run's settings: normalised, as wide a ring as it takes, refused by the name that was typed."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.carriers.flower.strategy import SecureRun
from fl.rounds.aggregation import aggregation_for
from fl.rounds.config import ConfigError, FLConfig, check_config
from fl.rounds.quantise import RingWidthError, smallest_ring_width
from fl.workloads.base import TaskDefaults
from orchestrator.wire.codec import decode, encode

USERS = ("alice", "bob", "carol")
CROWD = tuple(f"u{index}" for index in range(60))


class Sketch:
    """What settings need to know of a task."""

    name = "sketch"
    fingerprint = "c0de"
    defaults = TaskDefaults(
        clip=1.0, levels=127, rounds=7, for_crowds=TaskDefaults(0.5, 5, 7, keep=0.3, clip_decay=0.9)
    )


def composed(users: tuple[str, ...] = USERS, **chosen: Any) -> FLConfig:
    return FLConfig.for_task(Sketch(), users, run_id="run", **chosen)


def digest(config: FLConfig) -> bytes:
    """What nodes compare before they release a pad."""
    return aggregation_for(config, 100).context(1, config.clients).digest()


WHOLE = [
    {"clip": 0.5},
    {"clip": 1},
    {"wait_timeout_s": 60},
    {"keep": 1},
    {"clip_decay": 1},
    {"clip": np.float32(1), "levels": np.int64(127), "seed": np.uint8(3)},
    {"keep": np.float64(1), "colluders": np.int32(0)},
]


@pytest.mark.parametrize("chosen", WHOLE)
def test_whole_numbers_and_numpys_numbers_are_the_settings_that_arrive(chosen: dict[str, Any]) -> None:
    for config in (
        composed(**chosen),
        SecureRun(**chosen).config("run", USERS),
        msgspec.structs.replace(composed(), **chosen),
    ):
        arrived = decode(encode(config), FLConfig)
        assert arrived == config
        assert encode(arrived) == encode(config)
        assert digest(arrived) == digest(config)
        as_json = msgspec.json.encode(config)
        assert encode(msgspec.json.decode(as_json, type=FLConfig)) == encode(config)


@given(
    clip=st.one_of(st.integers(1, 9), st.floats(0.01, 9), st.floats(2**-6, 9, width=32).map(np.float32)),
    weights=st.lists(st.one_of(st.integers(1, 9), st.integers(1, 9).map(np.int16)), min_size=3, max_size=3),
    grace=st.sampled_from([0, 0.0, -0.0, np.float64(-0.0), 15]),
    seed=st.one_of(st.integers(0, 255), st.integers(0, 255).map(np.uint8)),
)
@settings(max_examples=60, deadline=None)
def test_however_a_setting_is_written_it_has_one_hash(clip: Any, weights: Any, grace: Any, seed: Any) -> None:
    def hashed(config: FLConfig) -> str:
        return hashlib.sha256(encode(config)).hexdigest()

    config = FLConfig("r", "t", USERS, clip=clip, weights=weights, rejoin_grace_s=grace, seed=seed)
    plain = FLConfig(
        "r",
        "t",
        list(USERS),  # type: ignore[arg-type]
        clip=float(clip),
        weights=tuple(int(each) for each in weights),
        rejoin_grace_s=abs(float(grace)),
        seed=int(seed),
    )
    assert hashed(config) == hashed(plain) == hashed(decode(encode(config), FLConfig))


def test_equal_weights_of_one_are_the_same_as_none() -> None:
    assert encode(composed(weights=(1, 1, 1))) == encode(composed())
    assert composed(weights=[1, 1, 1]).client_weights == (1, 1, 1)
    assert composed(weights=(2, 2, 2)).client_weights == (2, 2, 2)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"clip": True}, "clip is True: it must be a number"),
        ({"clip": "wide"}, "clip is 'wide': it must be a number"),
        ({"clip": None, "levels": 3.5}, "levels is 3.5: it must be a whole number"),
        ({"levels": np.float64(3)}, "levels is 3.0: it must be a whole number"),
        ({"weights": (1, True, 1)}, "weights of bob is True: it must be a whole number"),
        ({"weights": (1, 0, 1)}, "weights of bob is 0: it must be at least 1 and at most 1,048,576"),
        ({"weights": (1, 1, 1 << 40)}, "weights of carol is 1099511627776: it must be at least 1"),
        ({"weights": 3}, "weights is 3: it must be a list"),
        ({"error_feedback": 1}, "error_feedback is 1: it must be true or false"),
        ({"clip": 10**400}, "clip is a number too large"),
        ({"seed": 1 << 62}, "seed is 4611686018427387904: it must be at least 0"),
        ({"seed": 10**30}, "seed is 1000000000000000000000000000000: it must be at least 0"),
        ({"mode": "open"}, "mode is 'open': it must be one of expanded, lightsecagg, otp, plain"),
        ({"clipping": 3}, "there is no setting 'clipping'"),
        ({"clip_decay": 1e-300}, "clip_decay is 1e-300: .*the clip 1 of round 1 shrinks to .* in round 2"),
        ({"clip": 1e-40}, "clip is 1e-40: it must be a number from 1e-30 to 1e\\+30"),
        ({"clip": float("inf")}, "clip is inf: it must be a finite number"),
    ],
)
def test_what_cannot_be_a_setting_is_refused_by_its_name(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        composed(**chosen)


def test_a_refusal_speaks_the_words_of_whoever_typed_the_setting() -> None:
    def option(name: str) -> str:
        return f"--{name.replace('_', '-')}"

    with pytest.raises(ConfigError, match="--clip-decay is 1e-300"):
        composed(clip_decay=1e-300, named=option)
    with pytest.raises(ConfigError, match="--min-clients = 1"):
        composed(min_clients=1, named=option)
    with pytest.raises(
        RingWidthError, match=r"--ring-width 8 .*use b = 10 for L = 127, or L = 42 fits b = 8"
    ):
        composed(ring_width=8, named=option)


def test_a_user_whose_name_cannot_be_one_is_named() -> None:
    with pytest.raises(ConfigError, match=r"clients: number 2 is 'Bob Q': .*a-z0-9"):
        composed(("alice", "Bob Q"))
    with pytest.raises(ConfigError, match="clients are 0"):
        composed(())
    with pytest.raises(ConfigError, match="clients are 1001"):
        composed(tuple(f"u{index}" for index in range(1001)))


@pytest.mark.parametrize(
    ("n", "bits"), [(2, 9), (3, 10), (4, 10), (5, 11), (8, 11), (10, 12), (50, 14), (200, 16)]
)
def test_the_ring_is_as_wide_as_the_users_need(n: int, bits: int) -> None:
    """The widths for L = 127 are those of docs/formulas.md (and the rule between its rows)."""
    users = tuple(f"u{index}" for index in range(n))
    assert composed(users, levels=127).ring_width == bits
    assert FLConfig("r", "t", users).ring_width == bits
    assert composed(users, levels=127, mode="plain").ring_width == bits


def test_the_ring_follows_weights_and_levels_and_may_be_wider_but_not_narrower() -> None:
    assert composed(weights=(1, 2, 5), levels=127).ring_width == smallest_ring_width(127, 8)
    assert composed(levels=1).ring_width == 3
    assert composed(ring_width=20).ring_width == 20
    with pytest.raises(RingWidthError, match="use b = 10"):
        composed(ring_width=9)
    with pytest.raises(ValueError, match=r"at most 32 bits.*fewer levels or smaller weights"):
        composed(levels=1 << 31, weights=(1, 1, 2))
    changed = msgspec.structs.replace(composed(), clients=CROWD)
    with pytest.raises(RingWidthError):
        check_config(changed)
    check_config(msgspec.structs.replace(changed, ring_width=0))


def test_shares_have_a_field_and_no_ring() -> None:
    with pytest.raises(ConfigError, match="ring_width belongs to"):
        composed(mode="lightsecagg", ring_width=12)
    assert composed(mode="lightsecagg") == composed(mode="lightsecagg", ring_width=0)


def test_what_is_chosen_wins_over_what_suits_the_experiment_and_that_over_the_task() -> None:
    crowd = composed(CROWD)
    assert (crowd.levels, crowd.clip, crowd.keep, crowd.clip_decay, crowd.rounds) == (5, 0.5, 0.3, 0.9, 7)
    assert (composed().levels, composed().keep, composed().task_fingerprint) == (127, 1.0, "c0de")
    suited = composed(CROWD, suited={"levels": 9, "rounds": 3}, levels=None, rounds=2)
    assert (suited.levels, suited.rounds, suited.clip) == (9, 2, 0.5)
    assert composed(CROWD, levels=3).ring_width == smallest_ring_width(3, 60)
    assert composed(name="sketch:large@iid").task == "sketch:large@iid"
