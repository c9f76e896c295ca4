"""The ID900 twin as IDQ's own Python examples talk to it (``utils/common.py``, ``utils/acquisitions.py``).

The client below is written after those examples: a plain TCP probe of each port, one REQ socket per service,
``timestamps`` streamed over a PAIR socket that connects before the service binds it.
"""

import json
import random
import socket

import numpy as np
import pytest
import zmq

from sim_backends.timetaggers.id900 import ID900Twin


@pytest.fixture
def host():
    pick = random.SystemRandom().randint
    return f"127.{pick(1, 250)}.{pick(1, 250)}.{pick(1, 250)}"


@pytest.fixture
def twin(host):
    served = ID900Twin(
        on_record=lambda duration_ps, index: {1: np.arange(0, 1300, 13, dtype=np.uint64), 3: np.uint64([26])}
    )
    assert served.serve(host) == f"{host}:5555"
    assert served.dlt_address == f"{host}:6060"
    yield served
    served.close()


@pytest.fixture
def context():
    with zmq.Context() as made:
        made.linger = 0
        yield made
        made.destroy(linger=0)


def connect(context, host, port):
    with socket.create_connection((host, port), timeout=5):
        pass  # check_host: the probe is closed without a word
    link = context.socket(zmq.REQ)
    link.rcvtimeo = 5000
    link.connect(f"tcp://{host}:{port}")
    return link


def zmq_exec(link, command):
    link.send_string(command)
    return link.recv().decode("utf-8")


def dlt_exec(link, command):
    answer = zmq_exec(link, command)
    answer = json.loads(answer) if answer.strip() else None
    if isinstance(answer, dict) and "error" in answer:
        raise RuntimeError(answer["error"].get("description"))
    return answer


@pytest.fixture
def tc(twin, context, host):
    return connect(context, host, 5555)


@pytest.fixture
def dlt(twin, context, host):
    return connect(context, host, 6060)


def record(tc, duration_s=1e-6):
    """The record set-up of ``acquire_timestamps``."""
    zmq_exec(tc, "REC:TRIG:ARM:MODE MANUal")
    zmq_exec(tc, "REC:ENABle ON")
    zmq_exec(tc, "REC:STOP")
    zmq_exec(tc, "REC:NUM 1")
    zmq_exec(tc, f"REC:DURation {duration_s * 1e12}")
    zmq_exec(tc, "REC:PLAY")
    while zmq_exec(tc, "REC:STAGe?").upper() == "PLAYING":
        pass


@pytest.mark.parametrize("with_ref_index", [False, True])
def test_streamed_timestamps(tc, dlt, context, host, with_ref_index):
    zmq_exec(tc, "INPU1:ENABle ON")
    zmq_exec(tc, "RAW1:ERRORS:CLEAR")
    stream = context.socket(zmq.PAIR)
    stream.rcvtimeo = 5000
    stream.connect(f"tcp://{host}:4242")  # before anybody listens there
    flag = " --with-ref-index" if with_ref_index else ""
    started = dlt_exec(dlt, f"start-stream --address {host} --channel 1 --stream-port 4242{flag}")
    zmq_exec(tc, "RAW1:SEND ON")
    record(tc)

    status = dlt_exec(dlt, f"status --id {started['id']}")
    assert status["acquisitions_count"] >= int(zmq_exec(tc, "REC:NUMber?"))
    assert status["timestamps_count"] == 100
    assert not status.get("error")
    assert isinstance(status["inactivity"], float)

    stopped = dlt_exec(dlt, f"stop --id {started['id']}")["status"]
    assert stopped["errors"] == []
    zmq_exec(tc, "RAW1:SEND OFF")
    assert int(zmq_exec(tc, "RAW1:ERRORS?")) == 0
    received = b""
    while (message := stream.recv()) != b"":
        received += message
    if with_ref_index:
        found = np.frombuffer(received, dtype=[("timestamp", "<u8"), ("refIndex", "<u8")])["timestamp"]
    else:
        found = np.frombuffer(received, dtype="<u8")
    assert found.tolist() == list(range(0, 1300, 13))  # ps, in steps of the resolution
    assert dlt_exec(dlt, "list") == []


