"""Whether what runs in a container lives: one role at its port, or all roles of `qunetlab up` where its list says."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.runs.testbeds.folder import UP_LOCK, up_folder
from lab.runs.watched import healthy
from lab.runs.watched.page import MetricsPage
from lab.runs.watched.targets import TARGETS_FILE


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    with MetricsPage(
        lambda accept: ("text/plain", b""), lambda: ["not ready, and alive"], "127.0.0.1", 0
    ) as page:
        yield page


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Path]:
    """A testbed folder whose roles `qunetlab up` runs."""
    up_folder(tmp_path).mkdir(parents=True)
    lock = os.open(up_folder(tmp_path) / UP_LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield tmp_path
    os.close(lock)


def place(page: MetricsPage) -> str:
    return page.url.removeprefix("http://").removesuffix("/metrics")


def test_a_role_alone_answers_at_its_port(
    page: MetricsPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthy, "ALONE", place(page))
    assert list(healthy.silent(tmp_path)) == []
    monkeypatch.setattr(healthy, "ALONE", "127.0.0.1:1")
    assert [why.partition(":")[0] for why in healthy.silent(tmp_path)] == ["the role at 127.0.0.1"]


def test_of_roles_that_run_together_each_answers(page: MetricsPage, up: Path) -> None:
    (not_yet,) = healthy.silent(up)
    assert not_yet.startswith("the roles are not ready yet")
    row = '{"targets": ["%s"], "labels": {"process": "%s"}}'
    (up_folder(up) / TARGETS_FILE).write_text(f"[{row % (place(page), 'relay')}]")
    assert list(healthy.silent(up)) == []
    rows = f"[{row % (place(page), 'relay')}, {row % ('127.0.0.1:1', 'alice')}]"
    (up_folder(up) / TARGETS_FILE).write_text(rows)
    (gone,) = healthy.silent(up)
    assert gone.startswith("alice at 127.0.0.1:1")


def test_the_answer_is_an_exit_code_and_words(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "lab.runs.watched.healthy", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.startswith("the role at ")) == (1, True)
