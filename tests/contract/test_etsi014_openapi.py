"""The description of key delivery in OpenAPI is what the server does: schemathesis asks whatever it can think of."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from served_keys import served_keys

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = ROOT / "docs" / "etsi014.openapi.json"

EXPECTED = """
[parameters]
"path.slave_SAE_ID" = "app2"
"path.master_SAE_ID" = "app2"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]  # the standard's word for: not enough key

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 503]

[[operations]]
include-path-regex = "dec_keys"
[operations.checks.positive_data_acceptance]
expected-statuses = [400]  # the standard's word for a key that is unknown: each of these ids is made up
"""


def test_the_description_is_what_its_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "docs/scripts/openapi.py"))
    assert DESCRIPTION.read_text(encoding="utf-8") == script["page"](), (
        "python docs/scripts/openapi.py writes it anew"
    )


def test_the_description_has_the_standards_paths_and_names() -> None:
    told = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    assert {path: sorted({*entry} - {"parameters"}) for path, entry in told["paths"].items()} == {
        "/api/v1/keys/{slave_SAE_ID}/status": ["get"],
        "/api/v1/keys/{slave_SAE_ID}/enc_keys": ["get", "post"],
        "/api/v1/keys/{master_SAE_ID}/dec_keys": ["get", "post"],
    }
    assert told["components"]["schemas"]["Status"]["required"] == [
        *("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID"),
        *("stored_key_count", "max_key_count", "max_key_per_request"),
        *("key_size", "max_key_size", "min_key_size", "max_SAE_ID_count"),
    ]


@pytest.mark.parametrize("examples", [8, pytest.param(1000, marks=pytest.mark.long)])
def test_schemathesis_finds_nothing(tmp_path: Path, examples: int) -> None:
    rules = tmp_path / "schemathesis.toml"
    rules.write_text(EXPECTED, encoding="utf-8")
    with served_keys(tmp_path) as served:
        certificate, key, authority = served.files("app1")
        proof = ["--request-cert", certificate, "--request-cert-key", key, "--tls-verify", authority]
        how = ["--max-examples", str(examples), "--generation-deterministic", "--no-color"]
        program = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(rules), "run"]
        ran = subprocess.run(
            [*program, str(DESCRIPTION), "--url", served.alice, *proof, *how],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=500,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "5 passed" in ran.stdout
    assert "Tested: 5" in ran.stdout
