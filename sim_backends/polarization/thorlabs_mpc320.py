"""A simulated Thorlabs MPC320 behind a pseudo-terminal: three motorised paddles that speak APT.

Messages, layouts and counts: QMI ``qmi/instruments/thorlabs/apt_packets.py`` and ``mpc320.py``; that a motor moves only while
its channel is enabled, that enabling names all channels that are to be so, and where the status tells it: PnPQ
``src/pnpq/devices/polarization_controller_thorlabs_mpc.py``.  A move to a position is answered with a status when it is over
(QMI), a jog in the short form (PnPQ).  What it does not know it ignores.

It wakes up with its paddles where they were left, motors off, at half of its speed (as in the protocol's example).  ``left_by_someone`` is slow and says
its status unasked, ten times a second.  A paddle comes to rest up to ``miss_counts`` from where it was sent.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivers.links.apt import HOST, UNIT, AptError, AptMessage, AptReader, encode
from sim_backends.faults import FaultInjector
from sim_backends.optics_polarization import Jones
from sim_backends.polarization.fibre import PaddledFibre
from sim_backends.serial_server import PtyServer
from sim_backends.site import Simulated, Site

CHANNELS = (1, 2, 4)
MOST_COUNTS, MOST_DEG = 1370, 170.0
FULL_SPEED_COUNTS_PER_S = 400.0 * MOST_COUNTS / MOST_DEG
TICK_S = 0.02
UPDATE_S = 0.1
MISS_COUNTS = 1
"""Of a usual unit (chosen)."""


def build(site: Site) -> Simulated:
    """The controller in front of its owner's next polariser."""
    twin = ThorlabsMPC320Twin(
        on_jones=site.set_polarization,
        fibre=PaddledFibre.made(site.made, site.spread),
        miss_counts=round(MISS_COUNTS * site.spread),
        serial_number=38_000_000 + site.number,
        seed=site.seed,
        clock=site.clock,
    )
    return Simulated(twin, twin.serve)


@dataclass
class _Paddle:
    counts: int
    enabled: bool = False
    target: int | None = None
    begun_at: float = 0.0
    arrives_at: float = 0.0
    told_as: int = 0
    """The message that tells of its arrival."""


