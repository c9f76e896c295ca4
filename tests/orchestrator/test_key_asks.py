"""Requests of ETSI GS QKD 014 as bytes: what is asked, and what is refused with which status and words."""

from __future__ import annotations

import json

import pytest

from lab.key_delivery import SAE_ID_CHARACTERS, SAE_ID_RULE
from orchestrator.delivery.http.asks import (
    MANDATORY_UNSUPPORTED,
    Ask,
    KeyRequestRefusedError,
    KeysAskedAsMaster,
    KeysAskedAsSlave,
    StatusAsked,
    ask_of,
    place_of,
)

ID = "bc490419-7d60-487f-adc1-4ddcc177c139"
OTHER_ID = "0a782fb5-3434-48fe-aa4d-14f41d46cf92"


def ask(method: str, target: str, body: bytes = b"", content_type: str | None = "application/json") -> Ask:
    return ask_of(method, place_of(method, target), content_type, body)


def refused(
    method: str, target: str, body: bytes = b"", content_type: str | None = "application/json"
) -> KeyRequestRefusedError:
    with pytest.raises(KeyRequestRefusedError) as caught:
        ask(method, target, body, content_type)
    return caught.value


def enc(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_what_the_standard_has() -> None:
    assert ask("GET", "/api/v1/keys/app2/status") == StatusAsked("app2")
    assert ask("GET", "/api/v1/keys/app2/enc_keys") == KeysAskedAsMaster("app2", None, None)
    assert ask("GET", "/api/v1/keys/app2/enc_keys?number=3&size=512") == KeysAskedAsMaster("app2", 3, 512)
    assert ask("POST", "/api/v1/keys/app2/enc_keys", b"", None) == KeysAskedAsMaster("app2", None, None)
    assert ask("POST", "/api/v1/keys/app2/enc_keys", b"{}") == KeysAskedAsMaster("app2", None, None)
    assert ask("POST", "/api/v1/keys/app2/enc_keys", enc(number=20, size=256)) == KeysAskedAsMaster(
        "app2", 20, 256
    )
    assert ask("POST", "/api/v1/keys/app2/enc_keys", b'{"size": 256.0}') == KeysAskedAsMaster(
        "app2", None, 256
    )
    assert ask("GET", f"/api/v1/keys/app2/dec_keys?key_ID={ID.upper()}") == KeysAskedAsSlave(
        "app2", (ID.upper(),)
    )
    both = enc(key_IDs=[{"key_ID": OTHER_ID}, {"key_ID": ID, "key_ID_extension": {"a": 1}}])
    assert ask("POST", "/api/v1/keys/app2/dec_keys", both) == KeysAskedAsSlave("app2", (OTHER_ID, ID))


def test_what_may_stand_in_a_request_without_meaning_anything() -> None:
    body = enc(
        additional_slave_SAE_IDs=[],
        extension_mandatory=[],
        extension_optional=[{"vendor": {"deep": [1, 2.5]}}],
    )
    assert ask("POST", "/api/v1/keys/app2/enc_keys", body) == KeysAskedAsMaster("app2", None, None)
    long = b'{"extension_optional": [{"x": ' + b"9" * 5000 + b"}]}"
    assert ask("POST", "/api/v1/keys/app2/enc_keys", long) == KeysAskedAsMaster("app2", None, None)
    assert ask("GET", "https://kme:8443/api/v1/keys/app2/status") == StatusAsked("app2")
    assert ask("POST", "/api/v1/keys/app2/enc_keys", b"{}", "Application/JSON; charset=utf-8")


def test_a_master_may_refuse_relayed_keys() -> None:
    def route(*mandatory: object) -> Ask:
        return ask("POST", "/api/v1/keys/app2/enc_keys", enc(extension_mandatory=mandatory))

    assert route({"qunetlab_route_type": "direct"}) == KeysAskedAsMaster("app2", None, None, False)
    assert route({"qunetlab_route_type": "any"}) == KeysAskedAsMaster("app2", None, None, True)
    assert route({}, {"qunetlab_route_type": "direct"}) == KeysAskedAsMaster("app2", None, None, False)
    both = {"qunetlab_route_type": "any"}, {"qunetlab_route_type": "direct"}
    assert route(*both) == KeysAskedAsMaster("app2", None, None, False), "direct is one of any"
    assert route({}) == KeysAskedAsMaster("app2", None, None, True)
    optional = enc(extension_optional=[{"qunetlab_route_type": "direct"}])
    assert ask("POST", "/api/v1/keys/app2/enc_keys", optional) == KeysAskedAsMaster("app2", None, None, True)


@pytest.mark.parametrize(
    "mandatory",
    [
        [{"qunetlab_route_type": "Direct"}],
        [{"qunetlab_route_type": True}],
        [{"qunetlab_route_type": None}],
        [{"qunetlab_route_type": ["direct"]}],
        [{"qunetlab_route_type": "direct", "other": 1}],
        [{"qunetlab_route_type": "direct"}, {"other": 1}],
        [{"route_type": "direct"}],
    ],
)
def test_what_is_mandatory_and_not_known_is_refused(mandatory: list[object]) -> None:
    told = refused("POST", "/api/v1/keys/app2/enc_keys", enc(extension_mandatory=mandatory))
    assert (told.status, told.message) == (400, MANDATORY_UNSUPPORTED)
    assert "qunetlab_route_type" in told.details[0]


def test_an_sae_id_may_be_written_in_percents() -> None:
    assert ask("GET", "/api/v1/keys/app%2D%32/status") == StatusAsked("app-2")


def test_an_sae_id_is_what_a_testbed_file_may_name() -> None:
    longest = "a" * SAE_ID_CHARACTERS
    assert ask("GET", f"/api/v1/keys/{longest}/status") == StatusAsked(longest)
    for none in (f"{longest}a", "", "-a", "a%2Fb", "a%20b", "%C3%A9", "%FF", "a%ZZ", "a%00b", "app2%0A"):
        found = refused("GET", f"/api/v1/keys/{none}/status")
        assert (found.status, SAE_ID_RULE in found.message) == (400, True)


@pytest.mark.parametrize(
    "target",
    [
        *("/", "/api/v1/keys", "/api/v1/keys/", "/api/v1/keys/app2", "/api/v1/keys/app2/", "/api/v2/keys/app2/status"),
        *("/api/v1/keys/app2/status/", "/api/v1/keys/a/b/status", "/api/v1/keys/app2/Status", "*"),
        *("/api/v1/keys/app2/enc%5Fkeys", "//api/v1/keys/app2/status", "/x/../api/v1/keys/app2/status"),
    ],
)  # fmt: skip
def test_elsewhere_is_nothing(target: str) -> None:
    assert refused("GET", target).status == 404


@pytest.mark.parametrize(
    ("method", "endpoint", "allowed"),
    [
        ("POST", "status", "GET"),
        ("HEAD", "status", "GET"),
        ("PUT", "enc_keys", "GET, POST"),
        ("DELETE", "dec_keys", "GET, POST"),
        ("get", "status", "GET"),
    ],
)
def test_another_method_is_told_which_there_are(method: str, endpoint: str, allowed: str) -> None:
    found = refused(method, f"/api/v1/keys/app2/{endpoint}")
    assert (found.status, found.headers) == (405, (("Allow", allowed),))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/api/v1/keys/app2/status?verbose=1", "takes none"),
        ("/api/v1/keys/app2/enc_keys?sice=64", "takes number and size"),
        ("/api/v1/keys/app2/enc_keys?size=64&size=128", "twice"),
        ("/api/v1/keys/app2/enc_keys?size", "cannot be read"),
        ("/api/v1/keys/app2/enc_keys?size=%FF", "cannot be read"),
        ("/api/v1/keys/app2/enc_keys?size=", "integer"),
        ("/api/v1/keys/app2/enc_keys?size=12.5", "integer"),
        ("/api/v1/keys/app2/enc_keys?size=%D9%A3", "integer"),
        ("/api/v1/keys/app2/enc_keys?size=+8", "integer"),
        (f"/api/v1/keys/app2/enc_keys?number={'9' * 5000}", "integer"),
        (f"/api/v1/keys/app2/dec_keys?key_ID={ID}&key_ID={OTHER_ID}", "twice"),
    ],
)
def test_a_get_that_can_never_be_granted(target: str, words: str) -> None:
    found = refused("GET", target)
    assert found.status == 400
    assert words in found.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (enc(size="256"), "got `str` - at `$.size`"),
        (enc(number="1"), "got `str` - at `$.number`"),
        (enc(number=True), "got `bool`"),
        (enc(number=1.5), "number shall be an integer"),
        (enc(number=None), "got `null`"),
        (b'{"size": 1' + b"0" * 5000 + b"}", ""),
        (enc(additional_slave_SAE_IDs=["app4"]), "additional_slave_SAE_IDs"),
        (enc(additional_slave_SAE_IDs="app4"), "`array`, got `str`"),
        (enc(extension_mandatory=[{"x": 1}]), MANDATORY_UNSUPPORTED),
        (enc(extension_mandatory={"x": 1}), "`array`, got `object`"),
        (enc(extension_optional=[1]), "`object`, got `int`"),
        (enc(numbers=2), "a field that is none of number, size"),
        (b"[]", "`object`, got `array`"),
        (b"null", "`object`, got `null`"),
        (b'{"number": 1', "not JSON"),
        (b'{"number": 1} x', "not JSON"),
        (b"{'number': 1}", "not JSON"),
        (b'{"number": NaN}', "not JSON"),
        (b'{"extension_optional": [{"x": Infinity}]}', "not JSON"),
        (b'{"number": 1, "number": 100}', "twice"),
        (b'{"extension_optional": [{"x": {"y": 1, "y": 2}}]}', "twice"),
        (b'{"extension_optional": [{"\xff": 1}]}', ""),
        (b'{"extension_optional": [{"x": "\xff"}]}', ""),
        ("{}".encode("utf-16"), ""),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"extension_optional": [{"x": ' + b"[" * 30000 + b"]" * 30000 + b"}]}", "nested"),
        (b"[" * 60000, ""),
    ],
)
def test_a_post_for_keys_that_can_never_be_granted(body: bytes, words: str) -> None:
    found = refused("POST", "/api/v1/keys/app2/enc_keys", body)
    assert found.status == 400
    assert words in " ".join([found.message, *found.details])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"{}", "key_IDs"),
        (enc(key_IDs=[ID]), "`object`, got `str`"),
        (enc(key_IDs=[{}]), "key_ID"),
        (enc(key_IDs=[{"key_ID": 5}]), "`str`, got `int`"),
        (enc(key_IDs=[{"key_ID": ID}], size=256), "key_IDs"),
    ],
)
def test_a_post_with_key_ids_that_can_never_be_granted(body: bytes, words: str) -> None:
    found = refused("POST", "/api/v1/keys/app2/dec_keys", body)
    assert found.status == 400
    assert words in " ".join([found.message, *found.details])


