"""The rounds of the latest training run for the pages, from the records of its learning server."""

from __future__ import annotations

from typing import Any

from lab.runs.records.listing import Found

ROUNDS_KEPT = 500
SHOWN = ("round", "at", "accuracy", "loss", "key_bits", "upload_bytes", "participants", "survivors", "reason")


def latest_rounds(found: Found) -> dict[str, Any] | None:
    """Its run and its newest rounds, oldest first; None where no training is on record.

    A round without a sum has a ``reason`` and neither accuracy nor loss.
    """
    runs = [each for each in found.listed if each.kind == "training"]
    if not runs:
        return None
    records = found.whole[runs[-1].id]
    rounds = [{name: each[name] for name in SHOWN if name in each} for each in records[-ROUNDS_KEPT:]]
    return {"run_id": runs[-1].id.partition("/")[2], "ok": runs[-1].ok, "rounds": rounds}