class ThorlabsMPC320Twin:
    """The controller; ``on_jones`` hears what its ``fibre`` makes of light whenever a paddle has come to rest."""

    def __init__(
        self,
        *,
        on_jones: Callable[[Jones], None] = lambda jones: None,
        fibre: PaddledFibre | None = None,
        miss_counts: int = 0,
        left_by_someone: bool = False,
        serial_number: int = 38_000_001,
        model: str = "MPC320",
        seed: int = 1,
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self._on_jones = on_jones
        self._fibre = fibre or PaddledFibre.made(np.random.default_rng(0), 0.0)
        self._miss_counts = miss_counts
        self._serial_number = serial_number
        self._model = model
        self._rng = np.random.default_rng([seed, serial_number])
        self._clock = clock
        self._lock = threading.RLock()
        self._paddles = {
            channel: _Paddle(counts)
            for channel, counts in zip(
                CHANNELS, (37, 1201, 666) if left_by_someone else (0, 0, 0), strict=True
            )
        }
        self._parameters = [0, 10 if left_by_someone else 50, 0, 25, 25, 25]
        self._updates = left_by_someone
        self._updated_at = clock()
        self._reader = AptReader(me=UNIT, source=HOST)
        self._server = PtyServer(self._receive, self.faults, on_tick=self.tick, tick_s=TICK_S)
        self._tell()

    def serve(self, host: str = "") -> str:
        """Open a pseudo-terminal; ``host`` does not matter on a serial line."""
        return self._server.serve("mpc320")

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return {
                "counts": [each.counts for each in self._paddles.values()],
                "moving": [each.target is not None for each in self._paddles.values()],
                "speed_percent": self._parameters[1],
            }

    def is_safe(self) -> bool:
        """Always: it emits nothing, and its safe state is wherever it stands."""
        return True

    def tick(self) -> None:
        """Let paddles arrive, and say what is to be said unasked."""
        said: list[AptMessage] = []
        with self._lock:
            now = self._clock()
            for channel, paddle in self._paddles.items():
                if paddle.target is not None and now >= paddle.arrives_at:
                    missed = self._rng.integers(-self._miss_counts, self._miss_counts + 1)
                    paddle.counts = min(max(paddle.target + int(missed), 0), MOST_COUNTS)
                    said += self._arrived(channel, paddle)
            if self._updates and now >= self._updated_at + UPDATE_S:
                self._updated_at = now
                said += [self._status(channel) for channel in CHANNELS]
            moved = any(message.number in (0x0444, 0x0464) for message in said)
        if moved:
            self._tell()
        self._send(said)

    def _arrived(self, channel: int, paddle: _Paddle) -> list[AptMessage]:
        paddle.target = None
        if paddle.told_as == 0x0464:
            return [AptMessage(0x0464, data=self._status(channel).data)]
        return [AptMessage(paddle.told_as or 0x0464, channel)]

    def _tell(self) -> None:
        with self._lock:
            angles = [each.counts * MOST_DEG / MOST_COUNTS for each in self._paddles.values()]
            jones = self._fibre.jones(angles)
        self._on_jones(jones)

    def _receive(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except AptError:
            return  # it waits for the next
        for message in messages:
            self.tick()
            with self._lock:
                said = self._obey(message)
            self._send([said] if said else [])

    def _send(self, messages: list[AptMessage]) -> None:
        if messages:
            self._server.send(b"".join(encode(each, destination=HOST, source=UNIT) for each in messages))

    def _obey(self, message: AptMessage) -> AptMessage | None:
        """Do what a message asks for; the answer, if it has one."""
        number, p1, data = message.number, message.p1, message.data
        if number == 0x0005:
            return AptMessage(0x0006, data=self._info())
        if number in (0x0011, 0x0012):
            self._updates = number == 0x0011
        elif number == 0x0210:
            for channel, paddle in self._paddles.items():  # those that are not named are disabled
                paddle.enabled = message.p2 == 1 and bool(p1 & channel)
        elif number == 0x0211 and p1 in self._paddles:
            return AptMessage(0x0212, p1, 1 if self._paddles[p1].enabled else 2)
        elif number == 0x0490 and p1 in self._paddles:
            return self._status(p1)
        elif number == 0x0530 and len(data) == 12:
            self._set_parameters(struct.unpack("<6H", data))
        elif number == 0x0531:
            return AptMessage(0x0532, data=struct.pack("<6H", *self._parameters))
        else:
            return self._move(message)
        return None

    def _set_parameters(self, parameters: tuple[int, ...]) -> None:
        if 10 <= parameters[1] <= 100:
            self._parameters = list(parameters)

    def _move(self, message: AptMessage) -> AptMessage | None:
        number, data = message.number, message.data
        channel = struct.unpack_from("<H", data)[0] if len(data) == 6 else message.p1
        paddle = self._paddles.get(channel)
        if paddle is None:
            return None
        if number == 0x0465:
            paddle.counts, paddle.target = self._position(paddle), None
            self._tell()
            return AptMessage(0x0466, data=self._status(channel).data)
        by = struct.unpack_from("<i", data, 2)[0] if len(data) == 6 else 0
        targets = {
            0x0443: self._parameters[2],
            0x0448: self._position(paddle) + by,
            0x0453: by,
            0x046A: self._position(paddle)
            + self._parameters[3 + CHANNELS.index(channel)] * (1 if message.p2 == 1 else -1),
        }
        if number in targets and paddle.enabled and 0 <= targets[number] <= MOST_COUNTS:
            self._set_out(paddle, targets[number], {0x0443: 0x0444, 0x046A: 0}.get(number, 0x0464))
        return None

    def _set_out(self, paddle: _Paddle, target: int, told_as: int) -> None:
        paddle.counts = self._position(paddle)
        speed = FULL_SPEED_COUNTS_PER_S * self._parameters[1] / 100
        paddle.target, paddle.told_as = target, told_as
        paddle.begun_at = self._clock()
        paddle.arrives_at = paddle.begun_at + abs(target - paddle.counts) / speed

    def _position(self, paddle: _Paddle) -> int:
        """Where a paddle is at this moment, on its way too."""
        if paddle.target is None:
            return paddle.counts
        whole_s = paddle.arrives_at - paddle.begun_at
        done = min((self._clock() - paddle.begun_at) / whole_s, 1.0) if whole_s else 1.0
        return round(paddle.counts + (paddle.target - paddle.counts) * done)

    def _status(self, channel: int) -> AptMessage:
        paddle = self._paddles[channel]
        bits = 0x0100 | (0x8000_0000 if paddle.enabled else 0)
        velocity = current = 0
        if paddle.target is not None:
            bits |= 0x10 if paddle.target > paddle.counts else 0x20
            velocity, current = self._parameters[1], 60
        counts = self._position(paddle)
        return AptMessage(0x0491, data=struct.pack("<HiHhI", channel, counts, velocity, current, bits))

    def _info(self) -> bytes:
        name = self._model.encode("ascii").ljust(8, b"\0")
        return struct.pack("<I8sH4B60sHHH", self._serial_number, name, 44, 2, 1, 57, 0, b"", 1, 3, 3)