def test_what_the_desk_is_to_judge_reaches_it_as_it_was_asked() -> None:
    for number, size in ((0, -8), (10**15, 12), (1, 2**40)):
        asked = KeysAskedAsMaster("app2", number, size)
        assert ask("GET", f"/api/v1/keys/app2/enc_keys?number={number}&size={size}") == asked
        assert ask("POST", "/api/v1/keys/app2/enc_keys", enc(number=number, size=size)) == asked
    assert ask("POST", "/api/v1/keys/app2/enc_keys", enc(size=1e300)) == KeysAskedAsMaster(
        "app2", None, int(1e300)
    )
    for ids in ((), ("x",), (ID, ID.upper())):
        body = enc(key_IDs=[{"key_ID": each} for each in ids])
        assert ask("POST", "/api/v1/keys/app2/dec_keys", body) == KeysAskedAsSlave("app2", ids)


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_says_that_it_is_json(content_type: str | None) -> None:
    found = refused("POST", "/api/v1/keys/app2/enc_keys", b"{}", content_type)
    assert (found.status, found.message) == (400, "Content-Type shall be application/json")


def test_parameters_stand_where_the_method_has_them() -> None:
    assert "no body" in refused("GET", "/api/v1/keys/app2/enc_keys", b"{}").message
    assert "in its body" in refused("POST", "/api/v1/keys/app2/enc_keys?number=2").message


def test_a_refusal_repeats_nothing_of_the_request() -> None:
    for body in (enc(planted=1), enc(number="planted"), enc(key_IDs=["planted"])):
        for endpoint in ("enc_keys", "dec_keys"):
            found = refused("POST", f"/api/v1/keys/planted/{endpoint}", body)
            assert "planted" not in " ".join([found.message, *found.details])
