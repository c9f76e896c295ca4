"""Threads that decode their first messages at the same time: decoders are made in one place, one at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE = re.compile(r"msgspec\.(json|msgpack)\.(decode|Decoder)\(|msgspec\.convert\(")

MEET = """
import sys, threading
import msgspec
from orchestrator.decoding import from_json, msgpack_decoder

sys.setswitchinterval(1e-6)
for turn in range(40):
    kinds = [int]
    for depth in range(40):
        fields = [("inner", list[kinds[-1]]), ("text", str), ("number", float | None)]
        kinds.append(msgspec.defstruct(f"S{depth}", fields, tag=f"s{depth}"))
    together = threading.Barrier(4)
    failed = []

    def meet(kind, name):
        together.wait()
        try:
            DECODE
        except msgspec.ValidationError as error:
            failed.append(error)

    threads = [threading.Thread(target=meet, args=(kinds[-1 - i % 2], f"s{39 - i % 2}")) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed, failed
"""
PLAIN = '{"type": name, "inner": [], "text": "x", "number": 1.0}'


@pytest.mark.parametrize(
    "decode",
    [
        f"from_json(msgspec.json.encode({PLAIN}), kind)",
        f"msgpack_decoder(kind).decode(msgspec.msgpack.encode({PLAIN}))",
    ],
)
def test_threads_that_meet_at_a_type_nobody_has_decoded_do_not_end_the_process(decode: str) -> None:
    """Each made its own decoder once, and a node died of SIGSEGV as it started."""
    done = subprocess.run(
        [sys.executable, "-c", MEET.replace("DECODE", decode)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]


def test_decoders_are_made_in_one_place() -> None:
    """Drivers know nothing of it: what they decode, one thread decodes, or it is no struct."""
    rooms = ("orchestrator", "lab", "fl", "sim_backends")
    makers = [
        str(path.relative_to(ROOT))
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if MADE.search(path.read_text(encoding="utf-8"))
    ]
    assert makers == ["orchestrator/decoding.py"]
