"""``--store-key``: a key store sealed with a file, a passphrase, or a credential of the service manager."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from command_line import QUNETLAB, run_qunetlab

from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.testbeds.store_key import PASSPHRASE_FILE, StoreKey, StoreKeyError
from lab.testbed import load_testbed
from orchestrator.keystore.errors import SealError, StoreError
from orchestrator.keystore.passphrase import PassphraseFile, create_passphrase, open_passphrase
from orchestrator.processes.node_store import STORE_FILE, open_node_store
from orchestrator.wire.codec import decode, encode

GOOD, OTHER = "correct horse battery staple", "incorrect horse battery staple"
SOURCE = "simulated-reference"
USER = "alice"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A testbed folder made with a passphrase that came through a descriptor."""
    folder = tmp_path_factory.mktemp("sealed") / "bench"
    read, write = os.pipe()
    os.write(write, f"{GOOD}\n".encode())
    os.close(write)
    command = ["init", str(folder), "--template", SOURCE, "--store-key", f"passphrase-fd:{read}"]
    ended = run_qunetlab(*command, pass_fds=[read])
    os.close(read)
    assert ended.returncode == 0, ended.stderr
    return folder


def secret_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "passphrase"
    path.write_text(text + "\n")
    path.chmod(mode)
    return path


def test_a_folder_sealed_with_a_passphrase_holds_no_key(sealed: Path) -> None:
    for user in load_testbed(sealed / "testbed.toml").user_names():
        secrets = sealed / "secrets" / user
        assert not (secrets / "store.key").exists()
        assert (secrets / PASSPHRASE_FILE).stat().st_mode & 0o777 == 0o600
        assert GOOD.encode() not in (secrets / PASSPHRASE_FILE).read_bytes()
    files = [
        decode(path.read_bytes(), PassphraseFile) for path in sealed.glob(f"secrets/*/{PASSPHRASE_FILE}")
    ]
    assert len({file.salt for file in files}) == len(files) > 1


def test_the_same_passphrase_opens_the_store_at_every_start(sealed: Path, tmp_path: Path) -> None:
    testbed, secrets = load_testbed(sealed / "testbed.toml"), sealed / "secrets" / USER
    key = StoreKey.parse(f"passphrase-file:{secret_file(tmp_path, GOOD)}")
    state = tmp_path / "state" / USER
    state.mkdir(parents=True)
    for _ in range(2):
        with open_node_store(testbed, USER, secrets, state, key.kek(USER, secrets)) as store:
            assert store.peers()
    content = (state / STORE_FILE).read_bytes()
    option = ["--store-key", f"passphrase-file:{secret_file(tmp_path, GOOD)}"]
    shown = run_qunetlab("keys", str(sealed), "--state", str(tmp_path / "state"), "--json", *option)
    assert shown.returncode == 0, shown.stderr
    assert '"node":"alice"' in shown.stdout
    option = ["--store-key", f"passphrase-file:{secret_file(tmp_path, OTHER)}"]
    refused = run_qunetlab("keys", str(sealed), "--state", str(tmp_path / "state"), *option)
    assert refused.returncode == 1
    assert "the passphrase is not the one" in refused.stderr
    assert OTHER not in refused.stderr
    assert (state / STORE_FILE).read_bytes() == content


def test_a_node_with_a_wrong_passphrase_says_so_and_loses_nothing(tmp_path: Path) -> None:
    """On the very first start, when the store does not exist yet and the initial secrets lie there."""
    bench = create_folder(tmp_path / "bench", template_path(SOURCE), passphrase=GOOD).parent
    secrets = bench / "secrets" / USER
    before = {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()}
    option = ["--store-key", f"passphrase-file:{secret_file(tmp_path, OTHER)}"]
    ended = run_qunetlab("node", USER, str(bench), *option)
    assert ended.returncode == 1
    assert "the passphrase is not the one" in ended.stderr
    assert "nothing was opened or changed" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()} == before
    assert not list(bench.rglob(STORE_FILE + "*"))
    without = run_qunetlab("node", USER, str(bench))
    assert without.returncode == 2
    assert "is sealed with a passphrase" in without.stderr
    assert "--store-key passphrase" in without.stderr


