"""What every process of a run draws through the door to the system's generator, and which secrets it uses.

When a module of the product that draws or uses a secret is loaded, it is wrapped: draws at the door and secrets
where they are used are written (their first 32 bytes), one JSON line each, to ``notes/PID.jsonl`` beside this
file.  Nothing of the product knows of it.

A file ``planted`` beside this one names modules, one a line, in which every use of the door - default arguments
and imported names - is replaced by a generator with a seed, as somebody might leave one behind.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import json
import os
import random
import sys
import threading
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLANTED = set((HERE / "planted").read_text().split()) if (HERE / "planted").exists() else set()
_lock = threading.Lock()
_seeded = random.Random(5)


def note(kind, data, **more):
    """One line; the beginning tells values apart."""
    line = json.dumps({"kind": kind, "hex": bytes(data[:32]).hex(), **more})
    with _lock, (HERE / "notes" / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(line + "\n")


def seeded_bytes(count):
    """A source that must not be there."""
    return _seeded.randbytes(count)


def seeded_hex(n_bytes):
    return seeded_bytes(n_bytes).hex()


def seeded_into(buffer):
    buffer[:] = seeded_bytes(len(buffer))


def plant(module):
    """Put the seeded generator wherever ``module`` would go through the door."""
    door = sys.modules["orchestrator.randomness"]
    swap = {
        door.random_bytes: seeded_bytes,
        door.random_hex: seeded_hex,
        door.random_into: seeded_into,
    }

    def swapped(value):
        with contextlib.suppress(TypeError):  # not hashable: no function of the door
            return swap.get(value, value)
        return value

    for name, value in list(vars(module).items()):
        functions = [value, *vars(value).values()] if isinstance(value, type) else [value]
        for function in functions:
            function = getattr(function, "__func__", function)
            if getattr(function, "__module__", None) == module.__name__ and hasattr(function, "__defaults__"):
                if function.__defaults__:
                    function.__defaults__ = tuple(map(swapped, function.__defaults__))
                for key, default in (function.__kwdefaults__ or {}).items():
                    function.__kwdefaults__[key] = swapped(default)
        setattr(module, name, swapped(value))


def used(kind):
    """Wrap a function whose result is a secret as it was drawn."""

    def wrap(function):
        @functools.wraps(function)
        def noting(*args, **kwargs):
            result = function(*args, **kwargs)
            note(kind, result)
            return result

        return noting

    return wrap


def door(module):
    system = module._system

    def drawn(count):
        data = system(count)
        note("drawn", data)
        return data

    module._system = drawn


def symbols(module):
    original = module.SymbolFrame.write_waveform

    def noting(frame, *args, **kwargs):
        note("symbols", frame._raw[:64].tobytes())
        return original(frame, *args, **kwargs)

    module.SymbolFrame.write_waveform = noting


def block(module):
    reference = module.CascadeReference

    def noting_reference(bits, n_bits, hint, seeds, limit):
        note("shuffles", seeds)
        return reference(bits, n_bits, hint, seeds, limit)

    module.CascadeReference = noting_reference
    module.draw_seed = used("amplification")(module.draw_seed)


def planner(module):
    labels = module.FourPhasePlan.draw_labels

    def noting_labels(plan, n_rounds, read_random):
        def read(count):
            data = read_random(count)
            note("coin labels", data)
            return data

        return labels(plan, n_rounds, read)

    module.FourPhasePlan.draw_labels = noting_labels


def sealing(module):
    real = module.AESGCM

    class Noting:
        def __init__(self, key):
            self._key, self._real = key, real(key)

        def encrypt(self, nonce, data, binding):
            note("data keys", self._key)
            return self._real.encrypt(nonce, data, binding)

        def decrypt(self, nonce, data, binding):
            return self._real.decrypt(nonce, data, binding)

    module.AESGCM = Noting
    original = module.Kek.__init__

    def noting(kek, key):
        note("store keys", key)
        original(kek, key)

    module.Kek.__init__ = noting


def store(module):
    original = module.KeyStore.install_initial_secret

    def noting(self, peer, auth_ab, auth_ba, **more):
        note("initial secrets", auth_ab.reveal_bytes())
        note("initial secrets", auth_ba.reveal_bytes())
        return original(self, peer, auth_ab, auth_ba, **more)

    module.KeyStore.install_initial_secret = noting


def agent(module):
    original = module.Agent.start

    def noting(self):
        note("instances", bytes.fromhex(self._instance))
        original(self)

    module.Agent.start = noting
    end = module.Agent._end_session

    def noting_end(self, state, reason):
        if state is not module.LinkState.CLOSED:
            note("link lost", reason.encode())
        end(self, state, reason)

    module.Agent._end_session = noting_end


def pair_worker(module):
    original = module.PairWorker.__init__

    def noting(self, *args, **kwargs):
        original(self, *args, **kwargs)
        channel = self._agent.channel

        def open_channel(peer, topic):
            prefix, _, rest = topic.partition("/")
            if prefix + "/" == module.LINE_PREFIX and "/" not in rest and self._pair_end == "first":
                note("topics", bytes.fromhex(rest))
            return channel(peer, topic)

        self._agent = _With(self._agent, channel=open_channel)

    module.PairWorker.__init__ = noting


def codec(module):
    original = module.encode

    def noting(message):
        nonce = getattr(message, "nonce", None)
        if isinstance(nonce, bytes):
            note("nonces", nonce)
        return original(message)

    module.encode = noting


def fl_server(module):
    if "--config" in sys.argv:
        run_id = tomllib.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())["run-id"]
        note("run ids", bytes.fromhex(run_id.partition("-")[2]))


def masking(module):
    """No secret: tells that a client is in the middle of a round."""
    original = module.DeliveryClient.masked_update

    def noting(self, context, *args, **kwargs):
        note("in a round", context.round.to_bytes(4, "big"))
        return original(self, context, *args, **kwargs)

    module.DeliveryClient.masked_update = noting


class _With:
    """An object with some attributes replaced."""

    def __init__(self, inner, **replaced):
        self.__dict__.update(replaced, _inner=inner)

    def __getattr__(self, name):
        return getattr(self._inner, name)


WRAPPED = {
    "orchestrator.randomness": door,
    "orchestrator.light.symbols": symbols,
    "orchestrator.postprocessing.block": block,
    "orchestrator.protocols.four_phase.planner": planner,
    "orchestrator.keystore.sealing": sealing,
    "orchestrator.keystore.store": store,
    "orchestrator.wire.codec": codec,
    "fl.carriers.zeromq.server": fl_server,
    "orchestrator.delivery.client": masking,
    "orchestrator.hub.agent": agent,
    "orchestrator.processes.pair_worker": pair_worker,
}


class Loader(importlib.abc.Loader):
    """Loads as usual, then wraps."""

    def __init__(self, inner, wrap):
        self._inner, self._wrap = inner, wrap

    def create_module(self, spec):
        return self._inner.create_module(spec)

    def exec_module(self, module):
        self._inner.exec_module(module)
        if module.__name__ in PLANTED:
            plant(module)
        if self._wrap is not None:
            self._wrap(module)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules above before anybody else does."""

    def find_spec(self, name, path=None, target=None):
        if name not in WRAPPED and name not in PLANTED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = Loader(spec.loader, WRAPPED.get(name))
        return spec


def install():
    """From here on the modules of this process are wrapped as they are loaded."""
    sys.meta_path.insert(0, Finder())
