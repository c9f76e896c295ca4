"""Replies of the DD-100 read as text: every position round trips, and nothing is read out of what is no reply."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.oz_replies import MAX_DB, MAX_LINES, Reply, ReplyError, ReplyReader

modest = settings(max_examples=80, derandomize=True, deadline=None)
centibels = st.integers(0, 10_000)


def read(*lines, command="D"):
    """The reply that the last line completes."""
    reader = ReplyReader(command)
    replies = [reader.feed(line) for line in lines]
    assert not any(replies[:-1])
    return replies[-1]


@modest
@given(
    centibels,
    st.sampled_from(["DPos:{0}|ATTEN:{1:.2f}", "Pos:{0}|Atten:{1:.2f}(dB)", "POS: {0}|atten: {1:.2f} dB"]),
)
def test_every_position_round_trips(centibel, form):
    lines = form.format(centibel * 2, centibel / 100).encode().split(b"|")
    assert read(b"D\r" + lines[0], *lines[1:], b"Done").position_db() == centibel / 100


@modest
@given(centibels, centibels)
def test_every_range_round_trips(low, high):
    reply = read(b"DD-100", b"IL:%.2f" % (low / 100), b"MAX ATTEN:%.2f" % (high / 100), b"Done", command="CD")
    assert reply.is_configuration
    if low < high:
        assert reply.range_db() == (low / 100, high / 100)
    else:
        with pytest.raises(ReplyError, match="makes no sense"):
            reply.range_db()


@modest
@given(st.lists(st.binary(max_size=40), max_size=30))
def test_what_is_no_reply_raises_one_kind_of_error_or_nothing(lines):
    reader = ReplyReader("D")
    for line in lines:
        try:
            reply = reader.feed(line)
        except ReplyError:
            return
        if reply is not None and not reply.refusal:
            with pytest.raises(ReplyError):
                reply.range_db()


@modest
@given(st.text(st.characters(codec="ascii"), max_size=12))
def test_a_number_is_digits_and_nothing_else(text):
    reply = Reply(("DPos:1", f"ATTEN:{text}"))
    try:
        found = reply.position_db()
    except ReplyError:
        return
    if found is None:
        assert text.strip().lower() == "unknown"
    else:
        assert 0 <= found <= MAX_DB
        assert math.isclose(found, float(text.lower().replace("(db)", "").replace("db", "")))


@pytest.mark.parametrize("text", ["1_0", "1e1", "+10", "-3", "nan", "inf", "0x10", "100.01", "12.00(mW)", ""])
def test_what_python_would_take_for_a_number_is_none(text):
    with pytest.raises(ReplyError, match="not an attenuation"):
        Reply(("DPos:1", f"ATTEN:{text}")).position_db()


def test_an_error_ends_a_reply():
    assert read(b"DPos:1", b"Error-7").refusal == "motor voltage beyond its safe limits (Error-7)"
    assert read(b"Error!").refusal == "no reason given (Error!)"
    assert read(b"Voltage out of range, Error!").refusal == "no reason given (Voltage out of range, Error!)"


def test_a_reply_without_an_end_is_given_up():
    reader = ReplyReader("D")
    for _ in range(MAX_LINES):
        assert reader.feed(b"x") is None
    with pytest.raises(ReplyError, match="does not end"):
        reader.feed(b"x")


@pytest.mark.parametrize(
    ("refused", "done"), [(b"Error-5", b"Done"), (b"ERROR-5", b"DONE"), (b"error-5!", b"done")]
)
def test_ends_of_replies_in_either_case(refused, done):
    assert read(refused).refusal.startswith("home sensor error")
    assert read(b"Pos:2400", b"ATTEN:12.00", done).position_db() == 12.0


def test_a_configuration_in_a_language_with_accents_is_text():
    reply = read("Optique à \xb5m".encode("latin-1"), b"MAX ATTEN:60.00", b"IL:1.00", b"Done", command="CD")
    assert reply.range_db() == (1.0, 60.0)


def test_the_largest_attenuation_is_known_where_the_insertion_loss_is_not():
    reply = read(b"IL:1,00", b"MAX ATTEN:60.00", b"Done", command="CD")
    assert reply.largest_db() == 60.0
    with pytest.raises(ReplyError, match="IL is '1,00', not an attenuation; this firmware differs"):
        reply.range_db()
