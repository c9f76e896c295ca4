"""`qunetlab sae`: keys made where they are used, requests approved, certificates installed, renewed, revoked and listed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from lab.runs.certificates.authority import Authority
from lab.runs.certificates.here import authority_folder
from lab.runs.certificates.making import make_key, make_request, pem
from lab.runs.testbeds.folder import create_folder, template_path
from orchestrator.delivery import certificates
from orchestrator.delivery.certificates import Holder, NodeCertificates, read_certificate
from orchestrator.durable import create_file
from orchestrator.wall_clock import utc_now

Sae = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sae") / "bench"
    saes = {"app1": "alice", "app2": "bob"}
    return create_folder(folder, template_path("simulated-reference"), applications=saes).parent


@pytest.fixture
def bench(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the authority is; app3 is in the file, and has no certificate yet."""
    folder = Path(shutil.copytree(made, tmp_path / "bench"))
    file = folder / "testbed.toml"
    file.write_text(file.read_text() + '\n[sae.app3]\nuser = "carol"\nbits_per_day = 0\n')
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def sae(qunetlab: Any) -> Sae:
    """``qunetlab sae ARGUMENTS``, and what it must end with."""

    def call(*arguments: object, ends: int = 0) -> Any:
        said = qunetlab("sae", *map(str, arguments))
        assert said.returncode == ends, said.stdout + said.stderr
        return said

    return call


def approved(sae: Sae, name: str = "app3") -> Path:
    sae("request", name)
    sae("approve", f"sae-{name}/request.pem", "--testbed", "bench", "--yes")
    return Path(f"sae-{name}.pem")


def listed(sae: Sae, name: str) -> list[dict[str, Any]]:
    told = json.loads(sae("list", "--testbed", "bench", "--json").stdout)["certificates"]
    return [row for row in told if row["name"] == name]


