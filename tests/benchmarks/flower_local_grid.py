"""Flower's messages as function calls in one process: for measuring without an engine's waiting times.

Flower lets messages be made only inside a task of its own, whose identity it sets by a name that is not public.
So this stands here and not in the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from orchestrator.randomness import random_below, random_hex

SERVER_NODE = 1
FIRST_CLIENT = 1000


class LocalGrid(Grid):
    """``n_clients`` copies of ``app`` that answer one after the other when they are asked."""

    def __init__(self, app: ClientApp, n_clients: int) -> None:
        self._run_id = random_below(1 << 63)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run_id, SERVER_NODE, 1
        self._app = app
        self._contexts = {
            FIRST_CLIENT + index: Context(
                self._run_id,
                FIRST_CLIENT + index,
                {"partition-id": index, "num-partitions": n_clients},
                RecordDict(),
                {},
            )
            for index in range(n_clients)
        }
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """The run is made up here."""

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=self._run_id)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message, as Flower's older interface makes them."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have every message answered."""
        ids = []
        for message in messages:
            name = random_hex(16)
            message.metadata.__dict__["_message_id"] = name
            delivered = deepcopy(message)  # client and server share no object
            self._replies[name] = deepcopy(self._app(delivered, self._contexts[message.metadata.dst_node_id]))
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))
