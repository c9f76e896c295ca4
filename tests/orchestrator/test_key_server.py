"""Keys over HTTPS: who may ask, what comes back, and callers that are slow, large, many or gone."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from key_desks_in_memory import DeskInMemory, linked_desks
from key_servers import Site, all_of, asked, authority_in, served
from own_certificates import Authority, Credentials, client_context

from orchestrator import runtime
from orchestrator.delivery.certificates import NodeCertificates
from orchestrator.delivery.http.limits import Limits
from orchestrator.delivery.http.server import KeyServer, KeyServerError, network_of
from orchestrator.delivery.key_desk import DeliveredKey
from orchestrator.durable import replace_file
from orchestrator.events.delivery import (
    DeliveryEvent,
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeyServerFault,
)
from orchestrator.secret import SecretBits

ROOT = Path(__file__).resolve().parents[2]
KEYS = "/api/v1/keys"
STATUS = f"GET {KEYS}/app2/status HTTP/1.1\r\nHost: kme\r\n\r\n".encode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority_in(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def app1(authority: Authority) -> Credentials:
    return authority.sae("app1")


@pytest.fixture(scope="module")
def app2(authority: Authority) -> Credentials:
    return authority.sae("app2")


@pytest.fixture
def site(authority: Authority) -> Iterator[Site]:
    with served(authority) as site:
        yield site


def why(event: DeliveryEvent) -> str:
    return event.why if isinstance(event, KeyCallerTurnedAway) else ""


class SlowDesk(DeskInMemory):
    """A desk that answers when a test says so."""

    def __init__(self) -> None:
        first, _ = linked_desks()
        super().__init__(first.node, first.peer, first.users, first.link)
        self.futures: runtime.Queue[runtime.Future[list[DeliveredKey]]] = runtime.queue()

    def enc_keys(
        self,
        caller: str,
        slave: str,
        number: int | None,
        size_bits: int | None,
        *,
        may_be_relayed: bool = True,
    ) -> runtime.Future[list[DeliveredKey]]:
        future: runtime.Future[list[DeliveredKey]] = runtime.future()
        self.futures.put(future)
        return future


# What is delivered.


def test_a_key_for_the_master_and_the_same_for_its_slave_once(
    authority: Authority, app1: Credentials, app2: Credentials
) -> None:
    first, second = linked_desks()
    with served(authority, first) as alice, served(authority, second) as bob:
        status = alice.ask(app1, "GET", f"{KEYS}/app2/status").json
        assert status["key_size"] == 256
        assert (status["master_SAE_ID"], status["slave_SAE_ID"]) == ("app1", "app2")
        assert (status["source_KME_ID"], status["target_KME_ID"]) == ("alice", "bob")
        assert status["max_SAE_ID_count"] == 0
        given = alice.ask(app1, "POST", f"{KEYS}/app2/enc_keys", {"number": 3, "size": 512})
        assert given.status == 200
        assert (given.headers["content-type"], given.headers["cache-control"]) == (
            "application/json",
            "no-store",
        )
        keys = given.json["keys"]
        assert len({each["key"] for each in keys}) == 3
        assert all(len(base64.b64decode(each["key"], validate=True)) == 64 for each in keys)
        wanted = {"key_IDs": [{"key_ID": each["key_ID"]} for each in keys]}
        assert bob.ask(app2, "POST", f"{KEYS}/app1/dec_keys", wanted).json["keys"] == keys
        again = bob.ask(app2, "GET", f"{KEYS}/app1/dec_keys?key_ID={keys[0]['key_ID']}")
        assert (again.status, again.message) == (400, "one or more keys specified are not found on KME")


def test_another_slave_gets_nothing(authority: Authority, app1: Credentials, app2: Credentials) -> None:
    first, second = linked_desks()
    with served(authority, first) as alice, served(authority, second) as bob:
        key = alice.ask(app1, "GET", f"{KEYS}/app2/enc_keys").json["keys"][0]
        path = f"{KEYS}/app1/dec_keys?key_ID={key['key_ID']}"
        assert bob.ask(authority.sae("app4"), "GET", path).status == 401
        assert bob.ask(app2, "GET", path).json["keys"] == [key]


def test_the_desk_decides_and_its_words_reach_the_caller(authority: Authority, app1: Credentials) -> None:
    desk, _ = linked_desks()
    desk.link.stock = 2
    with served(authority, desk) as site:
        short = site.ask(app1, "GET", f"{KEYS}/app2/enc_keys?number=3")
        assert short.status == 503
        assert short.json == {"message": "not enough key", "details": [{"detail": "2 keys are left"}]}
        assert desk.link.stock == 2
        assert site.ask(app1, "GET", f"{KEYS}/stranger/status").status == 400
        assert (
            site.ask(app1, "GET", f"{KEYS}/app2/enc_keys?number=1000").message
            == "number shall be at most 128"
        )


def test_what_was_sent_is_wiped(authority: Authority, app1: Credentials) -> None:
    desk, _ = linked_desks()
    with served(authority, desk) as site:
        key = site.ask(app1, "GET", f"{KEYS}/app2/enc_keys").json["keys"][0]
        assert any(base64.b64decode(key["key"]))
    assert [len(each) for each in desk.revealed] == [0]


def test_events_tell_who_asked_for_what_and_hold_no_key(authority: Authority, app1: Credentials) -> None:
    with served(authority) as site:
        given = site.ask(app1, "POST", f"{KEYS}/app2/enc_keys", {"number": 2})
        event = site.told.wait_for(lambda event: isinstance(event, KeyRequestAnswered))
    assert isinstance(event, KeyRequestAnswered)
    assert (event.sae, event.method, event.endpoint, event.other) == ("app1", "POST", "enc_keys", "app2")
    assert (event.status, event.keys) == (200, 2)
    assert 0 <= event.took_s < 20
    for key in given.json["keys"]:
        assert key["key"][:8] not in repr(site.told.events)
        assert key["key_ID"][:8] not in repr(site.told.events)


def test_errors_are_json_everywhere(site: Site, app1: Credentials) -> None:
    for method, path, status in [
        ("GET", "/", 404),
        ("PUT", f"{KEYS}/app2/enc_keys", 405),
        ("GET", f"{KEYS}//status", 400),
    ]:
        answer = site.ask(app1, method, path)
        assert answer.status == status
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json) == {"message"}
    assert site.ask(app1, "DELETE", f"{KEYS}/app2/status").headers["allow"] == "GET"
    head = site.ask(app1, "HEAD", f"{KEYS}/app2/status")
    assert (head.status, head.body) == (405, b"")


def test_a_desk_that_breaks_is_told_by_the_kind_of_its_error_alone(
    authority: Authority, app1: Credentials
) -> None:
    class Broken(DeskInMemory):
        def enc_keys(self, *_: object, **__: object) -> runtime.Future[list[DeliveredKey]]:
            raise RuntimeError("key: 0123456789")

    first, _ = linked_desks()
    desk = Broken(first.node, first.peer, first.users, first.link)
    with served(authority, desk) as site:
        answer = site.ask(app1, "GET", f"{KEYS}/app2/enc_keys")
        assert answer.status == 503
        fault = site.told.wait_for(lambda event: isinstance(event, KeyServerFault))
        assert fault == KeyServerFault("a request", "RuntimeError")
        assert b"0123456789" not in answer.body
        assert site.ask(app1, "GET", f"{KEYS}/app2/status").status == 200


# Who may ask.


def test_nobody_without_a_certificate_of_this_testbed(
    site: Site, tmp_path: Path, authority: Authority, app1: Credentials
) -> None:
    foreign = Authority(tmp_path / "foreign").sae("app1")
    expired = authority.sae("app1", file="expired", began=timedelta(days=-9), ends=timedelta(days=-1))
    early = authority.sae("app1", file="early", began=timedelta(days=1), ends=timedelta(days=2))
    node = authority.node("other")
    a_node = Credentials(node / "kme-cert.pem", node / "kme-key.pem", 0)
    for seen, own in enumerate([None, foreign, expired, early, a_node], 1):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            site.ask(own, "GET", f"{KEYS}/app2/status")
        site.told.wait_for(lambda _: len([e for e in site.told.events if why(e) == "handshake"]) == seen)  # noqa: B023
    assert site.ask(app1, "GET", f"{KEYS}/app2/status").status == 200


def test_tls_below_1_3_is_refused(site: Site, authority: Authority, app1: Credentials) -> None:
    context = client_context(authority.ca, app1)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(site.where, timeout=10) as plain,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def test_the_name_is_the_certificates_and_no_header(
    site: Site, authority: Authority, app1: Credentials
) -> None:
    claims = {"X-SAE-ID": "app3", "X-Forwarded-For": "10.0.0.1", "X-SSL-Client-CN": "app3"}
    answer = site.ask(app1, "GET", f"{KEYS}/app2/status", headers=claims)
    assert answer.json["master_SAE_ID"] == "app1"
    unknown = site.ask(authority.sae("stranger"), "GET", f"{KEYS}/app2/status")
    assert (unknown.status, "no SAE of this testbed" in unknown.message) == (401, True)


@pytest.mark.parametrize("names", [(), ("app1", "app3")])
def test_a_certificate_names_one_application(
    site: Site, authority: Authority, names: tuple[str, ...]
) -> None:
    answer = site.ask(authority.sae(*names), "GET", f"{KEYS}/app2/status")
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    site.told.wait_for(lambda event: why(event) == "certificate refused")


def test_one_certificate_from_two_addresses(site: Site, authority: Authority, app1: Credentials) -> None:
    with site.raw(app1) as at_home:
        at_home.sendall(STATUS)
        assert at_home.recv(4096).startswith(b"HTTP/1.1 200")
        with site.raw(app1) as beside:
            beside.sendall(STATUS)
            assert beside.recv(4096).startswith(b"HTTP/1.1 200")
        with site.raw(app1, "127.0.0.2") as elsewhere:
            elsewhere.sendall(STATUS)
            assert all_of(elsewhere).startswith(b"HTTP/1.1 401")
        event = site.told.wait_for(lambda event: why(event) == "certificate in use at another address")
        assert isinstance(event, KeyCallerTurnedAway)
        assert (event.sae, event.address, event.other_address) == ("app1", "127.0.0.2", "127.0.0.1")
        with site.raw(authority.sae("app3"), "127.0.0.2") as other:
            other.sendall(STATUS)
            assert other.recv(4096).startswith(b"HTTP/1.1 200")
        at_home.sendall(STATUS)
        assert at_home.recv(4096).startswith(b"HTTP/1.1 200")
        at_home.sendall(STATUS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        all_of(at_home)
    answered = 0
    while answered != 200:  # until the server, too, has seen the first connections end
        with site.raw(app1, "127.0.0.2") as moved:
            moved.sendall(STATUS)
            answered = int(moved.recv(4096).split()[1])


def test_a_renewed_certificate_and_the_one_before_are_one_key(site: Site, authority: Authority) -> None:
    """A thief has the certificate of last year; the key is the same."""
    before = authority.sae("app1", file="before")
    renewed = authority.renewed(before, "app1")
    assert renewed.serial != before.serial
    with site.raw(renewed) as at_home:
        at_home.sendall(STATUS)
        assert at_home.recv(4096).startswith(b"HTTP/1.1 200")
        with site.raw(before) as same_machine:
            same_machine.sendall(STATUS)
            assert same_machine.recv(4096).startswith(b"HTTP/1.1 200")
        with site.raw(before, "127.0.0.2") as elsewhere:
            elsewhere.sendall(STATUS)
            assert all_of(elsewhere).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("name", ["app1\n", "Ａpp1", "app1\x00", "app 1", "\u202eapp1", "APP1", "app1@alice"])
def test_a_name_that_only_looks_like_an_application_is_none(authority: Authority, name: str) -> None:
    with served(authority, known=lambda sae: sae == "app1") as site:
        answer = site.ask(authority.sae(name, file="odd"), "GET", f"{KEYS}/app2/status")
        assert (answer.status, "no SAE of this testbed" in answer.message) == (401, True)


def test_another_authority_is_taken_into_use_whole(tmp_path: Path) -> None:
    """Callers of the one before are cut off, and who the new one has revoked is refused."""
    first, second = authority_in(tmp_path / "first"), authority_in(tmp_path / "second")
    old, new, revoked = first.sae("app1"), second.sae("app1"), second.sae("app3")
    with served(first) as site, site.raw(old) as idle:
        idle.sendall(STATUS)
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        folder, other = first.folder_of("alice"), second.node()
        second.revoke(other, revoked.serial)
        for name in ("kme-crl.pem", "kme-key.pem", "kme-cert.pem", "kme-ca.pem"):
            replace_file(folder / name, (other / name).read_bytes(), 0o600)
        assert all_of(idle) == b""
        after = Site(second, site.server, site.told)
        assert after.ask(new, "GET", f"{KEYS}/app2/status").status == 200
        assert after.ask(revoked, "GET", f"{KEYS}/app2/status").status == 401
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            Site(second, site.server, site.told).ask(old, "GET", f"{KEYS}/app2/status")


def test_a_revoked_certificate_is_refused_and_its_connections_are_closed(
    authority: Authority, app2: Credentials
) -> None:
    app3 = authority.sae("app3")
    with served(authority) as site:
        with site.raw(app3) as idle, site.raw(app2) as other:
            for each in (idle, other):
                each.sendall(STATUS)
                each.recv(4096)
            authority.revoke(authority.folder_of("alice"), app3.serial)
            assert all_of(idle) == b""
            told = site.told.wait_for(lambda event: why(event) == "certificate refused")
            assert isinstance(told, KeyCallerTurnedAway)
            assert (told.sae, told.detail.rpartition(" was ")[2]) == ("app3", "revoked")
            other.sendall(STATUS)
            assert other.recv(4096)
        answer = site.ask(app3, "GET", f"{KEYS}/app2/status")
        assert (answer.status, answer.message.rpartition(" was ")[2]) == (401, "revoked")


def test_a_certificate_that_expires_ends_its_connections(site: Site, authority: Authority) -> None:
    short = authority.sae("app1", file="short", ends=timedelta(seconds=2.5))
    with site.raw(short) as idle:
        idle.sendall(STATUS)
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        assert all_of(idle) == b""
    told = site.told.wait_for(lambda event: why(event) == "certificate refused")
    assert isinstance(told, KeyCallerTurnedAway)
    assert told.detail.endswith(" expired")


def test_a_session_is_not_taken_up_again(site: Site, app1: Credentials) -> None:
    """Neither a ticket nor early data: every handshake looks at the certificate anew."""
    with site.raw(app1) as secured:
        secured.sendall(STATUS)
        assert secured.recv(4096).startswith(b"HTTP/1.1 200")
        assert secured.version() == "TLSv1.3"
        assert not secured.session_reused
        assert secured.session is None or not secured.session.has_ticket


def test_a_certificate_revoked_a_moment_ago_gets_nothing_on_an_open_connection(authority: Authority) -> None:
    app3 = authority.sae("app3")
    with served(authority) as site, site.raw(app3) as secured:
        secured.sendall(STATUS)
        assert secured.recv(4096).startswith(b"HTTP/1.1 200")
        authority.revoke(authority.folder_of("alice"), app3.serial)
        secured.sendall(STATUS)
        assert b"200 " not in all_of(secured)


def test_a_renewed_certificate_of_the_server_is_taken_into_use(tmp_path: Path, app1: Credentials) -> None:
    authority = authority_in(tmp_path)
    app = authority.sae("app1")
    with served(authority) as site:
        with site.raw(app) as before:
            old = before.getpeercert(binary_form=True)
        renewed = authority.node()
        seen = old
        while seen == old:
            with site.raw(app) as after:
                seen = after.getpeercert(binary_form=True)
        assert seen == ssl.PEM_cert_to_DER_cert((renewed / "kme-cert.pem").read_text())


# Callers that are slow, large, many or gone.


def test_headers_that_trickle_in_are_cut_off(authority: Authority, app1: Credentials) -> None:
    with served(authority, header_s=0.3) as site, site.raw(app1) as slow:
        slow.settimeout(0.05)
        answer = b""
        for letter in STATUS[:-2] + b"X-Slow: " + b"a" * 4000:
            try:
                slow.sendall(bytes([letter]))
                answer = slow.recv(4096)
            except TimeoutError:
                continue
            except (ssl.SSLError, ConnectionError):
                break
            if answer:
                break
        assert answer.startswith(b"HTTP/1.1 408")
        site.told.wait_for(lambda event: why(event) == "too slow")


def test_a_connection_without_a_word_is_closed(authority: Authority, app1: Credentials) -> None:
    with served(authority, header_s=0.2) as site, site.raw(app1) as silent:
        assert all_of(silent) == b""


def test_a_connection_that_stays_idle_is_closed(authority: Authority, app1: Credentials) -> None:
    with served(authority, idle_s=0.2) as site, site.raw(app1) as idle:
        idle.sendall(STATUS)
        assert all_of(idle).count(b"HTTP/1.1 200") == 1


def test_a_body_that_trickles_in_is_cut_off(authority: Authority, app1: Credentials) -> None:
    head = f"POST {KEYS}/app2/enc_keys HTTP/1.1\r\nHost: kme\r\nContent-Type: application/json\r\n"
    for framing, piece in (("Content-Length: 500", b" "), ("Transfer-Encoding: chunked", b"1\r\n \r\n")):
        with served(authority, body_s=0.3, header_s=60.0) as site, site.raw(app1) as slow:
            slow.sendall(f"{head}{framing}\r\n\r\n".encode())
            slow.settimeout(0.05)
            answer = b""
            while not answer:
                slow.sendall(piece)
                try:
                    answer = slow.recv(4096)
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.1 408")


def test_a_handshake_that_never_ends_is_cut_off(authority: Authority) -> None:
    with (
        served(authority, handshake_s=0.2) as site,
        socket.create_connection(site.where, timeout=10) as plain,
    ):
        assert plain.recv(10) == b""
        site.told.wait_for(lambda event: why(event) == "handshake")


def test_what_is_too_large_is_refused(site: Site, app1: Credentials) -> None:
    path = f"{KEYS}/app2/enc_keys"
    assert site.ask(app1, "POST", path, b" " * 140_000).status == 413
    chunked = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    body = b"%x\r\n%s\r\n" % (80_000, b" " * 80_000)
    assert site.ask(app1, "POST", path, body * 2 + b"0\r\n\r\n", chunked).status == 413
    assert site.ask(app1, "GET", path, headers={"X-Long": "a" * 20_000}).status == 431
    assert site.ask(app1, "GET", path, headers={f"X-{i}": "a" for i in range(70)}).status == 431
    assert site.ask(app1, "GET", f"{path}?{'a' * 20_000}").status == 431


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: kme\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: kme\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\nHost: kme\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: kme\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: kme\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: kme\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused(site: Site, app1: Credentials, sent: bytes) -> None:
    with site.raw(app1) as secured:
        secured.sendall(sent)
        answer = all_of(secured)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert 400 <= int(head.split()[1]) < 506
    assert set(json.loads(body)) == {"message"}
    assert site.ask(app1, "GET", f"{KEYS}/app2/status").status == 200


def test_a_request_with_two_lengths_is_not_read_as_two(site: Site, app1: Credentials) -> None:
    """One that holds Content-Length and Transfer-Encoding could hide another from whatever stands between."""
    with site.raw(app1) as secured:
        secured.sendall(
            f"POST {KEYS}/app2/enc_keys HTTP/1.1\r\nHost: kme\r\nContent-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n".encode()
        )
        assert all_of(secured).count(b"HTTP/1.1") == 1


def test_pipelined_requests_are_answered_in_order(site: Site, app1: Credentials) -> None:
    n = 300
    with site.raw(app1) as secured:
        many = b"".join(STATUS.replace(b"app2", b"app2" if i % 2 else b"app4") for i in range(n))
        secured.sendall(many + STATUS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answers = all_of(secured).split(b"HTTP/1.1 200")[1:]
    slaves = [json.loads(each.partition(b"\r\n\r\n")[2])["slave_SAE_ID"] for each in answers]
    assert slaves == [("app2" if i % 2 else "app4") for i in range(n)] + ["app2"]


def test_pipelined_requests_wait_for_the_one_before(authority: Authority, app1: Credentials) -> None:
    desk = SlowDesk()
    with served(authority, desk, pipelined_bytes=1000) as site, site.raw(app1) as secured:
        secured.sendall(STATUS.replace(b"status", b"enc_keys") + STATUS * 100)
        future = desk.futures.get(timeout=10)
        future.set_result([DeliveredKey("1", SecretBits.from_bytes(b"abc"))])
        found = b""
        while found.count(b"HTTP/1.1 200") < 101:
            found += secured.recv(65536)
    first = found.split(b"HTTP/1.1 200")[1]
    assert json.loads(first.partition(b"\r\n\r\n")[2]) == {"keys": [{"key_ID": "1", "key": "YWJj"}]}


def test_nothing_is_read_far_ahead_of_an_answer(authority: Authority, app1: Credentials) -> None:
    desk = SlowDesk()
    with served(authority, desk, pipelined_bytes=1000, drain_s=0.1) as site, site.raw(app1) as secured:
        secured.sendall(STATUS.replace(b"status", b"enc_keys"))
        desk.futures.get(timeout=10)
        secured.settimeout(1)
        with pytest.raises(TimeoutError):
            secured.sendall(STATUS * 400_000)


def test_who_is_refused_while_still_sending_can_read_why(authority: Authority, app1: Credentials) -> None:
    n = 900_000
    with served(authority, linger_s=20.0) as site, site.raw(app1) as secured:
        head = f"POST {KEYS}/app2/enc_keys HTTP/1.1\r\nHost: kme\r\nContent-Length: {n}\r\n\r\n"
        secured.sendall(head.encode())
        for _ in range(n // 1000):
            secured.sendall(b" " * 1000)
        assert secured.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_caller_that_goes_away_cancels_what_it_asked_for(authority: Authority, app1: Credentials) -> None:
    desk = SlowDesk()
    with served(authority, desk) as site:
        with site.raw(app1) as secured:
            secured.sendall(STATUS.replace(b"status", b"enc_keys"))
            future = desk.futures.get(timeout=10)
        gone = runtime.event()
        future.add_done_callback(lambda _: gone.set())
        assert gone.wait(10)
        assert future.cancelled()


def test_keys_that_come_after_their_caller_left_are_wiped(authority: Authority, app1: Credentials) -> None:
    desk = SlowDesk()
    key = SecretBits.from_bytes(b"0123456789")
    with served(authority, desk) as site:
        with site.raw(app1) as secured:
            secured.sendall(STATUS.replace(b"status", b"enc_keys"))
            future = desk.futures.get(timeout=10)
            assert future.set_running_or_notify_cancel()
        while site.server._house.connections:
            site.ask(app1, "GET", f"{KEYS}/app2/status")
        future.set_result([DeliveredKey("1", key)])
        site.ask(app1, "GET", f"{KEYS}/app2/status")
    assert len(key) == 0


def test_a_desk_without_an_answer_in_time(authority: Authority, app1: Credentials) -> None:
    desk = SlowDesk()
    with served(authority, desk, answer_s=0.2) as site:
        connection = site.connection(app1)
        answer = asked(connection, "GET", f"{KEYS}/app2/enc_keys")
        assert answer.status == 503
        assert desk.futures.get(timeout=10).cancelled()
        assert asked(connection, "GET", f"{KEYS}/app2/status").status == 200
        connection.close()


def test_connections_are_bounded_for_each_application_and_in_all(
    authority: Authority, app1: Credentials
) -> None:
    app3 = authority.sae("app3")
    with served(authority, connections_per_sae=2, connections=3) as site, ExitStack() as open_ones:
        for _ in range(2):
            secured = open_ones.enter_context(site.raw(app1))
            secured.sendall(STATUS)
            assert secured.recv(4096).startswith(b"HTTP/1.1 200")
        with site.raw(app1) as third:
            third.sendall(STATUS)
            assert all_of(third).startswith(b"HTTP/1.1 503")
        site.told.wait_for(lambda event: why(event) == "too many connections of one SAE")
        answered = b""
        while not answered.startswith(b"HTTP/1.1 200"):  # until the third is seen to have ended
            try:
                last = open_ones.enter_context(site.raw(app3))
                last.sendall(STATUS)
                answered = last.recv(4096)
            except (ssl.SSLError, ConnectionError):
                continue
        with pytest.raises((ssl.SSLError, ConnectionError)):
            site.ask(authority.sae("app4"), "GET", f"{KEYS}/app3/status")
        site.told.wait_for(lambda event: why(event) == "too many connections")


def test_connections_that_are_turned_away_take_nobodys_room(authority: Authority, app1: Credentials) -> None:
    """One application opens as many connections as it can, and sends nothing on them."""
    app3 = authority.sae("app3")
    limits = {"connections_per_sae": 1, "connections_turned_away": 2, "connections": 6}
    with served(authority, **limits) as site, ExitStack() as open_ones:
        for _ in range(12):
            with contextlib.suppress(OSError):
                open_ones.enter_context(site.raw(app1))
        site.told.wait_for(
            lambda _: [why(e) for e in site.told.events].count("too many connections of one SAE") == 11
        )
        assert site.ask(app3, "GET", f"{KEYS}/app2/status").status == 200


def test_handshakes_that_never_end_take_nobodys_room(authority: Authority, app1: Credentials) -> None:
    limits = {"handshakes": 3, "handshakes_per_address": 2, "connections": 4, "handshake_s": 60.0}
    with served(authority, **limits) as site, ExitStack() as open_ones:
        for host in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            for _ in range(3):
                silent = socket.create_connection(site.where, timeout=10, source_address=(host, 0))
                open_ones.enter_context(silent)
        assert site.ask(app1, "GET", f"{KEYS}/app2/status").status == 200
        turned_away = [why(event) for event in site.told.events]
        assert "too many handshakes" in turned_away
        assert "too many handshakes of one address" in turned_away
        assert "too many connections" not in turned_away


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
def test_whose_an_address_is(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


def test_a_caller_that_takes_no_answers_is_cut_off(authority: Authority, app1: Credentials) -> None:
    with served(authority, send_s=0.3) as site, site.raw(app1) as secured:
        secured.settimeout(10)
        sending = True
        while sending:
            try:
                secured.sendall(STATUS * 200)
            except (ssl.SSLError, ConnectionError):
                sending = False
        site.told.wait_for(lambda event: why(event) == "too slow")


def test_expectations_are_met_before_the_body_is_sent(site: Site, app1: Credentials) -> None:
    with site.raw(app1) as secured:
        secured.sendall(
            f"POST {KEYS}/app2/enc_keys HTTP/1.1\r\nHost: kme\r\nContent-Type: application/json\r\n"
            "Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode()
        )
        assert secured.recv(4096).startswith(b"HTTP/1.1 100")
        secured.sendall(b"{}")
        assert all_of(secured).startswith(b"HTTP/1.1 200")


# Starting and ending.


def test_closing_answers_what_was_asked(authority: Authority, app1: Credentials) -> None:
    desk = SlowDesk()
    with served(authority, desk) as site, site.raw(app1) as busy, site.raw(app1) as idle:
        busy.sendall(STATUS.replace(b"status", b"enc_keys"))
        future = desk.futures.get(timeout=10)
        ending = runtime.call(site.server.close, name="closing")
        assert all_of(idle) == b""
        future.set_result([])
        answer = all_of(busy)
        assert answer.endswith(b'{"keys":[]}')
        ending.result(10)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(site.where, timeout=10)
        site.server.close()


def test_closing_waits_for_no_caller_that_only_keeps_its_connection(
    authority: Authority, app1: Credentials
) -> None:
    """A node that ends has instruments to make dark."""
    with served(authority) as site, site.raw(app1) as idle:
        idle.sendall(STATUS)
        assert idle.recv(4096)
        begun_s = runtime.now()
        site.server.close()
        assert runtime.now() - begun_s < 1.5


def test_closing_waits_for_no_desk_for_ever(authority: Authority, app1: Credentials) -> None:
    desk = SlowDesk()
    with served(authority, desk, drain_s=0.2) as site, site.raw(app1) as busy:
        busy.sendall(STATUS.replace(b"status", b"enc_keys"))
        future = desk.futures.get(timeout=10)
        site.server.close()
        assert future.cancelled()


def test_ipv6(authority: Authority, app1: Credentials) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(authority, listen="[::1]:0") as site:
        assert site.server.url.startswith("https://[::1]:")
        assert site.ask(app1, "GET", f"{KEYS}/app2/status").status == 200


def test_a_server_that_cannot_start_says_why(authority: Authority, app1: Credentials) -> None:
    certificates = NodeCertificates.load(authority.node("bob"), "bob")

    def starting(listen: str = "127.0.0.1:0") -> str:
        server = KeyServer(linked_desks()[0], certificates=certificates, known=lambda _: True, listen=listen)
        with pytest.raises(KeyServerError) as caught:
            server.start()
        return str(caught.value)

    assert "name HOST:PORT" in starting(listen="here")
    assert "name HOST:PORT" in starting(listen="127.0.0.1:99999")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "name HOST:PORT" in starting(listen=f"127.0.0.1:{taken.getsockname()[1]}")
    certificates.key.write_bytes(app1.key.read_bytes())
    assert "cannot be used" in starting()


def test_the_page_tells_the_limits() -> None:
    page = " ".join((ROOT / "docs" / "keys-to-applications.md").read_text(encoding="utf-8").split())
    has = Limits()
    assert has.header_s == has.body_s
    for told in (
        f"| connections | {has.connections}, of which {has.connections_per_sae} of one application |",
        f"| handshakes at a time | {has.handshakes}, of which {has.handshakes_per_address} of one address",
        f"{has.handshake_s:g} s for a handshake, {has.header_s:g} s each for header and body",
        f"{has.answer_s:g} s for the node to answer, {has.send_s:g} s for you to take it, {has.idle_s:g} s idle",
        f"{has.header_bytes >> 10} KiB and {has.header_lines} lines of header",
        f"{has.body_bytes >> 10} KiB of body in at most {has.body_chunks} chunks",
    ):
        assert told in page
