"""Shapes of answers: what counts as alike, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.links.interbus import MessageType, Telegram, encode
from lab.runs.first_contact.shapes import REFUSAL, SILENCE, differs, shape_of, words
from sim_backends.scripted import means_the_same


@pytest.mark.parametrize(
    ("sent", "recorded", "found"),
    [
        (b"X?\n", b"1.5E-3\n", b"0.0015\n"),
        (b"X?\n", b"0.5\n", b"2\n"),
        (b"X?\n", b"INT\n", b"EXT\n"),
        (b"X?\n", b'"frame0",3\n', b'"",17\n'),
        (b"*IDN?\n", b"Thorlabs,PM100D,P0001,2.4.0\n", b"Thorlabs,PM100D,SIM7,2.5.0\n"),
        (b"*OPT?\n", b"225\n", b"1,3\n"),
        (b"SYST:ERR?\n", b'0,"No error"\n', b'+0,"no error"\n'),
        (b"D\r", b"DPos:1\r\nATTEN:50.00\r\nDone\r\n", b"DPos:20\r\nATTEN:1.00\r\nDone\r\n"),
        (b"{}", b'{"label": "A", "value": [1, 2]}\x17', b'{"label": "A", "value": [1.5]}\x17'),
    ],
)
def test_values_may_differ(sent: bytes, recorded: bytes, found: bytes) -> None:
    assert not differs(shape_of(recorded, sent), shape_of(found, sent))


@pytest.mark.parametrize(
    ("sent", "recorded", "found"),
    [
        (b"X?\n", b"1\n", b"1.5\n"),
        (b"X?\n", b"1\n", b"1\r\n"),
        (b"X?\n", b"1\n", b""),
        (b"X?\n", b"1\n", b"1,2\n"),
        (b"X?\n", b"1\n", b"1\n1\n"),
        (b"X?\n", b"1 V\n", b"1 mV\n"),
        (b"X?\n", b'"INT"\n', b"INT\n"),
        (b"X?\n", b"INT\n", b"\n"),
        (b"*IDN?\n", b"Thorlabs,PM100D,P0001,2.4.0\n", b"Thorlabs,PM100A,P0001,2.4.0\n"),
        (b"SYST:ERR?\n", b'0,"No error"\n', b'-113,"Undefined header"\n'),
        (b"SYSTem:ERRor:NEXT?\n", b'-222,"range"\n', b'-113,"header"\n'),
        (b"A1\r", b"Pos:1\r\nDone\r\n", b"Error-5\r\nDone\r\n"),
        (b"A1\r", b"Pos:1\r\nDone\r\n", b"Pos:1\r\nOK\r\n"),
        (b"X", b"Value set to 3", b"Unknown: SCPI_ERR_INVALID_CMD"),
        (b"list", b"[]", b'{"error": {"description": "no"}}'),
        (b"{}", b'{"label": "A", "value": 1}\x17', b'{"label": "A", "value": true}\x17'),
        (b"{}", b'{"label": "A", "value": 1}\x17', b'{"label": "B", "value": 1}\x17'),
        (b"{}", b'{"label": "A", "value": 1}\x17', b'{"label": "A", "value": 1}'),
    ],
)
def test_another_shape_is_a_difference(sent: bytes, recorded: bytes, found: bytes) -> None:
    assert differs(shape_of(recorded, sent), shape_of(found, sent))


@given(st.integers(1, 200), st.integers(0, 255), st.binary(min_size=1, max_size=40), st.integers(161, 255))
def test_telegrams_are_alike_by_kind_register_and_size(
    module: int, register: int, data: bytes, host: int
) -> None:
    def answer(kind: MessageType, payload: bytes) -> bytes:
        return encode(Telegram(host, module, kind, register, payload))

    sound = shape_of(answer(MessageType.DATAGRAM, data), b"")
    other = bytes(len(data)) if register != 0x61 else data
    assert not differs(sound, shape_of(answer(MessageType.DATAGRAM, other), b""))
    assert not differs(sound, shape_of(2 * answer(MessageType.DATAGRAM, data), b"")), "asked twice"
    assert differs(sound, shape_of(answer(MessageType.DATAGRAM, data + b"\0"), b""))
    assert differs(sound, shape_of(answer(MessageType.NACK, b""), b""))
    assert words(shape_of(answer(MessageType.NACK, b""), b"")).startswith(REFUSAL)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_bytes_have_a_shape_of_their_own(data: bytes, sent: bytes) -> None:
    assert not differs(shape_of(data, sent), shape_of(data, sent))
    assert (shape_of(data, sent) == SILENCE) == (not data)


@pytest.mark.parametrize(
    ("notation", "command", "same"),
    [
        ("SENSe:CORRection:WAVelength?", "SENS:CORR:WAV?", True),
        ("SENSe:CORRection:WAVelength?", ":sense:corr:wavelength?", True),
        ("SENSe:CORRection:WAVelength 1550", "SENS:CORR:WAV 1.55E3", True),
        ("CLOCk:SOURce EXTernal", "CLOC:SOUR EXT", True),
        ("SENSe:CORRection:WAVelength 1550", "SENS:CORR:WAV 1551", False),
        ("SENSe:CORRection:WAVelength?", "SENS:CORR:WAV", False),
        ("SENSe:CORRection:WAVelength?", "SENS:CORR:WAVE?", False),
        ("OUTPut1:STATe 0", "OUTP2:STAT 0", False),
        ("TRIGger:LEVel 1.4,ATRigger", "TRIG:LEV 1.4", False),
    ],
)
def test_scpi_may_be_spelled_otherwise(notation: str, command: str, same: bool) -> None:
    assert means_the_same(notation, command) is same
