"""The authority of a testbed and the certificates that it signs, held against the ``openssl`` command and TLS itself."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from lab.runs.certificates import making
from lab.runs.certificates.authority import Authority
from lab.runs.certificates.here import (
    authority_folder,
    certify,
    expiring,
    faults,
    held_by_application,
    held_by_node,
    make_certificates,
    spread_list,
)
from lab.runs.certificates.holding import Arrived, install
from lab.runs.certificates.making import pem
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import Testbed, load_testbed
from orchestrator import randomness
from orchestrator.delivery.certificates import (
    CertificateError,
    Holder,
    NodeCertificates,
    common_name,
    read_certificate,
    read_key,
)
from orchestrator.delivery.http.proving import Proving

SAES = {"app1": "alice", "app2": "bob"}
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "bench"
    return create_folder(folder, template_path("simulated-reference"), applications=SAES).parent


@pytest.fixture
def bench(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bench"))


def secrets_of(bench: Path) -> tuple[Testbed, Path]:
    return load_testbed(bench / "testbed.toml"), bench / "secrets"


def openssl(*words: object, well: bool = True) -> str:
    ran = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert (ran.returncode == 0) == well, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_a_folder_with_applications_has_what_a_rehearsal_needs_and_nobody_else_may_read_it(
    bench: Path,
) -> None:
    testbed, secrets = secrets_of(bench)
    assert testbed.applications_of("alice") == ("app1",)
    assert testbed.key_delivery.otp_per_1024 == 128
    assert sorted(path.name for path in (secrets / "sae-app1").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert sorted(path.name for path in (secrets / "bob").glob("kme-*")) == [
        *("kme-ca.pem", "kme-cert.pem", "kme-crl.pem", "kme-key.pem")
    ]
    for path in secrets.rglob("*"):
        if path.name != "curve.public":
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert faults(testbed, secrets, NOW) == expiring(testbed, secrets, NOW) == []


def test_openssl_finds_the_chain_the_uses_and_the_names_right(bench: Path) -> None:
    _, secrets = secrets_of(bench)
    authority, node, application = (
        secrets / "authority" / "ca.pem",
        secrets / "alice" / "kme-cert.pem",
        secrets / "sae-app1" / "cert.pem",
    )
    strict = ("verify", "-x509_strict", "-CAfile", authority)
    openssl(*strict, "-purpose", "sslserver", "-verify_hostname", "localhost", node)
    openssl(*strict, "-purpose", "sslserver", "-verify_ip", "127.0.0.1", node)
    openssl(*strict, "-purpose", "sslclient", application)
    openssl(*strict, "-purpose", "sslclient", node, well=False)
    openssl(*strict, "-purpose", "sslserver", application, well=False)
    assert "CN = app1" in openssl("x509", "-in", application, "-noout", "-subject", "-nameopt", "space_eq")
    assert "Private-Key: (256 bit)" in openssl(
        "pkey", "-in", secrets / "sae-app1" / "key.pem", "-noout", "-text"
    )


def test_openssl_refuses_what_the_list_revokes(bench: Path) -> None:
    testbed, secrets = secrets_of(bench)
    authority = Authority(authority_folder(secrets))
    application = secrets / "sae-app1" / "cert.pem"
    checked = ("verify", "-crl_check", "-CAfile", secrets / "authority" / "ca.pem", "-CRLfile")
    openssl(*checked, secrets / "alice" / "kme-crl.pem", application)
    assert authority.revoke([read_certificate(application).serial_number], NOW) == 2
    spread = spread_list(testbed, secrets, authority.revoked_list())
    assert (spread.here, spread.elsewhere, spread.number) == (["alice", "bob", "carol", "dave"], [], 2)
    assert "revoked" in openssl(*checked, secrets / "alice" / "kme-crl.pem", application, well=False)
    (entry,) = authority.of("app1", Holder.SAE)
    assert entry.revoked is not None
    assert not entry.holds(NOW)


def test_keys_and_serials_come_through_the_one_door_of_randomness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(randomness, "_system", lambda count: b"\x07" * count)
    first, second = making.make_key(), making.make_key()
    assert first.private_numbers().private_value == second.private_numbers().private_value
    certificate = making.make_authority(first, "ring", NOW)
    assert certificate.serial_number == making.make_authority(first, "ring", NOW).serial_number
    assert first.private_numbers().private_value < making.CURVE_ORDER


def test_nobody_else_gets_an_authority_that_is_there(bench: Path) -> None:
    testbed, secrets = secrets_of(bench)
    with pytest.raises(FileExistsError):
        Authority.found(authority_folder(secrets), testbed.name, NOW)
    shutil.rmtree(authority_folder(secrets))
    with pytest.raises(CertificateError, match=r"there is no authority in .*the machine of `qunetlab init`"):
        Authority(authority_folder(secrets))


def test_a_certificate_of_another_name_is_not_installed(bench: Path) -> None:
    _, secrets = secrets_of(bench)
    held = held_by_application(secrets, "app2")
    authority = Authority(authority_folder(secrets))
    made = authority.issue(read_key(held.key).public_key(), "app1", Holder.SAE, [], NOW)
    with pytest.raises(CertificateError, match="is the certificate of 'app1', not of app2"):
        install(held, Arrived.parse(authority.bundle(made), "the file"), NOW)


# -- a node that serves ----------------------------------------------------------------------------------------------


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes | None, str]:
    """A connection between both; the client's certificate as the server has it, or why there is none."""
    here, there = socket.socketpair()
    told: list[tuple[bytes | None, str]] = []

    def serve() -> None:
        try:
            with server.wrap_socket(here, server_side=True) as secured:
                told.append((secured.getpeercert(binary_form=True), ""))
                secured.sendall(b"x")
        except (ssl.SSLError, OSError) as error:
            told.append((None, str(error)))
            here.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(there, server_hostname="localhost") as secured:
            secured.recv(1)
    except (ssl.SSLError, OSError):
        there.close()
    thread.join(20)
    return told[0]


