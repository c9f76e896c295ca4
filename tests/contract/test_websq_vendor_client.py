"""The WebSQ twin as the vendor's ``WebSQControl.py`` reads it, with that client's own weaknesses.

The reader below keeps to the vendor's way: it splits at 0x17 and at ``}{``, parses each ``recv`` of the
control connection on its own and only the first line of each ``recv`` of the counts connection.
"""

import json
import socket

import pytest

from sim_backends.detectors.websq import WebSQTwin


@pytest.fixture
def twin():
    served = WebSQTwin(
        4,
        count_rates=lambda: [100.0, 200.0, 300.0, 400.0],
        measurement_period_ms=10.0,
        control_port=0,
        counts_port=0,
    )
    served.address = served.serve("127.0.0.1")
    yield served
    served.close()


@pytest.fixture
def control(twin):
    host, port = twin.address.split(":")
    with socket.create_connection((host, int(port)), timeout=2.0) as connection:
        yield connection


def talk(connection, message):
    connection.sendall(bytes(json.dumps(message), "utf-8"))


def one_recv(connection):
    """What SQTalk makes of one ``recv``: every piece between separators, parsed alone."""
    text = str(connection.recv(10_000_000), "utf-8")
    assert text.endswith("\x17")
    assert "}{" not in text
    return [json.loads(piece) for piece in text.split("\x17") if piece]


def test_label_properties_come_in_one_read(control):
    talk(control, {"request": "labelProps", "value": "None"})
    properties = {message["label"]: message["value"] for message in one_recv(control)}
    assert properties["NumberOfDetectors"]["value"] == 4
    assert len(properties["BiasCurrent"]["value"]) == 4
    assert properties["DetectorEnable"]["value"] is False
    assert {"InptMeasurementPeriod", "TriggerLevel", "BiasVoltage", "StartAutoIV"} <= properties.keys()


def test_changes_are_broadcast_with_a_plain_value(twin, control):
    host, port = twin.address.split(":")
    with socket.create_connection((host, int(port)), timeout=2.0) as watcher:
        talk(watcher, {"request": "labelProps", "value": "None"})
        one_recv(watcher)
        talk(control, {"command": "SetAllBiasCurrents", "label": "BiasCurrent", "value": [1, 2, 3, 4]})
        assert one_recv(watcher) == [{"label": "BiasCurrent", "value": [1, 2, 3, 4]}]
        assert one_recv(control) == [{"label": "BiasCurrent", "value": [1, 2, 3, 4]}]


def test_commands_without_anything_between_them(control):
    first = json.dumps({"command": "DetectorEnable", "label": "DetectorEnable", "value": True})
    second = json.dumps({"request": "BiasVoltage"})
    control.sendall(bytes(first + second, "utf-8"))
    found = []
    while len(found) < 2:
        found += one_recv(control)
    assert [message["label"] for message in found] == ["DetectorEnable", "BiasVoltage"]


@pytest.mark.parametrize(
    ("command", "label", "value"),
    [
        ("SetAllBiasCurrents", "BiasCurrent", [91.0, 0, 0, 0]),
        ("SetAllBiasCurrents", "BiasCurrent", [1, 2]),
        ("SetMeasurementPeriod", "InptMeasurementPeriod", 5),
        ("DetectorEnable", "DetectorEnable", 1),
    ],
)
def test_bad_values_come_back_under_an_error_label(control, command, label, value):
    talk(control, {"command": command, "label": label, "value": value})
    assert "Error" in one_recv(control)[0]["label"]


def test_malformed_requests_do_not_stop_the_controller(control):
    control.sendall(b"]]hello")
    control.sendall(b'{"request":"BiasVoltage"}')
    assert one_recv(control)[0]["label"] == "BiasVoltage"


def test_each_counts_line_is_one_read(twin, control):
    talk(control, {"command": "DetectorEnable", "label": "DetectorEnable", "value": True})
    one_recv(control)
    with socket.create_connection(("127.0.0.1", twin.counts_port), timeout=2.0) as counts:
        lines = [str(counts.recv(1_000_000), "utf-8") for _ in range(3)]
    stamps = []
    for line in lines:
        assert line.count("\n") == 1
        fields = [float(field) for field in line.split("\n")[0].split(",")]
        assert fields[1:] == [1.0, 2.0, 3.0, 4.0]
        stamps.append(fields[0])
    assert stamps == sorted(set(stamps))
