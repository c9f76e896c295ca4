"""Twenty minutes of a whole ring that makes and gives away key: no process grows, and none gathers descriptors."""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.runs.testbeds.folder import create_folder, named_testbed
from tests.helpers.key_client import Application

WARM_UP_S = 15 * 60.0
SOAK_S = 20 * 60.0
EVERY_S = 5.0
WINDOW_S = 90.0
"""Medians of what was seen in this time before each of the two moments are compared."""
MOST_GROWTH_MB = 5.0
SAES = {"app1": "alice", "app2": "bob"}


def children(pid: int) -> Iterator[int]:
    """Every descendant of a process."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in below:
        yield int(child)
        yield from children(int(child))


def named(pid: int) -> str:
    """The words of a command after the interpreter's own, without paths of this run."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return " ".join(word for word in words[1:] if word and "/" not in word and not word.startswith("-"))


@dataclass
class Seen:
    """What one process held, sample by sample."""

    name: str
    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, pid: int, now_s: float) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        if found is None:
            return
        self.at_s.append(now_s)
        self.rss_mb.append(int(found[1]) / 1024)
        self.descriptors.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def at(self, values: list[float] | list[int], moment_s: float) -> float:
        """The median of a value in the time before a moment."""
        window = [v for at, v in zip(self.at_s, values, strict=True) if moment_s - WINDOW_S <= at <= moment_s]
        return float(statistics.median(window))


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_no_process_of_a_ring_grows(tmp_path: Path) -> None:
    folder = tmp_path / "ring"
    create_folder(folder, named_testbed("simulated-four-node"), applications=SAES)
    seen: dict[int, Seen] = {}
    given: dict[str, int] = defaultdict(int)
    with going(folder) as process:
        urls = {name: served(folder, name) for name in SAES.values()}
        apps = {sae: Application(folder, sae, urls[user]) for sae, user in SAES.items()}
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < SOAK_S:
            keys = apps["app1"].ask("app2/enc_keys?number=4")
            for key_id in keys:
                assert apps["app2"].ask(f"app1/dec_keys?key_ID={key_id}") == {key_id: keys[key_id]}
            given["keys"] += len(keys)
            for pid in children(process.pid):
                with contextlib.suppress(OSError):
                    seen.setdefault(pid, Seen(named(pid))).sample(pid, now)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(EVERY_S)
            assert process.poll() is None, "the ring ended by itself"
    told, grown = [], []
    for each in seen.values():
        if each.at_s[0] > WARM_UP_S - WINDOW_S or each.at_s[-1] < SOAK_S - WINDOW_S:
            continue  # a helper that came and went
        before, after = each.at(each.rss_mb, WARM_UP_S), each.at(each.rss_mb, SOAK_S)
        held = each.at(each.descriptors, WARM_UP_S), each.at(each.descriptors, SOAK_S)
        told.append(
            f"{each.name}: {before:.1f} -> {after:.1f} MB, {held[0]:.0f} -> {held[1]:.0f} descriptors"
        )
        if after - before >= MOST_GROWTH_MB or held[0] != held[1]:
            grown.append(told[-1])
    print("\n".join([f"{given['keys']} keys given and fetched", *told]))
    assert given["keys"] > 100
    assert len(told) >= 7
    assert not grown, grown


@contextlib.contextmanager
def going(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """All roles of a folder's testbed, until the block is left."""
    command = [sys.executable, "-P", "-m", "lab.cli.main", "up", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready"):
                break
        else:
            pytest.fail("the ring did not go up")
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def served(folder: Path, name: str) -> str:
    """Where the node of a user serves its applications, by its ready line."""
    for file in sorted((folder / "state" / "up").glob(f"{name}*")):
        found = re.findall(r'"etsi014": ?"(https://[^"]+)"', file.read_text(errors="replace"))
        if found:
            return str(found[-1])
    raise AssertionError(f"the node of {name} does not say where it serves")
