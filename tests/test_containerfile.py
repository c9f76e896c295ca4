"""The container of a role: not root, a read-only image, one volume, a health check; built and run where there is podman."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
IMAGE = "qunetlab-test"


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined and comments left out."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def faults(text: str) -> list[str]:
    """What a container of a role must not be."""
    found, listed = [], instructions(text)
    last = max(number for number, (word, _) in enumerate(listed) if word == "FROM")
    stage = listed[last:]
    said = dict(stage)
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", said.get("USER", "")):
        found.append("the last stage runs as root, or as a name that the host cannot compare")
    if any(word in ("ADD", "ARG", "EXPOSE") for word, _ in listed):
        found.append(
            "ADD fetches, ARG stays readable in the image, EXPOSE promises what the testbed file decides"
        )
    if any(word == "COPY" and not rest.startswith("--from=") for word, rest in stage):
        found.append("the last stage copies from the folder of the source")
    found += [
        f"{rest} is no fixed release"
        for word, rest in listed
        if word == "FROM" and not re.match(r"\S+:\d+\.\d+", rest)
    ]
    for word in ("ENTRYPOINT", "VOLUME", "CMD"):
        try:
            json.loads(said.get(word, ""))
        except ValueError:
            found.append(f"{word} is missing or goes through a shell, which keeps signals from the role")
    if "lab.runs.watched.healthy" not in said.get("HEALTHCHECK", ""):
        found.append("nothing asks whether it is well")
    return found


def test_the_container_of_a_role_is_as_it_must_be() -> None:
    assert faults(TEXT) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("USER 10001:10001", "USER root"), "runs as root"),
        (('ENTRYPOINT ["qunetlab"]', "ENTRYPOINT qunetlab"), "goes through a shell"),
        (("HEALTHCHECK", "LABEL"), "whether it is well"),
        (("FROM python:3.12-slim-bookworm\n", "FROM python:latest\n"), "no fixed release"),
        (("COPY --from=build /opt/qunetlab /opt/qunetlab", "COPY . /opt"), "copies from the folder"),
    ],
)
def test_a_container_that_lost_one_of_them_is_noticed(change: tuple[str, str], words: str) -> None:
    assert change[0] in TEXT
    assert any(words in fault for fault in faults(TEXT.replace(*change)))


def test_secrets_and_state_stay_out_of_the_image() -> None:
    ignored = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    assert {"**/secrets", "**/state", ".*", "*.tar"} <= set(ignored)


def no_containers() -> str:
    """Why none can be built and run here; empty if they can."""
    if shutil.which("podman") is None:
        return "podman is not installed here"
    base = next(rest.split()[0] for word, rest in instructions(TEXT) if word == "FROM")
    run = ["podman", "run", "--rm", "--network", "none", base, "python", "-c", ""]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)
    return "" if done.returncode == 0 else f"podman runs no {base} here: {done.stderr.strip()[-300:]}"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_it_is_built_and_a_hub_in_it_is_healthy(tmp_path: Path) -> None:
    from lab.runs.testbeds.folder import create_folder, template_path

    if why := no_containers():
        pytest.skip(why)

    def podman(*words: str) -> str:
        done = subprocess.run(["podman", *words], capture_output=True, text=True, check=False, timeout=800)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    podman("build", "--format", "docker", "-t", IMAGE, str(ROOT))
    bench = create_folder(tmp_path / "bench", template_path("simulated-reference")).parent
    options = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
    command = (IMAGE, "orchestrator", "/bench", "--metrics", "127.0.0.1:9464")
    name = podman("run", "--detach", *options, "-v", f"{bench}:/bench:Z,U", *command)
    try:
        deadline_s = time.monotonic() + 90
        while subprocess.run(["podman", "healthcheck", "run", name], check=False).returncode:
            assert time.monotonic() < deadline_s, podman("logs", name)
            time.sleep(1)
    finally:
        podman("rm", "--force", "--time", "20", name)
