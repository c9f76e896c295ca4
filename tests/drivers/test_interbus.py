"""Interbus telegrams: the vendor's bytes, every round trip, and nothing read out of damage."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.links.interbus import (
    END,
    ESCAPE,
    MAX_DATA_BYTES,
    MAX_ESCAPED_BYTES,
    START,
    CrcError,
    MessageType,
    Telegram,
    TelegramError,
    TelegramReader,
    crc16,
    decode,
    encode,
    escape,
    unescape,
)

# Exact telegrams of QMI tests/instruments/nkt_photonics/test_adjustik.py.
KNOWN = [
    (Telegram(1, 161, MessageType.READ, 0x32), "0d01a1043226cd0a"),
    (
        Telegram(161, 1, MessageType.DATAGRAM, 0x32, (10644000).to_bytes(4, "little")),
        "0da1010832206aa2002c8c0a",
    ),
    (Telegram(1, 161, MessageType.WRITE, 0x2A, (840).to_bytes(2, "little")), "0d01a1052a48038cd10a"),
    (Telegram(161, 1, MessageType.ACK, 0x2A), "0da101032a7b890a"),
    (Telegram(1, 162, MessageType.READ, 0x2A), "0d01a2042aeca40a"),
    (Telegram(162, 1, MessageType.DATAGRAM, 0x2A, (740).to_bytes(2, "little")), "0da201082ae402f8c90a"),
    (Telegram(161, 1, MessageType.NACK, 0x32), "0da1010032bde30a"),
]

byte = st.integers(0, 255)
telegrams = st.builds(Telegram, byte, byte, byte, byte, st.binary(max_size=MAX_DATA_BYTES))
modest = settings(max_examples=60, derandomize=True, deadline=None)


@pytest.mark.parametrize(("telegram", "line"), KNOWN)
def test_known_telegrams(telegram, line):
    assert encode(telegram).hex() == line
    assert decode(bytes.fromhex(line)[1:-1]) == telegram


def test_crc_over_body_with_its_crc_is_zero():
    body = bytes.fromhex("01a10432")
    assert crc16(body) == 0x26CD
    assert crc16(body + b"\x26\xcd") == 0


@modest
@given(telegrams)
def test_round_trip_and_clean_framing(telegram):
    line = encode(telegram)
    assert decode(line[1:-1]) == telegram
    assert line[0] == START
    assert line.count(START) == 1
    assert line.count(END) == 1
    assert len(line) <= MAX_ESCAPED_BYTES + 2


@modest
@given(st.binary(max_size=300))
def test_escape_is_undone_and_leaves_no_reserved_byte(body):
    escaped = escape(body)
    assert unescape(escaped) == body
    assert START not in escaped
    assert END not in escaped


@modest
@given(st.lists(telegrams, max_size=4), st.lists(st.integers(1, 40), min_size=1, max_size=20), st.data())
def test_reader_finds_telegrams_in_any_pieces_between_noise(wanted, cuts, data):
    noise = st.binary(max_size=20).map(lambda b: b.replace(bytes((START,)), b""))
    stream = b"".join(data.draw(noise) + encode(telegram) for telegram in wanted)
    reader, found, k = TelegramReader(), [], 0
    while stream:
        size = cuts[k % len(cuts)]
        found += reader.feed(stream[:size])
        stream, k = stream[size:], k + 1
    assert found == wanted


@modest
@given(telegrams, st.data())
def test_a_flipped_bit_never_yields_another_telegram(telegram, data):
    line = bytearray(encode(telegram))
    position = data.draw(st.integers(0, len(line) - 1))
    line[position] ^= 1 << data.draw(st.integers(0, 7))
    assert not [item for item in TelegramReader().feed(bytes(line)) if isinstance(item, Telegram)]


@modest
@given(st.binary(max_size=600))
def test_garbage_raises_nothing_and_the_reader_recovers(garbage):
    reader = TelegramReader()
    reader.feed(garbage)
    telegram = Telegram(1, 161, MessageType.READ, 0x30)
    assert reader.feed(encode(telegram)) == [telegram]


@pytest.mark.parametrize(
    "escaped",
    [b"", b"\x01\xa1\x04", bytes((ESCAPE,)), bytes((1, ESCAPE, 0x4B, 4, 5, 6)), b"\x01\x0d\x04\x32\x26\xcd"],
)
def test_what_is_no_telegram(escaped):
    with pytest.raises(TelegramError):
        decode(escaped)


def test_a_wrong_check_sum_keeps_the_body():
    with pytest.raises(CrcError) as caught:
        decode(bytes.fromhex("01a1043226ce"))
    assert caught.value.body == bytes.fromhex("01a1043226ce")


def test_an_endless_telegram_is_given_up():
    reader = TelegramReader()
    found = reader.feed(bytes((START,)) + b"\x01" * (MAX_ESCAPED_BYTES + 1))
    assert [type(item) for item in found] == [TelegramError]


def test_too_much_data_is_refused():
    with pytest.raises(TelegramError, match="240"):
        encode(Telegram(1, 161, MessageType.WRITE, 0x8D, bytes(MAX_DATA_BYTES + 1)))
