"""What each application may draw as master in a UTC day, and how many requests a second it may make.

Bits count from the moment they are ordered.  They are given back where the order failed before any key was set aside for
it; keys that were, and that the application then gave up, stay counted until another order of the same kind gets them:
otherwise whoever asks and hangs up could empty a pair's stock without having drawn a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lab.key_delivery import Application
from orchestrator import runtime
from orchestrator.delivery.key_desk import KeysUnavailableError
from orchestrator.keystore.store import KeyStore


class Quotas:
    """Of all applications of one node; thread-safe."""

    def __init__(
        self, applications: Mapping[str, Application], store: KeyStore, today: Callable[[], int]
    ) -> None:
        """``today``: the UTC day, in days since 1970."""
        self._applications, self._store, self._today = applications, store, today
        self._lock = runtime.lock()
        self._day = -1
        self._used: dict[str, int] = {}
        """Bits of this day, by application; read from the store once."""
        self._rates = {name: _Rate(entry.requests_per_s) for name, entry in applications.items()}

    def check_rate(self, caller: str) -> None:
        """Count a request; raises KeysUnavailableError for one too many."""
        if caller in self._rates and not self._rates[caller].take():
            most = self._applications[caller].requests_per_s
            raise KeysUnavailableError(f"{caller} makes more than {most:g} requests a second", reason="quota")

    def take(self, caller: str, bits: int) -> Callable[[], None]:
        """Count ``bits`` as used; what to call if the order failed.  Raises KeysUnavailableError, or as the store does."""
        most, day = self._applications[caller].bits_per_day, self._today()
        with self._lock:
            if day != self._day:
                self._day, self._used = day, {}
            if caller not in self._used:
                self._used[caller] = self._store.windows.drawn_bits(caller, day)
            if most and self._used[caller] + bits > most:
                raise KeysUnavailableError(
                    f"the quota of {caller}, {most} bits a day, is used up", reason="quota"
                )
            self._used[caller] += bits
        return lambda: self.set_aside(caller, -bits, day)

    def set_aside(self, master: str, bits: int, day: int) -> None:
        """Count ``bits`` of ``day`` that were drawn and that nobody got; below 0, bits that somebody else got after all."""
        with self._lock:
            if day == self._day and master in self._used:
                self._used[master] += bits


class _Rate:
    """A bucket that holds one second's worth of requests."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._size = max(1.0, per_s)
        self._left = self._size
        self._at = runtime.now()
        self._lock = runtime.lock()

    def take(self) -> bool:
        if not self._per_s:
            return True
        with self._lock:
            now = runtime.now()
            self._left = min(self._size, self._left + (now - self._at) * self._per_s)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True
