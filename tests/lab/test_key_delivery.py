"""What a testbed file says about applications and the keys that they draw, and its mistakes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from lab.calibration.book import fingerprint
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, TestbedError, parse_testbed


def content(sae: dict[str, Any] | None = None, **delivery: Any) -> dict[str, Any]:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["sae"] = {"app1": {"user": "alice"}, "app2": {"user": "bob"}} if sae is None else sae
    data["key_delivery"] = {"otp_per_1024": 128, **delivery}
    return data


def parsed(data: dict[str, Any]) -> Testbed:
    return parse_testbed(data, Path("testbed.toml"))


def mistakes(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(TestbedError) as caught:
        parsed(data)
    return dict(caught.value.problems)


def test_each_application_is_served_by_the_node_of_one_user() -> None:
    testbed = parsed(
        content({name: {"user": "bob"} for name in ("app2", "SAE_3")} | {"a": {"user": "carol"}})
    )
    assert testbed.applications_of("bob") == ("app2", "SAE_3")
    assert testbed.applications_of("alice") == ()
    assert testbed.sae["a"].bits_per_day == 10_000_000


def test_a_file_without_applications_keeps_no_key_back_for_them() -> None:
    data = content({})
    del data["key_delivery"], data["sae"]
    testbed = parsed(data)
    assert (testbed.sae, testbed.key_delivery.otp_per_1024) == ({}, 0)


def test_applications_are_no_part_of_what_makes_a_ring_this_ring() -> None:
    assert fingerprint(content()) == fingerprint(content({}))


def test_an_application_of_nobody_is_told_with_the_users() -> None:
    found = mistakes(content({"app1": {"user": "alise"}}))
    assert found == {"sae.app1.user": "no user 'alise'; users are alice, bob, carol, dave"}


def test_applications_need_a_share_of_every_block() -> None:
    found = mistakes(content(otp_per_1024=0))
    assert "0 leaves no key for app1, app2" in found["key_delivery.otp_per_1024"]


@pytest.mark.parametrize(
    ("delivery", "place"),
    [
        ({"key_size_bits": 100}, "key_delivery.key_size_bits"),
        ({"key_size_bits": 32}, "key_delivery.key_size_bits"),
        ({"key_size_bits": 65544}, "key_delivery.key_size_bits"),
        ({"otp_per_1024": 257}, "key_delivery.otp_per_1024"),
        ({"max_keys_per_request": 0}, "key_delivery.max_keys_per_request"),
        ({"key_waits_s": 0.0}, "key_delivery.key_waits_s"),
        ({"key_wait_s": 1.0}, "key_delivery.key_wait_s"),
    ],
)
def test_what_no_request_could_fit_is_refused_with_its_place(delivery: dict[str, Any], place: str) -> None:
    assert place in mistakes(content(**delivery))


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "..", "x" * 64, "\u00e4"])
def test_a_name_that_fits_no_path_or_certificate_is_refused(name: str) -> None:
    assert [place for place in mistakes(content({name: {"user": "alice"}})) if place.startswith("sae")]


def test_two_applications_differ_by_more_than_capital_letters() -> None:
    found = mistakes(content({"App": {"user": "alice"}, "app": {"user": "bob"}}))
    assert set(found) == {"sae.App", "sae.app"}


@pytest.mark.parametrize("where", ["localhost", "localhost:0", "https://localhost:1", "tcp://h:1", ""])
def test_where_a_node_serves_is_host_and_port(where: str) -> None:
    data = content()
    data["users"][1]["etsi014"] = where
    assert "write HOST:PORT, or auto" in mistakes(data)["users[1].etsi014"]
    data["users"][1]["etsi014"] = "localhost:47700"
    assert parsed(data).user("bob").etsi014 == "localhost:47700"
