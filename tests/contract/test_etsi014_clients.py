"""Keys by ETSI GS QKD 014 as others draw them: their clients unchanged, before two nodes with real stores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_keys import ServedKeys, served_keys

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedKeys]:
    with served_keys(tmp_path_factory.mktemp("served"), blocks=8) as served:
        yield served


def test_the_client_of_lip6(served: ServedKeys) -> None:
    """``etsi-qkd-014-client``, of Sorbonne Université."""
    from etsi_qkd_014_client import QKD014Client

    master = QKD014Client(served.alice.removeprefix("https://"), *served.files("app1"))
    slave = QKD014Client(served.bob.removeprefix("https://"), *served.files("app2"))
    code, status = master.get_status("app2")
    assert (code, status.source_kme_id, status.target_kme_id) == (200, "alice", "bob")
    assert (status.master_sae_id, status.slave_sae_id, status.key_size) == ("app1", "app2", 256)
    code, one = master.get_key("app2")
    assert (code, len(one.keys)) == (200, 1)
    code, some = master.get_key("app2", number=5, size=512)
    assert (code, len(some.keys)) == (200, 5)
    ids = [each.key_id for each in some.keys]
    code, copies = slave.get_key_with_key_IDs("app1", ids)
    assert code == 200
    assert [(each.key_id, each.key) for each in copies.keys] == [
        (each.key_id, each.key) for each in some.keys
    ]
    code, again = slave.get_key_with_key_IDs("app1", ids[:1])
    assert (code, again.message) == (400, "one or more keys specified are not found on KME")
    code, odd = master.get_key("app2", number=1, size=257)
    assert (code, odd.message) == (400, "size shall be a multiple of 8")
    stranger = QKD014Client(served.bob.removeprefix("https://"), *served.files("app3"))
    assert stranger.get_key_with_key_IDs("app1", [one.keys[0].key_id])[0] in (400, 401)
    assert slave.get_key_with_key_IDs("app1", [one.keys[0].key_id])[0] == 200


DEPARTS = {
    "dec_keys_roundtrip": "it fetches the copy at the master's node as the master: section 5.3 gives it to the slave alone",
    "error_contract_404": "it wants 404 for an unknown key; table 8 of section 5.3 has 400 and no 404",
}
"""Where the probes of ``qkdsec`` depart from the standard; docs/keys-to-applications.md says it, too."""


def test_the_probes_of_qkdsec(served: ServedKeys) -> None:
    """Eight of ten; the other two ask for what the standard forbids."""
    from qkdsec.client import ETSI014Client
    from qkdsec.doctor import run_all

    certificate, key, authority = served.files("app1")
    with ETSI014Client(served.alice, client_cert=(certificate, key), verify=authority) as client:
        report = run_all(client, slave_sae_id="app2")
    found = {each.name: each.status.value for each in report.results}
    assert len(found) == 10
    assert {name for name, status in found.items() if status != "pass"} == set(DEPARTS)
    refused = {each.name: each for each in report.results if each.name in DEPARTS}
    assert refused["error_contract_404"].details["http_status"] == 400
    assert "HTTP 40" in refused["dec_keys_roundtrip"].summary, refused


def test_curl(served: ServedKeys) -> None:
    certificate, key, authority = served.files("app1")
    proof = ["--cert", certificate, "--key", key, "--cacert", authority]
    asked = ["--json", '{"number": 2, "size": 128}', f"{served.alice}/api/v1/keys/app2/enc_keys"]
    ran = subprocess.run(
        ["curl", "--silent", *proof, *asked],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert len(json.loads(ran.stdout)["keys"]) == 2


def test_the_example_of_the_page(served: ServedKeys) -> None:
    example = Path(__file__).resolve().parents[2] / "docs" / "scripts" / "draw_keys.py"
    folders = (served.secrets / f"sae-{name}" for name in ("app1", "app2"))
    ran = subprocess.run(
        [sys.executable, str(example), served.alice, served.bob, *map(str, folders)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout == "3 keys of 256 bits at app1 and app2, alike: True\n"
