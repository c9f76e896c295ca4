"""Static: no code of the product draws randomness but through ``orchestrator/randomness.py``.

Generators with a stated seed are not sources of randomness: simulation, data sets and whatever must be
repeated use them.  What else is allowed stands in :data:`ALLOWED`, each with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("drivers", "sim_backends", "lab", "orchestrator", "fl")
DOOR = "orchestrator/randomness.py"

ALLOWED = {
    ("sim_backends/bench.py", "random"): "which loopback block the simulated instruments get: no secret",
    ("sim_backends/bench.py", "SystemRandom"): "the same",
    ("sim_backends/bench_addresses.py", "random"): "the type of the generator above",
    ("orchestrator/wire/curve.py", "curve_keypair"): "libzmq draws CURVE pairs itself, from libsodium",
}

MODULES = {"random", "secrets", "uuid"}
SOURCES = {
    "urandom",
    "getrandom",
    "SystemRandom",
    "RandomState",
    "curve_keypair",
    "generate_key",
    "generate_private_key",
    "token_bytes",
    "token_hex",
    "token_urlsafe",
    "uuid1",
    "uuid4",
    "randbytes",
    "getrandbits",
    "RAND_bytes",
    "initial_seed",
}
NEED_A_SEED = {"default_rng", "SeedSequence", "PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937", "Random"}
GLOBAL_GENERATORS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "dropout"),
    *("rand_like", "randn_like", "randint_like", "random", "choice", "shuffle", "permutation", "seed"),
    *("random_sample", "uniform", "standard_normal", "bytes", "integers"),
}
"""Functions of ``numpy.random`` and ``torch`` that draw from the generator of the whole process."""

DEVICES = ("/dev/urandom", "/dev/random", "/dev/hwrng")


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an expression of names and attributes, with ``?`` for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def unseeded(call: ast.Call) -> bool:
    """Whether a generator is made without a seed, or with None for one."""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return not given or any(isinstance(value, ast.Constant) and value.value is None for value in given)


def draws(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of everything in ``source`` that is a source of randomness of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if node.module in MODULES:
                yield node.lineno, str(node.module)
            names = {alias.name for alias in node.names}
            yield from ((node.lineno, name) for name in sorted(names & SOURCES))
            if node.module in ("numpy.random", "torch"):
                yield from ((node.lineno, name) for name in sorted(names & GLOBAL_GENERATORS))
        elif isinstance(node, ast.Attribute) and node.attr in SOURCES:
            yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and node.value in DEVICES:
            yield node.lineno, str(node.value)
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            owner, _, last = name.rpartition(".")
            if last in NEED_A_SEED and unseeded(node):
                yield node.lineno, last
            own_generator = any(keyword.arg == "generator" for keyword in node.keywords)
            whole_process = last in GLOBAL_GENERATORS and owner in ("np.random", "numpy.random", "torch")
            if whole_process and not own_generator:
                yield node.lineno, name
            if last in ("import_module", "__import__"):
                asked = {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
                yield from ((node.lineno, name) for name in sorted(MODULES & asked))
            if last == "seed" and not node.args:
                yield node.lineno, name


def test_every_draw_goes_through_the_door() -> None:
    found = set()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name == DOOR:
                continue
            for line, source in draws(path.read_text(encoding="utf-8")):
                found.add((name, source))
                assert (name, source) in ALLOWED, f"{name}:{line} draws from {source}; use {DOOR}"
    assert found == set(ALLOWED), "an entry of ALLOWED that nothing needs"


@pytest.mark.parametrize(
    "planted",
    [
        "import secrets",
        "from secrets import token_bytes",
        "import random as names",
        "import uuid",
        "import os\nkey = os.urandom(32)",
        "from os import urandom as fresh",
        "import os\nkey = os.getrandom(32)",
        "def f(random_bytes=os.urandom): ...",
        "rng = np.random.default_rng()",
        "rng = np.random.default_rng(None)",
        "rng = numpy.random.default_rng(seed=None)",
        "rng = np.random.Generator(np.random.PCG64())",
        "seed = np.random.SeedSequence().entropy",
        "x = np.random.bytes(16)",
        "np.random.shuffle(order)",
        "from numpy.random import randint",
        "order = torch.randperm(10)",
        "torch.Generator().seed()",
        "key = AESGCM.generate_key(256)",
        "key = open('/dev/urandom', 'rb').read(32)",
        "source = importlib.import_module('secrets')",
        "public, secret = zmq.curve_keypair()",
    ],
)
def test_a_source_beside_the_door_is_found(planted: str) -> None:
    assert list(draws(planted))


def test_a_generator_with_a_seed_is_none() -> None:
    assert not list(draws("rng = np.random.default_rng([seed, 7])\nx = rng.integers(0, 4)\n"))
    assert not list(draws("order = torch.randperm(10, generator=generator)\n"))


@pytest.mark.parametrize("mode", ["otp", "lightsecagg", "expanded"])
def test_every_mode_says_what_is_claimed_of_randomness_in_the_same_words(mode: str) -> None:
    from fl.experiments.notes import notes_for
    from fl.rounds.config import FLConfig
    from orchestrator.randomness import CLAIM

    note = notes_for(FLConfig("run", "task", ("a", "b", "c"), mode=mode))[0]
    assert note.startswith(f"mode {mode}: ")
    assert note.endswith(CLAIM)
