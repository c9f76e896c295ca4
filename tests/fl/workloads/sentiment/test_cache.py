"""Computed arrays: once, verified, resumed, and never half there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fl.workloads.data import DataError
from fl.workloads.sentiment.cache import cached_array

KEY = "0123456789abcdef"


class Pieces:
    """Three pieces that count how often each was computed."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls = [0, 0, 0]
        self.fail_at = fail_at

    def compute(self, index: int) -> np.ndarray:
        if index == self.fail_at:
            raise KeyboardInterrupt
        self.calls[index] += 1
        return np.full((2, 3), index, np.float32)

    def list(self) -> list[Callable[[], np.ndarray]]:
        return [lambda index=index: self.compute(index) for index in range(3)]


def cached(folder: Path, pieces: Pieces, key: str = KEY, said: list[str] | None = None) -> np.ndarray:
    progress = (lambda text: None) if said is None else said.append
    return cached_array(folder, "numbers", key, pieces.list(), np.concatenate, progress=progress)


def test_an_array_is_computed_once_and_read_back_read_only(tmp_path: Path) -> None:
    pieces = Pieces()
    first = cached(tmp_path, pieces)
    again = cached(tmp_path, pieces)
    assert first[:, 0].tolist() == again[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert pieces.calls == [1, 1, 1]
    assert not again.flags.writeable
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".lock", ".npy"]


def test_another_key_is_another_array(tmp_path: Path) -> None:
    pieces = Pieces()
    cached(tmp_path, pieces)
    cached(tmp_path, pieces, key="f" * 16)
    assert pieces.calls == [2, 2, 2]
    with pytest.raises(ValueError, match="not a hexadecimal key"):
        cached(tmp_path, pieces, key="../../etc")


def test_a_damaged_array_is_noticed_and_computed_again(tmp_path: Path) -> None:
    pieces, said = Pieces(), []
    cached(tmp_path, pieces)
    path = next(tmp_path.glob("*.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert cached(tmp_path, pieces, said=said)[-1].tolist() == [2, 2, 2]
    assert pieces.calls == [2, 2, 2]
    assert "damaged" in said[0]


def test_an_interrupted_computation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pieces = Pieces(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, pieces)
    pieces.fail_at = None
    assert cached(tmp_path, pieces).shape == (6, 3)
    assert pieces.calls == [1, 1, 1]


def test_whoever_waits_is_told_what_for_and_how_long(tmp_path: Path) -> None:
    times = iter([100.0, 130.0, 0.0, 40.0, 80.0])
    pieces, said = Pieces(fail_at=1), []

    def run() -> None:
        cached_array(
            tmp_path,
            "numbers",
            KEY,
            pieces.list(),
            np.concatenate,
            progress=said.append,
            clock=lambda: next(times),
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    assert "computed once, 3 parts, each" in said[0]
    assert str(tmp_path) in said[0]
    assert said[1:] == ["numbers: part 1 of 3 done, about 60 s left"]
    pieces.fail_at = None
    said.clear()
    run()
    assert "computed once, 2 parts of 3, the others are there already" in said[0]
    assert said[1:] == [
        "numbers: part 2 of 3 done, about 40 s left",
        "numbers: part 3 of 3 done, about 0 s left",
    ]


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    pieces = Pieces(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, pieces)
    part = min((tmp_path / f"numbers.{KEY}.parts").glob("*.npy"))
    part.write_bytes(part.read_bytes()[:-4])
    pieces.fail_at = None
    assert cached(tmp_path, pieces)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert pieces.calls == [2, 1, 1]


def test_of_two_at_once_one_computes_and_the_other_waits(tmp_path: Path) -> None:
    computing, go_on = threading.Event(), threading.Event()
    said: list[str] = []
    calls: list[int] = []

    def slow() -> np.ndarray:
        calls.append(1)
        computing.set()
        assert go_on.wait(10)
        return np.arange(3)

    def note(text: str) -> None:
        said.append(text)
        go_on.set()

    results: list[np.ndarray] = []

    def run(progress: Callable[[str], None]) -> None:
        results.append(cached_array(tmp_path, "slow", KEY, [slow], np.concatenate, progress=progress))

    first = threading.Thread(target=run, args=(lambda text: None,))
    first.start()
    assert computing.wait(10)
    second = threading.Thread(target=run, args=(note,))
    second.start()
    for thread in (first, second):
        thread.join(10)
    assert [result.tolist() for result in results] == [[0, 1, 2]] * 2
    assert calls == [1]
    assert any("waiting for another process" in text for text in said)


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot keep numbers.*QUNETLAB_DATA"):
        cached(tmp_path / "file", Pieces())
