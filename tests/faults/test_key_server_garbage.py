"""A hostile application with a good certificate: whatever bytes it sends over TLS get one answer of HTTP or the end of its connection.

After each, the server serves others, nothing inside it failed, and no key moved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from key_desks_in_memory import DeskInMemory, linked_desks
from key_servers import Site, all_of, authority_in, served
from own_certificates import Authority, Credentials

from orchestrator.events.delivery import KeyServerFault

ENC, DEC, STATUS = "/api/v1/keys/app2/enc_keys", "/api/v1/keys/app2/dec_keys", "/api/v1/keys/app2/status"
ID = "bc490419-7d60-487f-adc1-4ddcc177c139"
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority_in(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def app1(authority: Authority) -> Credentials:
    return authority.sae("app1")


@pytest.fixture
def desk() -> DeskInMemory:
    return linked_desks()[0]


@pytest.fixture
def site(authority: Authority, app1: Credentials, desk: DeskInMemory) -> Iterator[Site]:
    with served(authority, desk, body_s=1.0) as site:
        yield site
        assert site.ask(app1, "GET", STATUS).status == 200
        assert not [event for event in site.told.events if isinstance(event, KeyServerFault)]


def statuses(site: Site, app1: Credentials, sent: bytes) -> list[int]:
    """Of everything that is answered to ``sent``, after which the caller says no more."""
    with site.raw(app1) as secured:
        secured.sendall(sent)
        return [int(each) for each in ANSWER.findall(all_of(secured))]


def request(
    body: bytes = b"",
    path: str = ENC,
    method: str = "POST",
    more: str = "Content-Type: application/json\r\n",
    version: str = "1.1",
) -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/{version}\r\nHost: kme\r\nConnection: close\r\n{length}{more}\r\n"
    return head.encode("latin-1") + body


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf{}",
        b'{"number": 1}\xff',
        b'{"number": 1} {"number": 2}',
        b'{"number": 1},',
        b'{"number": 1, "number": 2}',
        b'{"number": 1, "\\u006eumber": 2}',
        b'{"extension_optional": [{"a": {"b": 1, "b": 2}}]}',
        b'{"number": NaN}',
        b'{"extension_optional": [{"a": NaN}]}',
        b'{"extension_optional": [{"a": Infinity}]}',
        b'{"number": 1e400}',
        b'{"number": 1.5}',
        b'{"number": true}',
        b'{"number": "1"}',
        b'{"number": null}',
        b'{"number": 0}',
        b'{"number": -0.0}',
        b'{"number": -1}',
        b'{"number": 9223372036854775808}',
        b'{"number": 18446744073709551617}',
        b'{"number": ' + b"9" * 6000 + b"}",
        b'{"size": 1e9}',
        b'{"size": 12}',
        b'{"size": 8}',
        b'{"additional_slave_SAE_IDs": ["app4"]}',
        b'{"additional_slave_SAE_IDs": "app4"}',
        b'{"extension_mandatory": [{"x": 1}]}',
        b'{"extension_mandatory": [1]}',
        b'{"extension_mandatory": [{"\\ud800": 1}]}',
        b'{"extension_optional": ' + b"[" * 60_000 + b"]" * 60_000 + b"}",
        b'{"extension_optional": [' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"]}",
        b'{"unknown": 1}',
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b" ",
        b"\x00",
        b"{'number': 1}",
        b'{"number": 01}',
        b'{"number": 1}\x00',
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1",
        "{}".encode("utf-16"),
    ],
)
def test_bodies_that_are_no_key_request(
    site: Site, app1: Credentials, desk: DeskInMemory, body: bytes
) -> None:
    assert statuses(site, app1, request(body)) == [400]
    assert desk.link.waiting == {}


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [{}],
        [{"key_ID": ""}],
        [{"key_ID": f"{{{ID}}}"}],
        [{"key_ID": f"urn:uuid:{ID}"}],
        [{"key_ID": ID.replace("-", "")}],
        [{"key_ID": ID + " "}],
        [{"key_ID": ID + "\n"}],
        [{"key_ID": ID.replace("b", "ｂ")}],
        [{"key_ID": ID}, {"key_ID": ID}],
        [{"key_ID": ID}, {"key_ID": ID.upper()}],
        [{"key_ID": 1}],
        [{"key_ID": None}],
        [ID],
        {"key_ID": ID},
    ],
)
def test_ids_that_are_none(site: Site, app1: Credentials, ids: object) -> None:
    assert statuses(site, app1, request(json.dumps({"key_IDs": ids}).encode(), DEC)) == [400]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"{ENC}?number=1&number=1", 400),
        (f"{ENC}?number=1;size=64", 400),
        (f"{ENC}?number", 400),
        (f"{ENC}?", 200),
        (f"{ENC}??number=1", 400),
        (f"{ENC}?number=%31", 200),
        (f"{ENC}?number=+1", 400),
        (f"{ENC}?number=1e0", 400),
        (f"{ENC}?number=\u00b2", 400),
        (f"{ENC}?&", 400),
        (f"{ENC}#x", 404),
        (f"{ENC}/", 404),
        (f"{ENC};v=1", 404),
        ("/api/v1//keys/app2/enc_keys", 404),
        ("/api/v1/keys/./app2/enc_keys", 404),
        ("/api/v1/keys/x/../app2/enc_keys", 404),
        ("/api/v1/keys/..%2Fkeys%2Fapp2/enc_keys", 400),
        ("/api/v1/keys/app2%2Fenc_keys", 404),
        ("/api/v1/keys/app2%00/enc_keys", 400),
        ("/api/v1/keys/app2%0d%0a/enc_keys", 400),
        ("/api/v1/keys/%/enc_keys", 400),
        ("/api/v1/keys/%ff/enc_keys", 400),
        ("/api/v1/keys/%C0%AFapp2/enc_keys", 400),
        ("/api/v1/keys/%61pp2/enc_keys", 200),
        ("/api/v1/keys/APP2/enc_keys", 400),
        ("/api/v1/keys/app1/enc_keys", 400),
        ("/api/v1/keys//enc_keys", 400),
        ("/API/v1/keys/app2/enc_keys", 404),
        ("https://kme/api/v1/keys/app2/enc_keys", 200),
        ("https://other@kme:1/api/v1/keys/app2/enc_keys", 200),
        ("http://kme/api/v1/keys/app2/enc_keys", 404),
        ("https:///api/v1/keys/app2/enc_keys", 200),
        ("https://kme", 404),
        ("*", 404),
        ("kme:443", 404),
        (f"{DEC}?key_ID={ID}&key_ID={ID}", 400),
        (f"{DEC}?key_ID={{{ID}}}", 400),
        (f"{DEC}?key_id={ID}", 400),
        (f"{DEC}", 400),
        (f"{STATUS}?x=1", 400),
    ],
)
def test_odd_addresses(site: Site, app1: Credentials, target: str, status: int) -> None:
    assert statuses(site, app1, request(path=target, method="GET", more="")) == [status]


@pytest.mark.parametrize(
    ("method", "status"),
    [
        *(("OPTIONS", 405), ("TRACE", 405), ("HEAD", 405), ("CONNECT", 405), ("PUT", 405), ("get", 405)),
        *(("G" * 4000, 405), ("PRI", 405), ("GET\t", 400), ("G(T", 400), ("", 400)),
    ],
)
def test_odd_methods(site: Site, app1: Credentials, method: str, status: int) -> None:
    assert statuses(site, app1, request(method=method, more="")) == [status]


JSON = "Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (JSON + "Content-Length: +2", b"{}", 400),
        (JSON + "Content-Length: 0x2", b"{}", 400),
        (JSON + "Content-Length: 2, 2", b"{}", 200),
        (JSON + "Content-Length: 2, 3", b"{}", 400),
        (JSON + "Content-Length: " + "9" * 30, b"{}", 400),
        (JSON + "Content-Length: " + "9" * 5000, b"{}", 400),
        (JSON + "Content-Length:", b"{}", 400),
        (JSON + "Content-Length: 2\r\nContent-Length: 2", b"{}", 200),
        (JSON + "Content-Length: 2\r\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", 400),
        (JSON + "Transfer-Encoding: chunked\r\nContent-Length: 2", b"2\r\n{}\r\n0\r\n\r\n", 400),
        (JSON + "Transfer-Encoding: chunked, chunked", b"", 501),
        (JSON + "Transfer-Encoding: gzip, chunked", b"", 501),
        (JSON + "Transfer-Encoding: identity", b"", 501),
        (JSON + "Transfer-Encoding: \x0bchunked", b"", 400),
        (JSON + "Transfer-Encoding : chunked", b"", 400),
        (JSON + "Transfer-Encoding: chunked", b"ffffffffffffffffffff\r\n", 408),
        (JSON + "Transfer-Encoding: chunked", b"-1\r\n", 400),
        (JSON + "Transfer-Encoding: chunked", b"2;x=" + b"a" * 20_000, 431),
        (JSON + "Transfer-Encoding: chunked", b"2\r\n{}x\r\n0\r\n\r\n", 400),
        (JSON + "Transfer-Encoding: chunked", b"2;x=1\r\n{}\r\n0\r\nA: b\r\n\r\n", 200),
        (JSON + "Transfer-Encoding: chunked", b"1\r\n \r\n" * 4097 + b"0\r\n\r\n", 413),
        (JSON + "Expect: 200-ok\r\nContent-Length: 2", b"{}", 200),
        (JSON + "Upgrade: h2c\r\nContent-Length: 2", b"{}", 200),
        (JSON + "Content-Encoding: gzip\r\nContent-Length: 2", b"\x1f\x8b", 400),
        ("Content-Length: 2", b"{}", 400),
        ("Content-Type: text/plain\r\nContent-Length: 2", b"{}", 400),
        ("Content-Type: application/jsonx\r\nContent-Length: 2", b"{}", 400),
        ("Host: other\r\nContent-Length: 0", b"", 400),
        ("X: a\x00b", b"", 400),
        ("X: a\rb", b"", 400),
    ],
)
def test_odd_headers(site: Site, app1: Credentials, head: str, body: bytes, status: int) -> None:
    assert statuses(site, app1, request(more=f"{head}\r\n") + body) == [status]


def test_nothing_that_follows_an_error_of_http_is_read(
    site: Site, app1: Credentials, desk: DeskInMemory
) -> None:
    hidden = request(path=ENC, method="GET", more="")
    for broken in (
        request(more=JSON + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        request(more=JSON + "Transfer-Encoding: chunked\r\n").replace(b"Connection: close\r\n", b"")
        + b"zz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: kme\r\nContent-Length: 200000\r\n\r\n",
    ):
        assert len(statuses(site, app1, broken + hidden * 3)) == 1
    assert desk.link.waiting == {}


def test_a_request_refused_for_its_content_is_followed_by_the_next(site: Site, app1: Credentials) -> None:
    kept = request(b'{"number": "1"}').replace(b"Connection: close\r\n", b"")
    assert statuses(site, app1, kept * 3 + request(b"{}")) == [400, 400, 400, 200]


@pytest.mark.parametrize("seed", [0, *(pytest.param(each, marks=pytest.mark.long) for each in range(1, 20))])
def test_requests_with_bytes_changed(site: Site, app1: Credentials, seed: int) -> None:
    rng = np.random.default_rng(seed)
    good = [request(b'{"number": 2}'), request(path=STATUS, method="GET", more=""), request(b"{}", DEC)]
    for _ in range(50):
        sent = bytearray(good[rng.integers(len(good))])
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(sent)))
            kind = rng.integers(4)
            if kind == 0:
                sent[place] = int(rng.integers(256))
            elif kind == 1:
                del sent[place : place + int(rng.integers(1, 20))]
            elif kind == 2:
                sent[place:place] = rng.bytes(int(rng.integers(1, 20)))
            else:
                sent += sent[place:]
        told = statuses_of_a_caller_that_leaves(site, app1, bytes(sent))
        assert all(200 <= each < 506 for each in told)


def statuses_of_a_caller_that_leaves(site: Site, app1: Credentials, sent: bytes) -> list[int]:
    with site.raw(app1) as secured:
        secured.sendall(sent)
        secured.settimeout(0.05)
        try:
            return [int(each) for each in ANSWER.findall(all_of(secured))]
        except TimeoutError:  # it waits for more
            return []