def context_of(node: NodeCertificates) -> ssl.SSLContext:
    return Proving(node).context()


def client_with(folder: Path, authority: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority or folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_a_node_refuses_a_caller_from_the_moment_its_list_says_so(bench: Path) -> None:
    testbed, secrets = secrets_of(bench)
    node = NodeCertificates.load(secrets / "alice", "alice")
    der, _ = shake_hands(context_of(node), client_with(secrets / "sae-app1"))
    assert der is not None
    caller = x509.load_der_x509_certificate(der)
    assert common_name(caller.subject) == "app1"
    assert not node.revoked.is_revoked(caller.serial_number)
    authority = Authority(authority_folder(secrets))
    authority.revoke([caller.serial_number], NOW)
    assert not node.revoked.is_revoked(caller.serial_number), "the node has not got the new list"
    spread_list(testbed, secrets, authority.revoked_list())
    assert node.revoked.is_revoked(caller.serial_number)


def test_a_list_that_cannot_be_used_lets_nobody_back_in(
    bench: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    testbed, secrets = secrets_of(bench)
    current = secrets / "alice" / "kme-crl.pem"
    older = current.read_bytes()
    node = NodeCertificates.load(secrets / "alice", "alice")
    serial = read_certificate(secrets / "sae-app1" / "cert.pem").serial_number
    Authority(authority_folder(secrets)).revoke([serial], NOW)
    spread_list(testbed, secrets, Authority(authority_folder(secrets)).revoked_list())
    assert node.revoked.is_revoked(serial)
    stranger = make_certificates(testbed, tmp_path / "other", NOW)
    for bad, says in (
        (older, "older than list 2"),
        (pem(stranger.revoked_list()), "a list of another authority"),
        (b"", "holds no list"),
        (current.read_bytes()[:-60], "holds no list"),
    ):
        caplog.clear()
        current.write_bytes(bad)
        assert node.revoked.is_revoked(serial)
        assert says in caplog.text
    current.unlink()
    assert node.revoked.is_revoked(serial)
    assert node.revoked.number == 2


def test_tls_itself_refuses_strangers_the_expired_and_certificates_of_nodes(
    bench: Path, tmp_path: Path
) -> None:
    testbed, secrets = secrets_of(bench)
    authority, context = (
        secrets / "authority" / "ca.pem",
        context_of(NodeCertificates.load(secrets / "alice", "alice")),
    )
    make_certificates(testbed, tmp_path / "other", NOW)
    strange = client_with(tmp_path / "other" / "sae-app1", authority)
    assert "certificate verify failed" in shake_hands(context, strange)[1]
    aged = held_by_application(tmp_path / "aged", "app1")
    certify(Authority(authority_folder(secrets)), aged, [], NOW - timedelta(days=366))
    assert "expired" in shake_hands(context, client_with(aged.folder))[1]
    node = ssl.create_default_context(cafile=str(authority))
    node.load_cert_chain(secrets / "bob" / "kme-cert.pem", secrets / "bob" / "kme-key.pem")
    assert shake_hands(context, node)[0] is None
    bare = ssl.create_default_context(cafile=str(authority))
    assert "peer did not return a certificate" in shake_hands(context, bare)[1]
    older = client_with(secrets / "sae-app1")
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(context, older)[0] is None


def rewrite(path: Path, content: Callable[[bytes], bytes]) -> None:
    path.write_bytes(content(path.read_bytes()))


def test_a_node_that_cannot_prove_itself_does_not_start(bench: Path, tmp_path: Path) -> None:
    testbed, secrets = secrets_of(bench)
    alice = secrets / "alice"

    def refusal(at: datetime = NOW, user: str = "alice") -> str:
        with pytest.raises(CertificateError) as caught:
            NodeCertificates.load(alice, user, at)
        return str(caught.value)

    assert "expired on" in refusal(NOW + timedelta(days=400))
    assert "is valid only from" in refusal(NOW - timedelta(days=1))
    assert "of 'alice', not of bob" in refusal(user="bob")
    (alice / "kme-key.pem").chmod(0o640)
    assert "mode 0640" in refusal()
    assert f"chmod 600 {alice / 'kme-key.pem'}" in refusal()
    (alice / "kme-key.pem").chmod(0o600)
    kept = (alice / "kme-key.pem").read_bytes()
    (alice / "kme-key.pem").write_bytes((secrets / "bob" / "kme-key.pem").read_bytes())
    assert "are no pair" in refusal()
    (alice / "kme-key.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    assert "holds no private key" in refusal()
    (alice / "kme-key.pem").write_bytes(kept)
    rewrite(alice / "kme-crl.pem", lambda content: content[:100])
    assert "holds no list" in refusal()
    make_certificates(testbed, tmp_path / "other", NOW)
    (alice / "kme-ca.pem").write_bytes((tmp_path / "other" / "authority" / "ca.pem").read_bytes())
    assert "another authority" in refusal()
    (alice / "kme-cert.pem").write_bytes((secrets / "sae-app1" / "cert.pem").read_bytes())
    (alice / "kme-ca.pem").write_bytes((secrets / "authority" / "ca.pem").read_bytes())
    assert "no certificate for a node" in refusal()
    (alice / "kme-cert.pem").unlink()
    assert "qunetlab sae request alice --kme" in refusal()


def test_what_expires_soon_is_told_before_it_has(bench: Path) -> None:
    testbed, secrets = secrets_of(bench)
    later = NOW + timedelta(days=340)
    told = expiring(testbed, secrets, later)
    assert len(told) == 6
    assert "expires in 24 days" in told[0] or "expires in 25 days" in told[0]
    assert "qunetlab sae renew alice --kme" in told[0]
    assert faults(testbed, secrets, later) == []
    (secrets / "sae-app1" / "key.pem").chmod(0o644)
    held_by_node(secrets, "bob").certificate.unlink()
    told = faults(testbed, secrets, NOW)
    assert len(told) == 2
    assert "mode 0644" in told[0]
    assert "bob serves app2 and has no certificate" in told[1]
