"""The SCPI side of the simulated instruments: headers, compound messages, error queue, faults on the wire."""

import socket
from collections.abc import Iterator

import pytest

from drivers.links.ieee488 import ProgramMessage
from sim_backends.faults import FaultInjector
from sim_backends.servers import Call, ErrorQueue, ScpiDevice, ScpiError, ScpiServer, header_pattern


class Device(ScpiDevice):
    def __init__(self) -> None:
        super().__init__("Acme,D,1,1", FaultInjector())
        self.calls: list[tuple[str, tuple[int, ...], tuple[str, ...]]] = []
        self.add("SOURce#:VOLTage[:LEVel]", self._note("volt"))
        self.add("SOURce#:VOLTage[:LEVel]?", lambda call: f"V{call.suffixes[0]}")
        self.add("SOURce#:MODE", lambda call: self._keep("mode", call, call.choice(0, "FIRSt", "LAST")))
        self.add("SOURce#:LENGth", lambda call: self._keep("length", call, str(call.number(0, {"MM": 1e-3}))))

    def _note(self, name: str):  # type: ignore[no-untyped-def]
        def handler(call: Call) -> None:
            self.calls.append((name, call.suffixes, call.arguments))

        return handler

    def _keep(self, name: str, call: Call, value: str) -> None:
        self.calls.append((name, call.suffixes, (value,)))

    def run(self, text: str) -> str | None:
        reply = self.execute(ProgramMessage(text.encode("latin-1")))
        return None if reply is None else reply.decode()


@pytest.mark.parametrize(
    "header",
    ["SOUR1:VOLT", "source1:voltage", "SOURce1:VOLT:LEV", "SOUR:VOLTage:LEVel", "SoUr01:VoLt"],
)
def test_long_short_and_optional_forms(header: str) -> None:
    pattern = header_pattern("SOURce#:VOLTage[:LEVel]")
    assert pattern.fullmatch(header)


@pytest.mark.parametrize("header", ["SOU1:VOLT", "SOURC1:VOLT", "SOUR1:VOLTA", "SOUR1:VOLT?", "SOUR1", ":X"])
def test_other_forms_do_not_match(header: str) -> None:
    assert header_pattern("SOURce#:VOLTage[:LEVel]").fullmatch(header) is None


def test_compound_headers_continue_on_the_same_level() -> None:
    device = Device()
    assert device.run('SOUR2:VOLT 1;MODE LAST;:SOUR1:VOLT? ;*IDN?;VOLT "a;b,c", 2') == "V1;Acme,D,1,1\n"
    assert device.calls == [
        ("volt", (2,), ("1",)),
        ("mode", (2,), ("LAST",)),
        ("volt", (1,), ('"a;b,c"', "2")),
    ]


def test_unknown_headers_get_no_reply_and_minus_113() -> None:
    device = Device()
    assert device.run("NO:SUCH?") is None
    assert device.run("SYST:ERR?") == '-113,"Undefined header"\n'
    assert device.run("SYSTem:ERRor:NEXT?") == '0,"No error"\n'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("SOUR1:MODE", -109),
        ("SOUR1:MODE NEVER", -224),
        ("SOUR1:LENG abc", -104),
        ("SOUR1:LENG 1KM", -104),
        ("SOUR1:LENG 1E999", -104),
        ("SOUR1:LENG nan", -104),
        ("\xe4", -101),
    ],
)
def test_wrong_parameters(text: str, code: int) -> None:
    device = Device()
    assert device.run(text) is None
    assert device.run("SYST:ERR:CODE?") == f"{code}\n"
    assert device.calls == []


def test_units_and_words() -> None:
    device = Device()
    device.run("SOUR1:LENG 2.5 mm;MODE first")
    assert device.calls == [("length", (1,), ("0.0025",)), ("mode", (1,), ("FIRS",))]


def test_the_queue_is_first_in_first_out_and_overflows() -> None:
    queue = ErrorQueue(depth=3)
    for code in (-1, -2, -3, -4):
        queue.push(ScpiError(code, "x"))
    assert [queue.next_reply() for _ in range(4)] == [
        '-1,"x"',
        '-2,"x"',
        '-350,"Queue overflow"',
        '0,"No error"',
    ]


def test_all_errors_at_once_and_clear() -> None:
    device = Device()
    device.run("A;B")
    assert device.run("SYST:ERR:ALL?") == '-113,"Undefined header",-113,"Undefined header"\n'
    device.run("A")
    device.run("*CLS")
    assert device.run("SYST:ERR:ALL?") == '0,"No error"\n'


@pytest.fixture
def served() -> Iterator[tuple[Device, socket.socket]]:
    device = Device()
    server = ScpiServer(device, device.faults)
    _, host, port, _ = server.serve("127.0.0.1", 0).split("::")
    with socket.create_connection((host, int(port)), timeout=5.0) as client:
        yield device, client
    server.close()


def test_two_messages_in_one_packet_and_one_in_two(served: tuple[Device, socket.socket]) -> None:
    _, client = served
    stream = client.makefile("rb")
    client.sendall(b"*IDN?\r\nSOUR2:VO")
    assert stream.readline() == b"Acme,D,1,1\n"
    client.sendall(b"LT?\n")
    assert stream.readline() == b"V2\n"


def test_planned_faults_act_on_the_wire(served: tuple[Device, socket.socket]) -> None:
    device, client = served
    stream = client.makefile("rb")
    device.faults.drop_replies(1)
    client.sendall(b"SOUR1:VOLT?\nSOUR2:VOLT?\n")
    assert stream.readline() == b"V2\n"
    device.faults.garbage(1)
    client.sendall(b"SOUR1:VOLT?\nSOUR2:VOLT?\n")
    line = stream.readline()
    assert line.endswith(b"V2\n")
    assert len(line) > 3
    device.faults.disconnect()
    client.sendall(b"SOUR1:VOLT 1\n")
    assert stream.readline() == b""
    assert device.calls == []


def test_the_address_of_a_closed_server_can_be_used_again() -> None:
    device = Device()
    first = ScpiServer(device, device.faults)
    port = int(first.serve("127.0.0.1", 0).split("::")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"*IDN?\n")
        client.recv(100)
        first.close()
        second = ScpiServer(device, device.faults)
        second.serve("127.0.0.1", port)
        second.close()
        second.close()