def test_a_passphrase_is_asked_for_at_a_terminal_only(sealed: Path) -> None:
    asked = run_qunetlab("node", USER, str(sealed), "--store-key", "passphrase", stdin=subprocess.DEVNULL)
    assert asked.returncode == 2
    assert "there is none" in asked.stderr


def test_at_a_terminal_it_is_asked_for_twice_and_never_shown(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    command = [*QUNETLAB, "init", str(tmp_path / "bench"), "--template", SOURCE]
    process = subprocess.Popen(
        [*command, "--store-key", "passphrase"],
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    seen = b""
    for number, prompt in enumerate((b"every user: ", b"Once more: "), start=1):
        while not seen.endswith(prompt):
            seen += os.read(parent, 1000)
        os.write(parent, GOOD.encode() + b"\n")
        assert number <= 2
    assert process.wait(60) == 0
    assert GOOD.encode() not in seen
    open_passphrase(tmp_path / "bench" / "secrets" / USER / PASSPHRASE_FILE, GOOD)
    os.close(parent)


def test_the_service_manager_gives_the_key(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd puts LoadCredential=NAME into a folder of the unit, mode 0400."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "alices-store").write_bytes(bytes(range(32)))
    (credentials / "alices-store").chmod(0o400)
    key = StoreKey.parse("credential:alices-store")
    secrets = sealed / "secrets" / USER
    with pytest.raises(StoreError, match="LoadCredential=alices-store"):
        key.kek(USER, secrets)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    wrapped = key.kek(USER, secrets).wrap(b"k" * 32)
    assert key.kek(USER, secrets).unwrap(wrapped) == b"k" * 32
    with pytest.raises(StoreError, match="cannot read"):
        StoreKey.parse("credential").kek(USER, secrets)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "files",
        "file:x",
        "passphrase:hunter2hunter2",
        "passphrase-file",
        "passphrase-file:",
        "passphrase-fd:x",
    ],
)
def test_options_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(StoreKeyError, match="passphrase-fd:N"):
        StoreKey.parse(text)


def test_a_passphrase_file_must_be_private_and_hold_one(tmp_path: Path) -> None:
    with pytest.raises(StoreKeyError, match="chmod it to 600"):
        StoreKey.parse(f"passphrase-file:{secret_file(tmp_path, GOOD, 0o644)}").passphrase(USER)
    with pytest.raises(StoreKeyError, match="no passphrase in"):
        StoreKey.parse(f"passphrase-file:{secret_file(tmp_path, '')}").passphrase(USER)
    with pytest.raises(StoreKeyError, match="cannot read the passphrase in"):
        StoreKey.parse(f"passphrase-file:{tmp_path / 'missing'}").passphrase(USER)


def test_cost_and_salt_are_kept_and_nothing_else_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / PASSPHRASE_FILE
    kek = create_passphrase(path, GOOD, passes=1, memory_kib=512)
    kept = decode(path.read_bytes(), PassphraseFile)
    assert (kept.passes, kept.lanes, kept.memory_kib) == (1, 4, 512)
    assert open_passphrase(path, GOOD).unwrap(kek.wrap(b"k" * 32)) == b"k" * 32
    with pytest.raises(SealError, match="not the one"):
        open_passphrase(path, GOOD + " ")
    with pytest.raises(StoreError, match="File exists"):
        create_passphrase(path, GOOD, passes=1, memory_kib=512)
    with pytest.raises(SealError, match="at least 12 characters"):
        create_passphrase(tmp_path / "other", "short")
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"", b"\0" * 100, encode(kept).replace(kept.salt, bytes(16))):
        path.write_bytes(damaged)
        with pytest.raises(SealError, match=r"damaged|not the one"):
            open_passphrase(path, GOOD)


def test_a_forged_cost_does_not_stop_the_machine(tmp_path: Path) -> None:
    import msgspec

    path = tmp_path / PASSPHRASE_FILE
    create_passphrase(path, GOOD, passes=1, memory_kib=512)
    kept = decode(path.read_bytes(), PassphraseFile)
    path.write_bytes(encode(msgspec.structs.replace(kept, memory_kib=1 << 40)))
    with pytest.raises(SealError, match="damaged"):
        open_passphrase(path, GOOD)