def test_resolution_and_units(tc):
    assert int(zmq_exec(tc, "DEVI:RES:BWID?")) == 13
    assert zmq_exec(tc, "DEVIce:RESolution?") == "HIRES"
    assert zmq_exec(tc, "INPU2:THRE?").endswith("V")
    zmq_exec(tc, "REC:PWID 1000000;PPER 1040000")
    assert zmq_exec(tc, "REC:PPER?") == "1040000TB"


def test_msl_input_configuration_is_one_chained_command(tc):
    """The command string of MSL's ``configure_input``, units and returns to the root included."""
    reply = zmq_exec(
        tc,
        "INPUT1:ENABLE ON;COUPLING DC;EDGE FALLING;THRESHOLD 0.1V;SELECT UNSHAPED;RESYNCPOLICY AUTO;"
        ":INPUT1:COUNTER:INTEGRATIONTIME 1000;MODE CYCLE;:DELAY1:VALUE 2600",
    )
    assert not reply.endswith(("SCPI_ERR_PARAM_TYPE", "SCPI_ERR_INVALID_CMD"))
    assert zmq_exec(tc, "INPU1:EDGE?") == "FALLING"
    assert zmq_exec(tc, "INPU1:COUN:MODE?") == "CYCLE"
    assert zmq_exec(tc, "DELA1:VALU?") == "2600TB"
    assert zmq_exec(tc, "INPUT1:COUNTER:RESET") == "Counter value set to 0 "
    assert zmq_exec(tc, "INPUT1:HIRES:ERROR:CLEAR") == "Cleared Highres errors"


def test_chained_counters_come_line_by_line(tc):
    zmq_exec(tc, "INPU1:ENABle ON;:INPU3:ENABle ON")
    record(tc)
    reply = zmq_exec(tc, "INPU1:COUN?;:INPU3:COUN?;:STARt:COUN?")
    assert [int(x) for x in reply.splitlines()] == [100, 1, 0]


@pytest.mark.parametrize(
    ("command", "suffix"),
    [
        ("INPU1:COUP XY", "SCPI_ERR_PARAM_TYPE"),
        ("INPU1:THRE 0.1A", "SCPI_ERR_PARAM_UNITS"),
        ("INPU1:THRE 5V", "SCPI_ERR_INVALID_VALUE"),
        ("INPU1:THRE", "SCPI_ERR_PARAM_CNT"),
        ("INPU7:THRE 0.1V", "SCPI_ERR_INVALID_CMD"),
        ("REC:ENAB ON;REC:STOP", "SCPI_ERR_INVALID_CMD"),  # no leading colon: REC:REC:STOP
        ("STAR:RESY AUTO", "SCPI_ERR_INVALID_CMD"),
        ("", "SCPI_ERR_INVALID_CMD"),
    ],
)
def test_errors_are_the_reply(tc, command, suffix):
    assert zmq_exec(tc, command).endswith(suffix)
    assert zmq_exec(tc, "DEVI:RES:BWID?") == "13"


@pytest.mark.parametrize(
    "command",
    [
        "frobnicate",
        "status --id nobody",
        "stop --id nobody",
        "start-stream --address 10.0.0.1 --channel 1 --stream-port 4242",
        "start-stream --channel 1",
        "start-stream --address {host} --channel 9 --stream-port 4242",
        "start-stream --address {host} --channel 1 --stream-port 99999",
        "start-stream --address '{host}",
    ],
)
def test_failures_of_the_service_are_described(dlt, host, command):
    with pytest.raises(RuntimeError):
        dlt_exec(dlt, command.format(host=host))
    assert dlt_exec(dlt, "list") == []


def test_a_channel_is_acquired_once(dlt, host):
    command = f"start-stream --address {host} --channel 2 --stream-port "
    first = dlt_exec(dlt, command + "4243")
    with pytest.raises(RuntimeError, match="already"):
        dlt_exec(dlt, command + "4250")
    dlt_exec(dlt, f"stop --id {first['id']}")
    dlt_exec(dlt, command + "4243")


def test_a_disabled_record_generator_plays_nothing(tc):
    zmq_exec(tc, "REC:ENAB OFF")
    zmq_exec(tc, "REC:PLAY")
    assert zmq_exec(tc, "REC:STAGe?") == "STOPPED"
