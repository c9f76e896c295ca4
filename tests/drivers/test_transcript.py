"""The file of a transcript: what goes in comes out, what is none is refused with its line, what must not be in it is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.links.transcript import (
    VERSION,
    Entry,
    Header,
    LinkInfo,
    Outcome,
    Passed,
    Redactor,
    Source,
    Step,
    TranscriptError,
    from_text,
    to_text,
    without_blocks,
)

HEADER = Header(
    transcript=VERSION,
    model="oz-dd100",
    links=(LinkInfo("", "serial"), LinkInfo("counts_port", "tcp")),
    options={"timeout_s": 2.0},
    source=Source("someone/something", ("a.py",), only="twin"),
)
TIMES = st.integers(0, 10**6).map(lambda n: n / 10_000)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(-1, 1), st.text(), st.just([1.5, 2])
)
ENTRIES = st.one_of(
    st.builds(Passed, TIMES, st.integers(0, 1), st.sampled_from(["sent", "received"]), st.binary()),
    st.builds(Passed, TIMES, st.integers(0, 1), st.just("opened"), st.just(b"")),
    st.builds(
        Passed, TIMES, st.integers(0, 1), st.just("block"), st.integers(0, 10**9 - 1).map(lambda n: b"%d" % n)
    ),
    st.builds(Step, TIMES, st.sampled_from(["read", "set", "ask", "write"]), st.text(), VALUES),
    st.builds(Outcome, TIMES, VALUES),
    st.builds(Outcome, TIMES, failed=st.just("NoReadingError")),
    st.builds(Outcome, TIMES, kind=st.just("float")),
)


@given(st.lists(ENTRIES))
def test_what_is_written_is_read(entries: list[Entry]) -> None:
    read = from_text(to_text(HEADER, entries))
    assert read.header == HEADER
    assert list(read.entries) == entries


@given(st.text())
def test_any_other_file_is_refused(text: str) -> None:
    with pytest.raises(TranscriptError):
        from_text(text)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"at_s": 0', "line 3: no JSON"),
        ("[]", "line 3: no JSON object"),
        ('{"link": 0, "sent": "CD"}', "line 3: 'at_s'"),
        ('{"at_s": 0, "link": 2, "sent": "CD"}', "link 2 is none of the header's 2"),
        ('{"at_s": 0, "link": 0, "sent_hex": "0g"}', "line 3: non-hexadecimal"),
        ('{"at_s": 0, "link": 0, "shouted": "CD"}', "'shouted' is nothing that passes"),
        ('{"at_s": 0, "link": 0, "block_bytes": 1000000000000}', "no block has 1000000000000 bytes"),
        ('{"at_s": 0, "do": "explode"}', "line 3: Invalid enum value 'explode'"),
        ('{"at_s": 0, "took": 3}', "'took' is nothing that a transcript tells of"),
    ],
)
def test_a_wrong_line_is_named(line: str, why: str) -> None:
    text = to_text(HEADER, [Step(0.0, "connect")])
    with pytest.raises(TranscriptError, match=why.replace("(", r"\(")):
        from_text(f"{text}{line}\n")


def test_another_version_is_not_guessed_at() -> None:
    header = json.loads(to_text(HEADER, []))
    with pytest.raises(TranscriptError, match="but of version 2"):
        from_text(json.dumps({**header, "transcript": 2}))
    with pytest.raises(TranscriptError, match="line 1: Object contains unknown field `colour`"):
        from_text(json.dumps({**header, "colour": "red"}))


def test_steps_have_their_outcomes() -> None:
    entries: list[Entry] = [
        Step(0.0, "connect"),
        Outcome(0.1),
        Step(0.2, "read", "x"),
        Step(0.3, "safe_state"),
    ]
    pairs = list(from_text(to_text(HEADER, entries)).steps())
    assert [(step.do, outcome) for step, outcome in pairs] == [
        ("connect", Outcome(0.1)),
        ("read", None),
        ("safe_state", None),
    ]


def test_text_is_readable_and_all_else_hexadecimal() -> None:
    text = to_text(
        HEADER,
        [
            Passed(0.0, 0, "sent", b"CD\r"),
            Passed(0.0, 0, "received", b'{"label": 1}\x17'),
            Passed(0.0, 0, "received", b"\r\xa1\x01\x03\n"),
        ],
    )
    assert '"sent": "CD\\r"' in text
    assert '\\u0017"' in text
    assert '"received_hex": "0da101030a"' in text


def test_hosts_and_local_addresses_are_taken_out_and_versions_left() -> None:
    clean = Redactor(["tagger.lab.example", "/dev/serial/by-id/usb-NKT"]).text
    assert clean("start-stream --address tagger.lab.example --channel 1") == (
        "start-stream --address HOST --channel 1"
    )
    assert clean("at 192.168.35.236:12000, 10.0.0.7 and 127.0.0.1") == "at HOST:12000, HOST and HOST"
    assert clean("Keysight,N7764A,DE1,V1.20.3.4 and 2.2.0") == "Keysight,N7764A,DE1,V1.20.3.4 and 2.2.0"
    assert clean("open /dev/serial/by-id/usb-NKT") == "open HOST"
    assert Redactor([]).clean(b"\xff\x00") == b"\xff\x00"


@given(st.binary(max_size=200), st.sampled_from([b"", b"\n", b"\r\n"]))
def test_the_contents_of_a_block_are_taken_out(samples: bytes, end: bytes) -> None:
    length = str(len(samples)).encode()
    head = b'WLISt:WAVeform:DATA "frame0",0,10,#%d%b' % (len(length), length)
    assert list(without_blocks(head + samples + end)) == [(False, head), (True, length), (False, end)]


@pytest.mark.parametrize("text", [b"a #1 b", b'"#15"\n', b"#19short\n", b"#12abmore\n", b"#0"])
def test_what_only_looks_like_a_block_stays(text: bytes) -> None:
    assert list(without_blocks(text)) == [(False, text)]
