"""Clips per array: sums stay exact, each array keeps its own resolution, and buffers are left out by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.carriers.in_process.run import run_cohort
from fl.rounds.aggregation import aggregation_for
from fl.rounds.arrays import ArrayClip, array_clips
from fl.rounds.clipping import clip_warnings
from fl.rounds.compression import Compression, CompressionError, ErrorFeedback
from fl.rounds.config import ConfigError, FLConfig, check_config
from fl.rounds.quantise import quantisation_rng
from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults
from orchestrator.wire.codec import decode, encode

USERS = ("alice", "bob", "carol")
SIZES = {
    "conv.weight": 40,
    "bn.weight": 4,
    "bn.bias": 4,
    "bn.running_mean": 4,
    "bn.running_var": 4,
    "head": 24,
}


class NormTask:
    """A model whose arrays move by very different amounts, and whose buffers move by whole units."""

    name, fingerprint = "norm", "b4"
    defaults = TaskDefaults(clip=0.5, levels=63, rounds=2)
    array_sizes = SIZES
    n_parameters = sum(SIZES.values())
    scales = np.repeat([0.1, 0.1, 0.1, 20.0, 300.0, 1e-5], list(SIZES.values())).astype(np.float32)

    def initial_parameters(self, seed: int) -> Parameters:
        return np.zeros(self.n_parameters, np.float32)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        return Examples(np.zeros((1, 1), np.float32), np.array([client_index]))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        update = np.random.default_rng(list(seed)).uniform(-1, 1, self.n_parameters).astype(np.float32)
        return update * self.scales

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return Evaluation(0.5, 0.0)


def composed(**more: Any) -> FLConfig:
    return FLConfig.for_task(NormTask(), USERS, run_id="r", **more)


def clip_by_name(config: FLConfig) -> dict[str, float]:
    return {each.name: each.clip for each in config.arrays}


def test_buffers_are_left_out_by_name_and_patterns_choose_clips() -> None:
    assert clip_by_name(composed()) == {
        "conv.weight": 0.5, "bn.weight": 0.5, "bn.bias": 0.5, "bn.running_mean": 0.0, "bn.running_var": 0.0,
        "head": 0.5,
    }  # fmt: skip
    chosen = clip_by_name(composed(clips={"bn.*": 2, "head": 1e-5, "bn.running_var": 400}, clip=1))
    assert chosen == {
        "conv.weight": 1.0, "bn.weight": 2.0, "bn.bias": 2.0, "bn.running_mean": 2.0, "bn.running_var": 400.0,
        "head": 1e-5,
    }  # fmt: skip
    assert array_clips({"a": 3, "b": 2}, 1.0, {}) == ()
    assert array_clips({"a": 3, "b": 2}, 1.0, {"*": 1}) == ()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"clips": {"bm.*": 1}},
            r"clips: no array of the model is called 'bm\.\*'; there are conv.weight, bn",
        ),
        ({"clips": {"*": 0}}, "clips: every array of the model is left out"),
        ({"clips": {"head": 1e-40}}, "clip of array head is 1e-40: it must be a number from 1e-30"),
        ({"clips": {"head": 1e-29}, "clip_decay": 0.01}, "clip_decay is 0.01: with it the clip 1e-29"),
        ({"arrays": [ArrayClip("a", 1, 1.0), ArrayClip("a", 1, 1.0)]}, "array 'a' is named twice"),
        ({"arrays": [{"name": "a", "size": 0, "clip": 1}]}, "arrays: number 1 has a size that is 0"),
        ({"arrays": [{"name": "a", "size": 1.5, "clip": 1}]}, "arrays: number 1 has a size that is 1.5"),
        ({"arrays": [{"name": "a"}]}, "arrays: number 1 is .* it must be a table of name, size, clip"),
        ({"arrays": [ArrayClip("a", 80, 0.0)]}, "every array is left out"),
    ],
)
def test_clips_that_cannot_work_are_refused_by_their_place(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        composed(**more)


def test_a_task_that_names_no_arrays_has_one_clip() -> None:
    class Plain:
        name, fingerprint, defaults = "plain", "", NormTask.defaults

    assert FLConfig.for_task(Plain(), USERS, run_id="r").arrays == ()
    with pytest.raises(ConfigError, match="--clip-of: task plain does not say which arrays"):
        FLConfig.for_task(Plain(), USERS, run_id="r", clips={"head": 1}, named=lambda name: "--clip-of")


def test_clips_are_part_of_what_is_hashed_and_sent_in_one_form() -> None:
    config = composed(clips={"head": np.float32(1), "bn.weight": 2})
    written = msgspec.structs.replace(
        config, arrays=[{"name": e.name, "size": np.int64(e.size), "clip": e.clip} for e in config.arrays]
    )
    assert encode(written) == encode(config) == encode(decode(encode(config), FLConfig))
    digests = {
        aggregation_for(each, NormTask.n_parameters).context(1, USERS).digest()
        for each in (config, composed(), composed(clips={"head": 2}))
    }
    assert len(digests) == 3


def test_arrays_of_another_model_are_refused_before_memory_is_taken_for_them() -> None:
    greedy = msgspec.structs.replace(composed(), arrays=(ArrayClip("a", 1 << 40, 1.0),))
    check_config(greedy)
    with pytest.raises(
        CompressionError, match=r"the arrays of the run have 1099511627776 values, the model has 80"
    ):
        aggregation_for(greedy, 80).n_values  # noqa: B018


@given(
    clips=st.lists(st.sampled_from([0.0, 0.01, 1.0, 30.0]), min_size=6, max_size=6).filter(any),
    keep=st.sampled_from([1.0, 0.5, 0.2]),
    error_feedback=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_mean_read_from_the_sum_is_the_mean_of_what_clients_sent(
    clips: list[float], keep: float, error_feedback: bool, seed: int
) -> None:
    task = NormTask()
    arrays = tuple(ArrayClip(n, s, c) for (n, s), c in zip(SIZES.items(), clips, strict=True))
    compression = Compression(keep, 63, 1.0, 0.5, error_feedback, arrays)
    n, number = task.n_parameters, 2
    coordinates = compression.coordinates(seed, number, n)
    clip_of = np.repeat(clips, list(SIZES.values()))
    assert np.all(clip_of[coordinates] > 0)
    assert np.all(np.diff(np.sort(coordinates)) > 0)
    assert coordinates.size == compression.n_values(n)
    feedback = ErrorFeedback(compression, seed, n)
    update = task.local_train(task.initial_parameters(0), task.client_data(0, 3, 0), (seed, number, 0))
    update[clip_of == 0] = np.nan  # whatever a buffer holds, it is nobody's business
    values = feedback.compress(update, number, quantisation_rng(seed, number, 0), client="a")
    mean = compression.mean(values, 1, coordinates, number, n)
    assert np.all(mean[clip_of == 0] == 0)
    step = (clip_of * 0.5 / 63)[coordinates]
    sent = np.clip(update[coordinates], -clip_of[coordinates] * 0.5, clip_of[coordinates] * 0.5)
    if error_feedback or keep == 1.0:
        assert np.all(np.abs(mean[coordinates] - sent) <= step * 1.001)
    feedback.commit()
    assert np.all(feedback.residual[clip_of == 0] == 0)
    covered = {
        int(i) for r in range(1, compression.cycle(n) + 1) for i in compression.coordinates(seed, r, n)
    }
    assert covered == set(np.flatnonzero(clip_of).tolist())


@pytest.mark.parametrize("mode", ["otp", "lightsecagg"])
def test_a_cohort_with_clips_per_array_is_exact_and_warns_no_more(mode: str) -> None:
    task = NormTask()
    spoilt = composed(
        clips={"bn.running_*": 0.5}, mode=mode
    )  # one clip for everything, as if there were no names
    fitting = composed(clips={"head": 1e-5, "bn.running_mean": 20, "bn.running_var": 300}, mode=mode)
    assert spoilt.arrays == ()
    told = {}
    for name, config in (("spoilt", spoilt), ("fitting", fitting), ("left out", composed(mode=mode))):
        result = run_cohort(config, workers=0, task=task)  # type: ignore[arg-type]
        assert all(row.exact for row in result.rounds)
        told[name] = clip_warnings([row.clipping for row in result.rounds], config.clip, config.levels)
        moved = result.parameters.reshape(-1)
        assert (np.abs(moved[48:56]).max() == 0) == (name == "left out")
        if name == "fitting":
            assert np.abs(moved[56:]).max() > 1e-6
    assert "too small" in told["spoilt"][0]
    assert told["fitting"] == ()
    assert all("too small" not in warning for warning in told["left out"])


def test_a_run_between_machines_sums_with_clips_per_array(world: Any) -> None:
    size = world.server_task.n_parameters
    arrays = (ArrayClip("first", 30, 2.0), ArrayClip("bn.running_mean", size - 30, 0.0))
    world.settings(arrays=arrays, rounds=2)
    initial = world.server_task.initial_parameters(world.config.seed)
    world.start_all()
    assert len(world.finish()) == 2
    model = np.load(world.out_dir / "model-00002.npy")
    assert np.array_equal(model[30:], initial[30:])
    assert np.all(model[:30] != initial[:30])
    assert np.load(world.out_dir / "aggregate-00001.npy").size == 30
