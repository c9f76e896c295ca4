"""A machine that booted: systemd as process 1 of namespaces of its own, over the root of this machine.

Everything that is written there stays in memory and goes with it; nothing of it is seen outside, and nothing but what is named
runs in it: units of this machine, its network, its processes and its devices are not there.  Needs root, an overlay file system,
cgroup2, and systemd as this machine has it; no network, no image, no container tool.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SYSTEMD = Path("/lib/systemd/systemd")
TOOLS = ("unshare", "setpriv", "nsenter", "mount", "pivot_root", "systemctl", "journalctl", "useradd")
ROOT = Path(__file__).resolve().parents[2]
BOOT_S = 60.0

# In a mount namespace: a control group of its own, and then everything else of its own.
_APART = """set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/cgroup" "$1/upper" "$1/work" "$1/root"
mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir "$1/cgroup/$2"
echo $$ > "$1/cgroup/$2/cgroup.procs"
exec unshare --cgroup --pid --fork --kill-child --mount --uts --ipc --net sh -c "$3" boot "$@"
"""
_BOOT = """set -e
scratch=$1 settings=$4; shift 4
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for each in null zero full random urandom tty; do cp -a "/dev/$each" dev/; done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
for seen in "$@"; do
    if [ "$(stat -c %d "$seen")" != "$(stat -c %d /)" ]; then
        mkdir -p "./$seen"
        mount --bind -o ro "$seen" "./$seen"
    fi
    each=.$seen
    while [ "$each" != . ]; do chmod o+rx "$each" 2>/dev/null || true; each=$(dirname "$each"); done
done
rm -rf etc/systemd/system/* etc/fstab etc/rc?.d etc/init.d var/log/journal
mkdir -p etc/systemd/system.conf.d old
for each in systemd-sysctl systemd-modules-load systemd-udev-trigger systemd-udevd systemd-remount-fs; do
    ln -s /dev/null "etc/systemd/system/$each.service"  # the kernel and its devices are not this machine's own
done
printf '%s\n' "$settings" > etc/systemd/system.conf.d/booted.conf
hostname booted
pivot_root . old
umount -l old
mount --make-rshared /  # as a machine has it; in what it takes for a container systemd leaves that to others
exec env -i container=booted PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=multi-user.target
"""


def missing() -> str:
    """Why there can be no such machine here; empty if there can."""
    if os.geteuid() != 0:
        return "a machine of its own needs root"
    if not SYSTEMD.exists():
        return f"there is no {SYSTEMD} (package systemd)"
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"there is no {', '.join(lacking)}"
    for kind in ("overlay", "cgroup2"):
        if f"\t{kind}\n" not in Path("/proc/filesystems").read_text():
            return f"this kernel has no {kind}"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--cgroup", "--net", "--fork", "true"],
        capture_output=True,
        check=False,
    )
    return "" if done.returncode == 0 else "namespaces cannot be made here"


class Booted:
    """``folder`` is empty; ``environment`` is that of all units and commands, ``seen`` what must be there for others than root.

    Close it at the end.  Raises AssertionError where it does not boot, with what systemd said.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], seen: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._group = f"qunetlab-booted-{os.getpid()}"
        self._environment = dict(environment)
        words = " ".join(f'"{name}={value}"' for name, value in environment.items())
        settings = f"[Manager]\nDefaultEnvironment={words}\n"
        places = dict.fromkeys(map(str, (*seen, ROOT, sys.prefix, sys.base_prefix)))
        with (folder / "said").open("wb") as said:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", _APART, "apart"),
                    *(str(folder), self._group, _BOOT, settings, *places),
                ],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def run(
        self, *words: str | Path, check: bool = True, timeout_s: float = 120.0, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """A command of root's on that machine, to its end."""
        done = subprocess.run(
            [*self._inside(), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **more,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def close(self) -> None:
        """End all that runs there."""
        self._process.kill()  # the machine's process 1 goes with it, and every process with that
        self._process.wait()
        words = 'mount -t cgroup2 cgroup2 "$1"; find "$1/$2" -depth -type d -exec rmdir {} +'
        for _ in range(50):
            gone = ["unshare", "--mount", "sh", "-c", words, "gone", str(self._folder), self._group]
            if subprocess.run(gone, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)

    def _inside(self) -> list[str]:
        (first,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        names = ("mount", "uts", "ipc", "net", "pid", "cgroup")
        set_ = [f"{name}={value}" for name, value in self._environment.items()]
        enter = ["nsenter", "--target", first, *(f"--{name}" for name in names)]
        return [*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", *set_]

    def _wait(self) -> None:
        give_up = time.monotonic() + BOOT_S
        while True:
            with suppress(ValueError, OSError):  # there is no process 1 yet
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            told = (self._folder / "said").read_text(errors="replace")
            assert self._process.poll() is None, f"it did not boot: {told}"
            assert time.monotonic() < give_up, f"it did not boot within {BOOT_S:g} s: {told}"
            time.sleep(0.1)
