"""The command line of a simulated DeCoF controller: expressions over named parameters, served over TCP.

What it understands of the language is what clients send: ``param-ref``, ``param-gsv``, ``param-set!``, ``exec``, ``+`` and lists with
quote, quasiquote and unquote (toptica-lasersdk ``toptica/lasersdk/asyncio/client.py``; QMI
``qmi/instruments/toptica/dlc.py``, whose values for several parameters at once come by ``(+ ...)`` and a quasiquoted list).
Codes of refusals are ours: clients ask for their sign only.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sim_backends.faults import FaultInjector
from sim_backends.tcp_server import TcpServer

GREETING = "DLC PRO {serial}\r\nWelcome to DeCoF Command Line\r\n> "
PROMPT = "\n> "
UNKNOWN, READ_ONLY, OUT_OF_RANGE, WRONG_TYPE = -11, -12, -13, -14
_TOKEN = re.compile(r'\s*("[^"]*"|[()`,\']|[^\s()`,\'"]+)')
Value: TypeAlias = "bool | int | float | str | list[Value]"


class DecofError(Exception):
    """A refusal with its code."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(f"Error: {code} {text}")


@dataclass
class Parameter:
    """``read`` gives its value; ``write`` takes one, or raises DecofError; None for what can only be read."""

    read: Callable[[], Value]
    write: Callable[[Value], None] | None = None


class Interpreter:
    """Evaluates lines over ``parameters``; ``commands`` are what ``exec`` can do."""

    def __init__(
        self,
        parameters: dict[str, Parameter],
        commands: dict[str, Callable[[list[Value]], Value]],
    ) -> None:
        self._parameters = parameters
        self._commands = commands

    def answer(self, line: str) -> str:
        """The value of an expression in the controller's notation, or an error."""
        try:
            tokens = _TOKEN.findall(line)
            expression = _parse(tokens)
            if tokens:
                raise DecofError(UNKNOWN, "more than one expression")
            return _shown(self._value(expression))
        except DecofError as error:
            return str(error)

    def _value(self, expression: Value) -> Value:
        if not isinstance(expression, list):
            return _literal(expression)
        if not expression:
            raise DecofError(UNKNOWN, "an empty form")
        head, rest = expression[0], expression[1:]
        if head == "quote":
            return rest[0]
        if head == "quasiquote":
            inside = rest[0] if isinstance(rest[0], list) else []
            return [self._value(each[1]) if isinstance(each, list) else each for each in inside]
        if head == "+":
            return sum(value for value in map(self._value, rest) if isinstance(value, int))
        name = str(self._value(rest[0])) if rest else ""
        if head in ("param-ref", "param-gsv"):
            return self._parameter(name).read()
        if head == "param-set!" and len(rest) == 2:
            return self._set(name, rest[1])
        if head == "exec" and name in self._commands:
            return self._commands[name]([self._value(each) for each in rest[1:]])
        raise DecofError(UNKNOWN, f"no such form or command: {head}")

    def _parameter(self, name: str) -> Parameter:
        if name not in self._parameters:
            raise DecofError(UNKNOWN, f"no such parameter: {name}")
        return self._parameters[name]

    def _set(self, name: str, value: Value) -> int:
        """The status of a setting: what is refused is a number, not an error."""
        try:
            parameter = self._parameter(name)
            if parameter.write is None:
                return READ_ONLY
            quoted = isinstance(value, list) and value[:1] == ["quote"]
            parameter.write(
                self._value(value[1]) if quoted and isinstance(value, list) else self._value(value)
            )
        except DecofError as error:
            return error.code
        return 0


def boolean(value: Value) -> bool:
    """``value`` as a switch; DecofError for anything else."""
    if isinstance(value, bool):
        return value
    raise DecofError(WRONG_TYPE, "not a boolean")


def number(value: Value, low: float, high: float) -> float:
    """``value`` as a number in [low, high]; DecofError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DecofError(WRONG_TYPE, "not a number")
    if not low <= value <= high:
        raise DecofError(OUT_OF_RANGE, f"not in {low:g}..{high:g}")
    return float(value)


def _parse(tokens: list[str]) -> Value:
    """The first expression of ``tokens``, which are used up."""
    if not tokens:
        raise DecofError(UNKNOWN, "an unfinished expression")
    token = tokens.pop(0)
    if token in ("'", "`", ","):
        return [{"'": "quote", "`": "quasiquote", ",": "unquote"}[token], _parse(tokens)]
    if token != "(":
        return token
    form: list[Value] = []
    while tokens and tokens[0] != ")":
        form.append(_parse(tokens))
    if not tokens:
        raise DecofError(UNKNOWN, "an unfinished expression")
    tokens.pop(0)
    return form


def _literal(token: Value) -> Value:
    if not isinstance(token, str):
        return token
    if token.lower() in ("#t", "#f"):
        return token.lower() == "#t"
    if token.startswith('"'):
        return token[1:-1]
    try:
        return int(token) if re.fullmatch(r"[+-]?\d+", token) else float(token)
    except ValueError:
        raise DecofError(UNKNOWN, f"unbound: {token}") from None


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "#t" if value else "#f"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"({' '.join(map(_shown, value))})"
    return repr(value)


class CommandLine(TcpServer):
    """Serves an interpreter to any number of clients; ``echoes`` says whether expressions are repeated."""

    def __init__(
        self,
        answer: Callable[[str], str],
        greeting: str,
        faults: FaultInjector,
        echoes: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__("decof")
        self._answer, self._greeting, self._faults, self._echoes = answer, greeting, faults, echoes

    def serve(self, host: str, port: int) -> str:
        """Listen; returns ``host:port``."""
        return "{}:{}".format(*self.listen(host, port))

    def _talk(self, connection: socket.socket) -> None:
        heard = b""
        with contextlib.suppress(OSError):  # the client left
            connection.sendall(self._greeting.encode())
            while (data := connection.recv(1 << 16)) and not self._faults.take_disconnect():
                *lines, heard = (heard + data).split(b"\n")
                for line in filter(None, (each.decode("latin-1").strip() for each in lines)):
                    echo = line + "\n" if self._echoes() else ""
                    if out := self._faults.reply((echo + self._answer(line) + PROMPT).encode("latin-1")):
                        connection.sendall(out)
