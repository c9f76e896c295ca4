"""A transport of SCPI that a test writes the answers for and whose bytes it compares."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

ERROR_QUERY = b"SYSTem:ERRor?\n"


class FakeTransport:
    """Records what is sent with its time limit; the error queue is empty, and its queries are not recorded.

    A query in ``answers`` has that answer, every other one the next of ``replies``, and a test may change both; ``end`` comes before the line's.
    """

    def __init__(
        self,
        answers: dict[bytes, str],
        replies: Iterable[str] = (),
        *,
        no_error: str = '+0,"No error"',
        end: str = "",
    ) -> None:
        self.sent: list[bytes] = []
        self.limits_s: list[float] = []
        self.answers = answers
        self.replies = deque(replies)
        self._no_error = no_error
        self._end = end

    def send(self, parts: tuple[bytes | memoryview, ...], deadline: float) -> None:
        self.asked = b"".join(bytes(part) for part in parts)
        if self.asked == ERROR_QUERY:
            return
        self.sent.append(self.asked)
        self.limits_s.append(deadline - time.monotonic())

    def read_line(self, deadline: float) -> bytes:
        query = self.asked.strip()
        if self.asked == ERROR_QUERY:
            answer = self._no_error
        else:
            answer = self.answers[query] if query in self.answers else self.replies.popleft()
        return (answer + self._end).encode()

    def trouble(self) -> str:
        return ""

    def close(self) -> None:
        return None