def test_a_key_never_leaves_the_machine_that_uses_it(bench: Path, sae: Sae) -> None:
    said = sae("request", "app3").stdout
    key = Path("sae-app3/next-key.pem")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    asked = Path("sae-app3/request.pem")
    assert b"PRIVATE" not in asked.read_bytes()
    mark = said.split("fingerprint: ")[1].split(";")[0]
    said = sae("approve", asked, "--testbed", "bench", "--yes").stdout
    assert f"fingerprint: {mark}" in said
    assert "for:         application app3, which draws keys at carol's node" in said
    assert b"PRIVATE" not in Path("sae-app3.pem").read_bytes()
    said = sae("install", "sae-app3.pem", "--yes").stdout
    assert Authority(bench / "secrets" / "authority").fingerprint in said
    assert sorted(path.name for path in key.parent.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    told = subprocess.run(
        ["openssl", "verify", "-purpose", "sslclient", "-CAfile", "sae-app3/ca.pem", "sae-app3/cert.pem"],
        capture_output=True,
        check=True,
    )
    assert b"OK" in told.stdout
    (row,) = listed(sae, "app3")
    assert row["fingerprint"] == mark
    assert (row["user"], row["state"], row["bits_per_day"]) == ("carol", "valid", 0)


def test_what_is_not_confirmed_is_not_signed_and_not_installed(
    bench: Path, sae: Sae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.confirm", lambda _: False)
    sae("request", "app3")
    assert "nothing was signed" in sae("approve", "sae-app3/request.pem", "--testbed", "bench", ends=1).stdout
    assert listed(sae, "app3") == []
    approved(sae)
    assert "not installed" in sae("install", "sae-app3.pem", ends=1).stdout
    assert not Path("sae-app3/ca.pem").exists()


def test_a_request_that_is_repeated_is_for_the_same_key(bench: Path, sae: Sae) -> None:
    marks = [sae("request", "app3").stdout.split("fingerprint: ")[1] for _ in range(2)]
    assert marks[0] == marks[1]


def test_a_second_approve_says_that_there_was_a_first(bench: Path, sae: Sae) -> None:
    approved(sae)
    said = sae("approve", "sae-app3/request.pem", "--testbed", "bench", "--yes", ends=2).stderr
    assert "was approved already" in said
    assert "qunetlab sae renew app3" in said
    assert len(listed(sae, "app3")) == 1


def test_a_request_for_nobody_of_the_file_or_with_another_name_is_refused(bench: Path, sae: Sae) -> None:
    sae("request", "app9")
    said = sae("approve", "sae-app9/request.pem", "--testbed", "bench", "--yes", ends=2).stderr
    assert "has no application 'app9', it has app1, app2, app3" in said
    approved(sae)
    Path("sae-app9").joinpath("x").write_bytes(Path("sae-app3.pem").read_bytes())
    said = sae("install", "sae-app3.pem", "--to", "sae-app9", "--yes", ends=2).stderr
    assert "no key in sae-app9 is the one" in said
    for name in ("", "../app", "a b", "x" * 64):
        assert "is no SAE id" in sae("request", name, ends=2).stderr


def test_a_request_that_was_changed_or_is_weak_or_none_is_refused(
    bench: Path, sae: Sae, tmp_path: Path
) -> None:
    def refusal(content: bytes) -> str:
        path = tmp_path / "request.pem"
        path.write_bytes(content)
        return str(sae("approve", path, "--testbed", "bench", "--yes", ends=2).stderr)

    der = bytearray(
        x509.load_pem_x509_csr(pem(make_request(make_key(), "app3", Holder.SAE))).public_bytes(
            certificates.serialization.Encoding.DER
        )
    )
    der[der.index(b"app3")] = ord("b")
    changed = x509.load_der_x509_csr(bytes(der))
    assert "not signed by the key that it names" in refusal(pem(changed))
    assert "no request for a certificate" in refusal(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n")
    assert "no request for a certificate" in refusal((bench / "secrets/sae-app1/cert.pem").read_bytes())
    for how, says in (("rsa:1024", "too short"), ("ed25519", "")):
        ran = subprocess.run(
            ["openssl", "req", "-new", "-newkey", how, "-nodes", "-subj", "/CN=app3", "-keyout", os.devnull],
            capture_output=True,
            check=True,
        )
        if says:
            assert says in refusal(ran.stdout)
        else:
            (tmp_path / "other.pem").write_bytes(ran.stdout)
            sae("approve", tmp_path / "other.pem", "--testbed", "bench", "--yes")
    ran = subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ed25519",
            "-nodes",
            "-subj",
            "/CN=app3/CN=app1",
            "-keyout",
            os.devnull,
        ],
        capture_output=True,
        check=True,
    )
    assert "has one common name" in refusal(ran.stdout)


def test_one_key_for_two_holders_is_refused(bench: Path, sae: Sae, tmp_path: Path) -> None:
    key = certificates.read_key(bench / "secrets" / "sae-app1" / "key.pem")
    assert isinstance(key, certificates.ec.EllipticCurvePrivateKey)
    (tmp_path / "request.pem").write_bytes(pem(make_request(key, "app3", Holder.SAE)))
    said = sae("approve", tmp_path / "request.pem", "--testbed", "bench", "--yes", ends=2).stderr
    assert "this key belongs to application app1" in said


def test_where_the_authority_is_not_it_says_where_it_is(bench: Path, sae: Sae) -> None:
    sae("request", "app3")
    shutil.move(bench / "secrets" / "authority", "elsewhere")
    for command in (
        ("approve", "sae-app3/request.pem", "--yes"),
        ("renew", "app1"),
        ("revoke", "app1"),
    ):
        assert "there is no authority in" in sae(*command, "--testbed", "bench", ends=2).stderr
    assert listed(sae, "app1")[0]["state"] == "valid", "what is here is listed"
    assert "The authority is on another machine" in sae("list", "--testbed", "bench").stdout


def test_a_certificate_of_another_authority_does_not_replace_one(
    bench: Path, sae: Sae, made: Path, tmp_path: Path
) -> None:
    sae("request", "app1", "--out", bench / "secrets" / "sae-app1")
    other = create_folder(
        tmp_path / "other", template_path("simulated-reference"), applications={"app1": "alice"}
    ).parent
    sae(
        "approve",
        bench / "secrets/sae-app1/request.pem",
        "--testbed",
        other,
        "--yes",
        "--out",
        tmp_path / "o.pem",
    )
    said = sae("install", tmp_path / "o.pem", "--to", bench / "secrets/sae-app1", "--yes", ends=2).stderr
    assert "if this testbed has a new authority, move" in said
    assert (bench / "secrets/sae-app1/cert.pem").read_bytes() == (
        made / "secrets/sae-app1/cert.pem"
    ).read_bytes()
    assert (bench / "secrets/sae-app1/key.pem").read_bytes() == (
        made / "secrets/sae-app1/key.pem"
    ).read_bytes()


def test_a_new_key_takes_the_place_of_the_old_one_when_its_certificate_arrives(bench: Path, sae: Sae) -> None:
    folder = bench / "secrets" / "sae-app1"
    before = (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    sae("request", "app1", "--out", folder)
    assert ((folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()) == before
    said = sae("approve", folder / "request.pem", "--testbed", "bench", "--yes").stdout
    assert "of another key holds until" in said
    sae("install", "sae-app1.pem", "--to", folder)
    assert not folder.joinpath("next-key.pem").exists()
    after = (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    assert after[0] != before[0]
    assert after[1] != before[1]
    certificates.check_pair(
        read_certificate(folder / "cert.pem"), certificates.read_key(folder / "key.pem"), ""
    )
    sae("install", "sae-app1.pem", "--to", folder)


def test_renewing_keeps_the_key_and_happens_here_where_its_holder_is_here(
    bench: Path, sae: Sae, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bench / "secrets" / "sae-app1"
    before = (folder / "key.pem").read_bytes(), read_certificate(folder / "cert.pem")
    monkeypatch.setattr("lab.cli.sae.utc_now", lambda: utc_now() + timedelta(days=300))
    said = sae("renew", "app1", "--testbed", "bench").stdout
    after = read_certificate(folder / "cert.pem")
    assert (folder / "key.pem").read_bytes() == before[0]
    assert after.not_valid_after_utc - before[1].not_valid_after_utc > timedelta(days=290)
    assert "The one before holds until" in said
    assert "has no certificate to renew" in sae("renew", "app3", "--testbed", "bench", ends=2).stderr
    approved(sae)
    assert "carry it to its holder" in sae("renew", "app3", "--testbed", "bench").stdout


def test_a_revoked_key_is_not_renewed_and_not_approved_again(bench: Path, sae: Sae) -> None:
    node = NodeCertificates.load(bench / "secrets" / "alice", "alice")
    serial = read_certificate(bench / "secrets/sae-app1/cert.pem").serial_number
    assert not node.revoked.is_revoked(serial)
    said = sae("revoke", "app1", "--testbed", "bench").stdout
    assert "in place for alice, bob, carol, dave" in said
    assert node.revoked.is_revoked(serial), "by a node that runs"
    assert [row["state"] for row in listed(sae, "app1")] == ["revoked"]
    assert "was revoked on" in sae("renew", "app1", "--testbed", "bench", ends=2).stderr
    assert "revoked or expired already" in sae("revoke", "app1", "--testbed", "bench", ends=2).stderr
    assert "it has no certificate" in sae("revoke", "app7", "--testbed", "bench", ends=2).stderr
    key = certificates.read_key(bench / "secrets" / "sae-app1" / "key.pem")
    assert isinstance(key, certificates.ec.EllipticCurvePrivateKey)
    Path("again.pem").write_bytes(pem(make_request(key, "app1", Holder.SAE)))
    said = sae("approve", "again.pem", "--testbed", "bench", "--yes", ends=2).stderr
    assert "this key was revoked on" in said


def test_one_certificate_of_several_is_revoked_by_its_number(bench: Path, sae: Sae) -> None:
    sae("renew", "app1", "--testbed", "bench")
    first, second = (row["serial"] for row in listed(sae, "app1"))
    said = sae("revoke", "app1", "--serial", first[:12], "--testbed", "bench").stdout
    assert f"STILL GOOD for the same key: {second}" in said
    assert {row["serial"]: row["state"] for row in listed(sae, "app1")} == {first: "revoked", second: "valid"}
    assert (
        "0 certificates of app1 begin with"
        in sae("revoke", "app1", "--serial", "zz", "--testbed", "bench", ends=2).stderr
    )


def test_nodes_elsewhere_get_the_list_carried_to_them(bench: Path, sae: Sae, tmp_path: Path) -> None:
    far = Path(shutil.copytree(bench, tmp_path / "far"))
    shutil.rmtree(far / "secrets" / "authority")
    for user in ("alice", "carol", "dave"):
        shutil.rmtree(far / "secrets" / user)
    shutil.rmtree(bench / "secrets" / "bob")
    made_before = (bench / "secrets" / "alice" / "kme-crl.pem").read_bytes()
    said = sae("revoke", "app2", "--testbed", "bench").stdout
    assert "NOT YET REFUSED by bob: carry" in said
    node = NodeCertificates.load(far / "secrets" / "bob", "bob")
    serial = read_certificate(bench / "secrets/sae-app2/cert.pem").serial_number
    assert not node.revoked.is_revoked(serial)
    carried = bench / "secrets" / "authority" / "crl.pem"
    assert "in place for bob" in sae("install", carried, "--testbed", far).stdout
    assert node.revoked.is_revoked(serial)
    older = authority_folder(bench / "secrets") / "older.pem"
    older.write_bytes(made_before)
    sae("revoke", "app1", "--testbed", "bench")
    sae("install", carried, "--testbed", far)
    assert "list 1 is older than list 3, which stays" in sae("install", older, "--testbed", far).stdout
    assert node.revoked.number == 3
    assert node.revoked.is_revoked(serial), "a later list has all of the earlier ones"
    older.write_bytes(carried.read_bytes()[:-80])
    assert "holds no list" in sae("install", older, "--testbed", far, ends=2).stderr


def test_a_node_makes_its_own_key_too(bench: Path, sae: Sae) -> None:
    folder = bench / "secrets" / "bob"
    before = (folder / "kme-key.pem").read_bytes()
    sae("request", "bob", "--kme", "--host", "bob.example", "--testbed", "bench")
    said = sae("approve", folder / "kme-request.pem", "--testbed", "bench", "--yes").stdout
    assert "for:         bob's node, which serves app2" in said
    assert "reached as:  bob, localhost, bob.example, 127.0.0.1, ::1" in said
    sae("install", "kme-bob.pem", "--testbed", "bench")
    assert (folder / "kme-key.pem").read_bytes() != before
    assert NodeCertificates.load(folder, "bob").until > utc_now()
    assert "bob.example" in listed(sae, "bob")[-1]["hosts"]
    sae("renew", "bob", "--kme", "--testbed", "bench")
    assert "bob.example" in listed(sae, "bob")[-1]["hosts"], "renewing keeps the names"
    assert "leave out --to" in sae("install", "kme-bob.pem", "--to", "x", "--testbed", "bench", ends=2).stderr
    assert "no user 'eve'" in sae("request", "eve", "--kme", "--testbed", "bench", ends=2).stderr
    shutil.rmtree(folder)
    assert "on another machine" in sae("request", "bob", "--kme", "--testbed", "bench", ends=2).stderr


GOOD, OTHER = "correct horse battery", "another long passphrase"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A testbed whose authority's key is sealed with ``GOOD``."""
    folder = tmp_path_factory.mktemp("sealed") / "bench"
    return create_folder(
        folder,
        template_path("simulated-reference"),
        applications={"app1": "alice"},
        authority_passphrase=lambda: GOOD,
    ).parent


def in_file(folder: Path, passphrase: str) -> str:
    path = folder / f"passphrase-{len(passphrase)}"
    path.touch(0o600)
    path.write_text(passphrase + "\n")
    return f"passphrase-file:{path}"


def test_a_sealed_authority_signs_for_nobody_without_the_passphrase(
    sealed: Path, sae: Sae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sealed, "bench")
    folder = Path("bench/secrets/authority")
    assert not (folder / "ca-key.pem").exists()
    for name in ("ca-key.sealed", "ca.passphrase"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert not any(b"PRIVATE" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    sae("request", "app1", "--out", "app1")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused: list[tuple[tuple[str, ...], str]] = [
        ((), "is sealed with a passphrase: give --authority-key passphrase"),
        (("--authority-key", in_file(tmp_path, OTHER)), "the passphrase is not the one that"),
        (("--authority-key", "passphrase"), "--authority-key passphrase asks at a terminal"),
        (("--authority-key", "passphrase-file:missing"), "cannot read the passphrase in missing"),
        (
            ("--authority-key", "credential"),
            "--authority-key 'credential': give file (open, 0600), passphrase",
        ),
    ]
    for option, says in refused:
        said = sae("approve", "app1/request.pem", "--yes", "--testbed", "bench", *option, ends=2).stderr
        assert says in said
    for command in ("renew", "revoke"):
        assert refused[0][1] in sae(command, "app1", "--testbed", "bench", ends=2).stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert listed(sae, "app1")[0]["state"] == "valid", "what is signed is read without the key"
    key = ("--authority-key", in_file(tmp_path, GOOD))
    sae("approve", "app1/request.pem", "--yes", "--testbed", "bench", *key)
    sae("renew", "app1", "--testbed", "bench", *key)
    assert "in place for alice" in sae("revoke", "app1", "--testbed", "bench", *key).stdout
    assert {row["state"] for row in listed(sae, "app1")} == {"revoked"}


def test_a_sealed_key_that_was_changed_is_told(
    sealed: Path, sae: Sae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sealed, "bench")
    path, key = Path("bench/secrets/authority/ca-key.sealed"), ("--authority-key", in_file(tmp_path, GOOD))
    whole = path.read_bytes()
    for changed, says in (
        (whole[: len(whole) // 2], "is damaged"),
        (whole.replace(b'"format":1', b'"format":2'), "has format 2"),
        (whole[:-6] + b'AA=="}', "was altered"),
    ):
        path.write_bytes(changed)
        assert says in sae("renew", "app1", "--testbed", "bench", *key, ends=2).stderr
    path.write_bytes(whole)
    path.chmod(0o604)
    assert "has mode 0604" in sae("renew", "app1", "--testbed", "bench", *key, ends=2).stderr


def test_an_authority_is_sealed_as_it_is_made(bench: Path, sae: Sae, qunetlab: Any, tmp_path: Path) -> None:
    key = ("--authority-key", in_file(tmp_path, GOOD))
    said = sae("renew", "app1", "--testbed", "bench", *key, ends=2).stderr
    assert "is not sealed: leave out --authority-key" in said
    shutil.rmtree(bench / "secrets" / "authority")
    for path in bench.glob("secrets/*/kme-*"):
        path.unlink()
    short = ("--authority-key", in_file(tmp_path, "short"))
    assert "at least 12 characters" in sae("authority", "--testbed", "bench", *short, ends=2).stderr
    assert "(sealed)" in sae("authority", "--testbed", "bench", *key).stdout
    NodeCertificates.load(bench / "secrets" / "dave", "dave")
    made = qunetlab("init", str(tmp_path / "new"), "--sae", "app1@alice", *key)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "new/secrets/authority/ca-key.sealed").exists()
    assert (tmp_path / "new/secrets/sae-app1/cert.pem").exists()


def test_an_open_authority_is_sealed_later(bench: Path, sae: Sae, tmp_path: Path) -> None:
    folder = bench / "secrets" / "authority"
    whole = (folder / "ca-key.pem").read_bytes()
    good, other = (("--authority-key", in_file(tmp_path, each)) for each in (GOOD, OTHER))
    short = ("--authority-key", in_file(tmp_path, "short"))
    assert "at least 12 characters" in sae("seal", "--testbed", "bench", *short, ends=2).stderr
    assert (
        "give --authority-key passphrase"
        in sae("seal", "--testbed", "bench", "--authority-key", "file", ends=2).stderr
    )
    assert (folder / "ca-key.pem").read_bytes() == whole
    sae("renew", "app1", "--testbed", "bench")
    assert "the open key is destroyed" in sae("seal", "--testbed", "bench", *good).stdout
    assert not list(folder.glob("ca-key.pem*"))
    assert "is sealed already" in sae("seal", "--testbed", "bench", *good, ends=2).stderr
    create_file(folder / "ca-key.pem", whole, 0o600)  # as if a sealing had been interrupted
    assert "is not the one" in sae("seal", "--testbed", "bench", *other, ends=2).stderr
    assert (folder / "ca-key.pem").exists()
    sae("seal", "--testbed", "bench", *good)
    assert not (folder / "ca-key.pem").exists()
    assert "is sealed with a passphrase" in sae("renew", "app1", "--testbed", "bench", ends=2).stderr
    sae("renew", "app1", "--testbed", "bench", *good)


def test_a_new_authority_takes_the_place_of_one_that_was_moved_away(
    bench: Path, sae: Sae, tmp_path: Path
) -> None:
    folder = bench / "secrets" / "bob"
    other = create_folder(tmp_path / "other", template_path("simulated-reference")).parent
    sae("request", "bob", "--kme", "--testbed", "bench")
    sae("approve", folder / "kme-request.pem", "--testbed", other, "--yes")
    assert "move" in sae("install", "kme-bob.pem", "--testbed", "bench", "--yes", ends=2).stderr
    (folder / "kme-ca.pem").unlink()
    sae("install", "kme-bob.pem", "--testbed", "bench", "--yes")
    assert NodeCertificates.load(folder, "bob").revoked.number == 1


def test_a_request_whose_extension_stands_twice_is_refused(bench: Path, sae: Sae, tmp_path: Path) -> None:
    config = tmp_path / "twice.cnf"
    config.write_text(
        "[req]\ndistinguished_name=dn\nreq_extensions=ext\nprompt=no\n[dn]\nCN=app3\n"
        "[ext]\nextendedKeyUsage=clientAuth\n1.2.3.4=ASN1:NULL\n1.2.3.5=ASN1:NULL\n"
    )
    path = tmp_path / "request.pem"
    key = tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ed25519",
            "-nodes",
            "-config",
            config,
            "-keyout",
            key,
            "-out",
            path,
        ],
        capture_output=True,
        check=True,
    )
    path.write_bytes(signed_anew(path, key, {bytes.fromhex("06032a0305"): bytes.fromhex("06032a0304")}))
    said = sae("approve", path, "--testbed", "bench", "--yes", ends=2).stderr
    assert "stands there twice" in said


def signed_anew(path: Path, key: Path, changed: dict[bytes, bytes]) -> bytes:
    """A request with bytes of it changed, and a signature (Ed25519, the last 64 bytes) that fits them."""
    request = x509.load_pem_x509_csr(path.read_bytes())
    signer = certificates.read_key(key)
    assert isinstance(signer, certificates.ed25519.Ed25519PrivateKey)
    inner = request.tbs_certrequest_bytes
    whole = request.public_bytes(certificates.serialization.Encoding.DER)
    after = inner
    for one, other in changed.items():
        after = after.replace(one, other)
    whole = whole.replace(inner, after)[:-64] + signer.sign(after)
    return pem(x509.load_der_x509_csr(whole))


def test_a_testbed_that_never_had_an_authority_gets_one_once(bench: Path, sae: Sae) -> None:
    assert "holds an authority already" in sae("authority", "--testbed", "bench", ends=2).stderr
    shutil.rmtree(bench / "secrets" / "authority")
    for path in bench.glob("secrets/*/kme-*"):
        path.unlink()
    said = sae("authority", "--testbed", "bench").stdout
    assert said.count("made") == 4
    NodeCertificates.load(bench / "secrets" / "dave", "dave")


def test_a_key_open_to_others_and_a_folder_that_cannot_be_written_are_told(
    bench: Path, sae: Sae, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bench / "secrets" / "authority" / "ca-key.pem"
    key.chmod(0o604)
    said = sae("revoke", "app1", "--testbed", "bench", ends=2).stderr
    assert "ca-key.pem has mode 0604" in said
    key.chmod(0o600)
    sae("request", "app3")
    Path("sae-app3/next-key.pem").chmod(0o640)
    assert "has mode 0640" in sae("request", "app3", ends=2).stderr

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(bench / "secrets" / "authority" / "issued"))

    monkeypatch.setattr("lab.runs.certificates.authority.create_file", refuse)
    Path("sae-app3/next-key.pem").chmod(0o600)
    said = sae("approve", "sae-app3/request.pem", "--testbed", "bench", "--yes", ends=1).stderr
    assert "issued: Permission denied" in said
    assert not Path("sae-app3.pem").exists()


def test_a_certificate_that_expired_or_was_cut_short_is_not_installed(
    bench: Path, sae: Sae, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = approved(sae)
    with monkeypatch.context() as patch:
        patch.setattr("lab.cli.sae.utc_now", lambda: utc_now() + timedelta(days=366))
        assert "expired on" in sae("install", file, "--yes", ends=2).stderr
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole.replace(b"CERTIFICATE", b"SOMETHING"), whole[:-100]):
        file.write_bytes(content)
        sae("install", file, "--yes", ends=2)
    assert "cannot read gone.pem" in sae("install", "gone.pem", ends=2).stderr
    assert not Path("sae-app3/cert.pem").exists()


def test_a_node_that_moved_needs_a_certificate_with_its_new_name(
    bench: Path, sae: Sae, qunetlab: Any
) -> None:
    file = bench / "testbed.toml"
    file.write_text(
        file.read_text().replace('\nname = "bob"', '\nname = "bob"\netsi014 = "kme.example:47700"', 1)
    )
    (told,) = json.loads(qunetlab("check", "bench", "--json").stdout)["certificates"]
    assert "kme-cert.pem does not name kme.example" in told
    sae("renew", "bob", "--kme", "--testbed", "bench")
    assert json.loads(qunetlab("check", "bench", "--json").stdout)["certificates"] == []


def test_check_tells_what_expires_soon(bench: Path, qunetlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = qunetlab("check", "bench", "--json")
    assert json.loads(said.stdout)["certificates"] == []
    monkeypatch.setattr("lab.runs.certificates.here.utc_now", lambda: utc_now() + timedelta(days=350))
    told = json.loads(qunetlab("check", "bench", "--json").stdout)["certificates"]
    assert len(told) == 6
    assert "warning: the certificate of alice" in qunetlab("check", "bench").stdout
    rows = json.loads(qunetlab("doctor", "bench", "--json").stdout)["rows"]
    assert [row["verdict"] for row in rows if row["name"] == "certificates"] == ["warning"] * 6
