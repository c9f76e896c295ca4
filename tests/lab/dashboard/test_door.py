"""Wrong tokens are counted by where they come from, and forgotten in time."""

from __future__ import annotations

from starlette.requests import Request

from lab.dashboard import door
from lab.dashboard.door import WRONG_KEPT, WRONG_S, Tokens

TOKEN = "0123456789abcdef"


def asked(token: str, address: str = "127.0.0.1") -> Request:
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return Request({"type": "http", "method": "POST", "headers": headers, "client": (address, 1)})


def status(tokens: Tokens, token: str, address: str = "127.0.0.1") -> int:
    refusal = tokens.refusal(asked(token, address))
    return 200 if refusal is None else refusal.status_code


def test_after_a_few_wrong_ones_an_address_waits_and_others_do_not() -> None:
    now_s = [0.0]
    tokens = Tokens(TOKEN, clock=lambda: now_s[0])
    assert [status(tokens, "wrong") for _ in range(WRONG_KEPT)] == [403] * WRONG_KEPT
    assert status(tokens, TOKEN) == 429
    assert status(tokens, TOKEN, "10.0.0.7") == 200
    now_s[0] = WRONG_S + 0.1
    assert status(tokens, TOKEN) == 200
    assert status(tokens, "wrong") == 403


def test_a_right_one_clears_the_count() -> None:
    tokens = Tokens(TOKEN)
    for _ in range(3):
        assert [status(tokens, "wrong") for _ in range(WRONG_KEPT - 1)] == [403] * (WRONG_KEPT - 1)
        assert status(tokens, TOKEN) == 200


def test_no_token_is_no_way_in() -> None:
    for tokens in (Tokens("", "the disk is full"), Tokens("")):
        assert status(tokens, "") == 503


def test_what_many_addresses_send_is_not_kept_for_ever() -> None:
    tokens = Tokens(TOKEN)
    for number in range(4 * door.ADDRESSES_KEPT):
        assert status(tokens, "wrong", f"10.0.{number >> 8}.{number & 255}") == 403
    assert len(tokens._wrong) == door.ADDRESSES_KEPT
