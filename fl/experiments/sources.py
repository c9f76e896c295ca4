"""Which files a task learns from, and their checksums: those that loading them has verified."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fl.results import DataFile
from fl.tasks import parse_task


def data_files(task: str, folder: Path | None) -> tuple[DataFile, ...]:
    """The files behind ``task``; for data that is computed here, the digest of what was computed."""
    workload = parse_task(task).task
    if workload == "mnist":
        from fl.data import SHA256

        return tuple(DataFile(name, digest) for name, digest in SHA256.items())
    if workload in ("sentiment", "sentiment-imdb"):
        from fl.sentiment_data import SHA256 as REVIEW_FILES

        return tuple(DataFile(name, digest) for name, digest in REVIEW_FILES.items())
    if workload == "quantum-states":
        return ()
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return (DataFile("digits bundled with scikit-learn", digest),)
