"""Twenty minutes of a whole ring that makes and gives away key: no process grows, and none gathers descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.runs.testbeds.folder import create_folder, named_testbed
from tests.helpers.key_client import Application
from tests.helpers.ring_up import going, served

WARM_UP_S = 15 * 60.0
SOAK_S = 20 * 60.0
EVERY_S = 5.0
WINDOW_S = 90.0
"""Of what was seen in this time before each of the two moments the least is compared, of memory the lowest tenth: a block in
work takes a few megabytes for a moment, a reading of count rates a connection.  What is gathered is in the least, too."""
MOST_GROWTH_MB = 5.0
DRAWN_BITS = 2048
"""Of each key: four of them every five seconds keep the ring at work the whole time."""
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


def connections(pid: int) -> dict[str, str]:
    """What the sockets of a process's network are connected to, by the name that their descriptors have."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            local, remote = (int(words[at].split(":")[1], 16) for at in (1, 2))
            found[f"socket:[{words[9]}]"] = f"port {local} to port {remote}"
    return found


@dataclass
class Seen:
    """What one process held, sample by sample."""

    name: str
    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    sockets: list[frozenset[str]] = field(default_factory=list)

    def sample(self, pid: int, now_s: float) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        if found is None:
            return
        links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
        ends = connections(pid)
        self.at_s.append(now_s)  # nothing fails from here on: a process may end while it is looked at
        self.rss_mb.append(int(found[1]) / 1024)
        self.descriptors.append(len(links))
        self.sockets.append(frozenset(ends.get(link, link) for link in links))

    def _window(self, values: list[float] | list[int], moment_s: float) -> list[float]:
        return [v for at, v in zip(self.at_s, values, strict=True) if moment_s - WINDOW_S <= at <= moment_s]

    def memory_mb(self, moment_s: float) -> float:
        """The lowest tenth of what it held before a moment."""
        return float(statistics.quantiles(self._window(self.rss_mb, moment_s), n=10)[0])

    def held(self, moment_s: float) -> int:
        """The fewest descriptors it had before a moment."""
        return int(min(self._window(self.descriptors, moment_s)))

    def new(self, moment_s: float) -> list[str]:
        """What it has open at its end that it did not have at a moment."""
        before = [each for at, each in zip(self.at_s, self.sockets, strict=True) if at <= moment_s][-1]
        return sorted(self.sockets[-1] - before)


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
            keys = apps["app1"].ask(f"app2/enc_keys?number=4&size={DRAWN_BITS}")
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
        before, after = each.memory_mb(WARM_UP_S), each.memory_mb(SOAK_S)
        held = each.held(WARM_UP_S), each.held(SOAK_S)
        told.append(f"{each.name}: {before:.1f} -> {after:.1f} MB, {held[0]} -> {held[1]} descriptors")
        if after - before >= MOST_GROWTH_MB or held[0] != held[1]:
            grown.append(f"{told[-1]}; new: {each.new(WARM_UP_S)}")
    print("\n".join([f"{given['keys']} keys given and fetched", *told]))
    assert given["keys"] > 100
    assert len(told) >= 7
    assert not grown, grown
