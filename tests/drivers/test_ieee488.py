"""IEEE 488.2 framing: blocks with any bytes, split anywhere, with and without a line feed after them."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.links.ieee488 import (
    MAX_BLOCK_BYTES,
    MAX_TEXT_BYTES,
    FramingError,
    MessageFramer,
    block_header,
    parse_error,
    split_outside_quotes,
    unquote,
)


def push(framer: MessageFramer, chunks: Iterable[bytes]) -> list[tuple[bytes, bytes | None]]:
    """Feed chunks as a socket would; (text, block) of each message."""
    messages = []
    for chunk in chunks:
        while chunk:
            buffer = framer.get_buffer()
            count = min(len(chunk), len(buffer))
            buffer[:count] = chunk[:count]
            chunk = chunk[count:]
            for message in framer.buffer_updated(count):
                messages.append((message.text, None if message.block is None else bytes(message.block)))
    return messages


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    ("n_bytes", "header"), [(0, b"#10"), (7, b"#17"), (12, b"#212"), (4 << 20, b"#74194304")]
)
def test_block_header_is_digit_count_and_length(n_bytes: int, header: bytes) -> None:
    assert block_header(n_bytes) == header


def test_block_longer_than_nine_digits_is_refused() -> None:
    assert block_header(MAX_BLOCK_BYTES) == b"#9999999999"
    with pytest.raises(ValueError, match="in parts"):
        block_header(MAX_BLOCK_BYTES + 1)


texts = st.from_regex(rb"[A-Z*:?]{1,12}( [a-z0-9,.]{0,12})?", fullmatch=True)
headers = st.sampled_from([b'WLIS:WAV:DATA "a",0,5,', b'MMEM:DATA "x#1.wfmx",', b"D "])
blocks = st.binary(max_size=80) | st.sampled_from([b"\n", b"\n\n#15", b'";\n*IDN?\n', b"#0\n"])


@settings(max_examples=150, deadline=None)
@given(
    plan=st.lists(st.tuples(texts, st.none()) | st.tuples(headers, blocks), max_size=6),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"", b";", b" ;:", b"\n\n"]), min_size=6, max_size=6),
    points=st.lists(st.integers(0, 2000), max_size=8),
)
def test_messages_survive_any_split_and_any_block_content(
    plan: list[tuple[bytes, bytes | None]], ends: list[bytes], points: list[int]
) -> None:
    stream, expected = b"", []
    for number, ((text, block), end) in enumerate(zip(plan, ends, strict=False)):
        last = number == len(plan) - 1
        if block is None:
            stream += text + (b"\r\n" if end == b"\r\n" else b"\n")
            expected.append((text.rstrip(), None))
        else:
            # After a block the line feed may be missing, or another command may follow at once.
            stream += text + block_header(len(block)) + block + (end.rstrip(b":") if not last else b"")
            expected.append((text, block))
    assert push(MessageFramer(), cut(stream, points)) == expected


def test_a_hash_in_quotes_or_inside_a_word_starts_no_block() -> None:
    stream = b'MMEM:DEL "a,#15.wfmx"\nX A#15,7\nY #H1F\nZ #15hello*IDN?\n'
    assert push(MessageFramer(), [stream]) == [
        (b'MMEM:DEL "a,#15.wfmx"', None),
        (b"X A#15,7", None),
        (b"Y #H1F", None),
        (b"Z ", b"hello"),
        (b"*IDN?", None),
    ]


def test_a_block_is_received_into_the_memory_that_the_sink_hands_out() -> None:
    memory = bytearray(8)
    framer = MessageFramer(lambda text, length: memoryview(memory)[:length])
    (text, block) = push(framer, [b"D #18abc", b"defgh"])[0]
    assert (text, block, memory) == (b"D ", b"abcdefgh", b"abcdefgh")


def test_a_declined_block_is_skipped_whole_and_reported_with_its_length() -> None:
    framer = MessageFramer(lambda text, length: None)
    stream = b"D #6200000" + b"\n" * 200_000 + b"*IDN?\n"
    assert push(framer, [stream]) == [(b"D ", None), (b"*IDN?", None)]


def test_open_block_names_the_text_while_bytes_are_missing() -> None:
    framer = MessageFramer()
    push(framer, [b"D #15ab"])
    assert framer.open_block == b"D "
    push(framer, [b"cde"])
    assert framer.open_block is None


def test_endless_text_is_refused() -> None:
    with pytest.raises(FramingError):
        push(MessageFramer(), [b"A" * (MAX_TEXT_BYTES + 70_000)])


def test_error_reply() -> None:
    assert parse_error('-222,"Data out of range"').code == -222
    assert parse_error('+0,"No error"').code == 0
    assert parse_error('0, "No, ""really"""\r').text == 'No, ""really""'
    assert parse_error("-113,Undefined header").text == "Undefined header"
    assert parse_error("-100,'Command error'").text == "Command error"
    assert (parse_error("0").code, parse_error("+0").code, parse_error("-410").code) == (0, 0, -410)
    for wrong in ("", "x,y", '1.5,"a"', "1", "0,5.3", "0.0", "1550"):
        with pytest.raises(ValueError, match="not of the form"):
            parse_error(wrong)


def test_splitting_respects_quotes() -> None:
    assert split_outside_quotes("a;b \"c;d\";'e;f'", ";") == ["a", 'b "c;d"', "'e;f'"]
    assert unquote(' "frame0" ') == "frame0"
    assert unquote("bare") == "bare"
    assert unquote('"') == '"'
