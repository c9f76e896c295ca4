"""Read-only installations and homes, and small disks, as the operating system makes them: mount namespaces."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from command_line import QUNETLAB

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]


def in_namespace(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``script`` with mounts that nobody else sees."""
    try:
        able = subprocess.run([*NAMESPACE, "mount", "--make-rprivate", "/"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here: mount namespaces cannot be made")
    if able.returncode:
        pytest.skip(f"this user may not make mount namespaces: {able.stderr.decode().strip()}")
    return subprocess.run(
        [*NAMESPACE, "bash", "-ec", f"mount --make-rprivate /\n{script}", "test", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


READ_ONLY = """
for folder in "$1" "$2"; do
    mount --bind "$folder" "$folder"
    mount -o remount,bind,ro "$folder"
done
export HOME="$2"
shift 2
exec "$@"
"""


@pytest.mark.parametrize("place", ["TMPDIR", "nowhere"])
def test_every_kernel_compiles_where_installation_and_home_are_read_only(tmp_path: Path, place: str) -> None:
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    cut_off = "" if place == "TMPDIR" else f"mount -t tmpfs -o ro none '{temporary}'\n"
    done = in_namespace(
        f"{cut_off}export TMPDIR='{temporary}'\n{READ_ONLY}",
        str(ROOT),
        str(home),
        *QUNETLAB,
        "compile",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    kept = list(temporary.rglob("*.nbi"))
    if place == "TMPDIR":
        assert len(kept) > 20
        assert done.stderr == ""
    else:
        assert kept == []


def test_a_training_run_works_where_installation_and_home_are_read_only(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    small = ("--quick", "--rounds", "1", "--seeds", "1", "--no-baselines", "--workers", "2")
    done = in_namespace(
        READ_ONLY, str(ROOT), str(home), *QUNETLAB, "train", "digits", *small, "--out", str(out), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "atplotlib" not in done.stderr
    read = in_namespace(READ_ONLY, str(ROOT), str(home), *QUNETLAB, "compare", str(out), cwd=tmp_path)
    assert (read.returncode, read.stderr) == (0, "")
    assert "sum exact" in read.stdout


SMALL_DISK = """
mount -t tmpfs -o size="$1" none "$2"
export TMPDIR="$2"
shift 2
exec "$@"
"""


@pytest.mark.parametrize("size", ["4k", "64k", "512k", "4m"])
def test_a_full_temporary_folder_is_named(tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = in_namespace(
        SMALL_DISK,
        size,
        str(disk),
        *QUNETLAB,
        "demo",
        "--rounds",
        "1",
        "--out",
        str(tmp_path / "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert f"{disk} (TMPDIR) has " in done.stderr
    assert "make room there, or set TMPDIR to another folder" in done.stderr


def test_a_full_output_folder_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = in_namespace(
        'mount -t tmpfs -o size=64k none "$1"; head -c 1M /dev/zero > "$1/filled" || true; shift; exec "$@"',
        str(disk),
        *QUNETLAB,
        *("train", "digits", "--quick", "--rounds", "1", "--seeds", "1", "--workers", "0"),
        *("--out", str(disk / "run")),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{disk} (named on the command line) has 0 bytes of 64.0 KiB free" in done.stderr
