"""Keys to applications: both ends give away the same bits, once, whatever the line between them does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator import runtime
from orchestrator.delivery.key_desk import (
    BadKeyRequestError,
    KeysUnavailableError,
    WrongCallerError,
)
from orchestrator.events.delivery import KeysDelivered, KeysRefused
from orchestrator.keystore.lanes import AUTH_LANES, Lane
from orchestrator.keystore.windows import LEAST_WINDOW_BITS, WINDOW_SHARE, window_bits
from tests.helpers.key_delivery import KeyWorld, balanced, honest, same, waited_for

ID = "bc490419-7d60-487f-adc1-4ddcc177c139"
NO_KEY_IDS = ("", "x", ID[:-1], ID.replace("-", ""), f"{ID}\n", f" {ID}", ID.replace("9", "٩"))


def given_up(world: KeyWorld, bits: int) -> runtime.Future[list]:
    """An order whose application leaves when the keys are on their way; or one that was refused."""
    end = world.master_ends["alice"]

    def nothing_about_keys(sender: str, _: int, payload: bytes) -> bytes | None:
        return None if sender == "bob" and end._sent is not None else payload

    world.meddle = nothing_about_keys
    future = world.desks["alice"].enc_keys("app1", "app2", 1, bits)
    if not future.done():
        waited_for(lambda: end._sent is not None)
        assert future.cancel()
    world.meddle = honest
    waited_for(lambda: end._sent is None)
    return future


@pytest.fixture
def world(tmp_path: Path) -> Iterator[KeyWorld]:
    with KeyWorld(tmp_path) as made:
        yield made


def test_both_ends_get_the_same_keys_once(world: KeyWorld) -> None:
    given = world.give(3, 512)
    ids = [key.key_id for key in given]
    fetched = world.fetch(ids)
    assert same(given, fetched)
    assert {len(key.key) for key in given} == {512}
    with pytest.raises(BadKeyRequestError, match="not found on KME"):
        world.fetch(ids)
    for name in ("alice", "bob"):
        ledger = world.stores[name].lane_ledger(world.peer(name), Lane.OTP_AB)
        assert (ledger.delivered, ledger.authentication) == (3 * 512, 256)
        assert world.stores[name].windows.uses() == [
            ("app1", "bob", "master", 3, 1536) if name == "alice" else ("app2", "alice", "slave", 3, 1536)
        ]
    assert balanced(world.stores)
    assert world.told == [
        KeysDelivered("app1", "bob", 3, 1536, "master"),
        KeysDelivered("app2", "alice", 3, 1536, "slave"),
        KeysRefused("app2", "request", "slave"),
    ]


def test_the_other_direction_has_a_lane_of_its_own(world: KeyWorld) -> None:
    given = world.desks["bob"].enc_keys("app2", "app1", 2, None).result(20)
    fetched = world.desks["alice"].dec_keys("app1", "app2", [key.key_id for key in given]).result(20)
    assert same(given, fetched)
    assert world.stores["alice"].lane_ledger("bob", Lane.OTP_BA).delivered == 512
    assert world.stores["alice"].lane_ledger("bob", Lane.OTP_AB).delivered == 0


def test_orders_at_once_share_a_batch_and_a_window(world: KeyWorld) -> None:
    world.give()
    before = {lane: world.stores["alice"].lane_ledger("bob", lane).authentication for lane in AUTH_LANES}
    batches, windows = world.master_ends["alice"].batches, world.master_ends["alice"].windows_opened
    futures = [world.desks["alice"].enc_keys("app1", "app2", 1, 64) for _ in range(40)]
    given = [future.result(20)[0] for future in futures]
    assert len({key.key_id for key in given}) == 40
    assert world.master_ends["alice"].batches - batches <= 3
    assert same(given, world.fetch([key.key_id for key in given]))
    assert world.master_ends["alice"].windows_opened == windows
    after = {lane: world.stores["alice"].lane_ledger("bob", lane).authentication for lane in AUTH_LANES}
    assert after == before, "applications draw on the authentication lanes only for a new window (I8)"


def test_a_window_is_at_most_a_sixteenth_of_the_stock(world: KeyWorld) -> None:
    stock = world.master_ends["alice"].free_bits()
    world.give()
    (run,) = world.stores["alice"].windows.granted("bob", Lane.OTP_AB)
    assert run.n_bits + 512 <= max(stock // WINDOW_SHARE, LEAST_WINDOW_BITS)
    assert window_bits(1 << 20, 1 << 19) == (1 << 20) // WINDOW_SHARE
    assert window_bits(1000, 256) == 1000


def test_a_request_larger_than_a_window_takes_several(world: KeyWorld) -> None:
    given = world.give(100, 1024)
    assert world.master_ends["alice"].windows_opened > 1
    assert same(given, world.fetch([key.key_id for key in given]))
    assert balanced(world.stores)


def test_all_or_none_when_key_is_short(world: KeyWorld) -> None:
    free = world.master_ends["alice"].free_bits()
    with pytest.raises(KeysUnavailableError, match="not enough key") as caught:
        world.give(128, 65536)
    assert str(128 * 65536 + 256 - free) in caught.value.details[0]
    assert world.master_ends["alice"].free_bits() == free
    status = world.desks["alice"].status("app1", "app2")
    assert status.stored_key_count == (free - 256) // 256


def test_everything_can_be_drawn_to_the_last_window(tmp_path: Path) -> None:
    with KeyWorld(tmp_path, blocks=1, block_bytes=8192) as world:
        drawn = 0
        while True:
            try:
                drawn += sum(len(key.key) for key in world.give(4))
            except KeysUnavailableError:
                break
        ledger = world.stores["alice"].lane_ledger("bob", Lane.OTP_AB)
        assert ledger.delivered == drawn
        assert ledger.stored < 4 * 256 + 256 + 256
        assert balanced(world.stores)


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda w: w.give(bits=12), BadKeyRequestError, "multiple of 8"),
        (lambda w: w.give(bits=32), BadKeyRequestError, "size shall be"),
        (lambda w: w.give(0), BadKeyRequestError, "number shall be"),
        (lambda w: w.give(129), BadKeyRequestError, "number shall be"),
        (lambda w: w.give(slave="app1"), BadKeyRequestError, "same application"),
        (lambda w: w.give(slave="nobody"), BadKeyRequestError, "not known"),
        (lambda w: w.give(-1), BadKeyRequestError, "number shall be"),
        (lambda w: w.give(10**15), BadKeyRequestError, "number shall be"),
        (lambda w: w.give(bits=-8), BadKeyRequestError, "size shall be"),
        (lambda w: w.give(bits=int(1e300)), BadKeyRequestError, "size shall be"),
        *((lambda w, odd=odd: w.fetch([odd]), BadKeyRequestError, "UUID") for odd in NO_KEY_IDS),
        (lambda w: w.fetch([ID, ID.upper()]), BadKeyRequestError, "twice"),
        (lambda w: w.fetch([]), BadKeyRequestError, "names 1 to"),
        (lambda w: w.fetch([ID], master="app2"), BadKeyRequestError, "same application"),
        (lambda w: w.desks["alice"].enc_keys("app2", "app1", 1, None).result(5), WrongCallerError, "app2"),
        (
            lambda w: w.desks["bob"].enc_keys("app2", "app3", 1, None).result(5),
            BadKeyRequestError,
            "served by this node",
        ),
    ],
)
def test_refused(world: KeyWorld, ask, error, words: str) -> None:
    with pytest.raises(error, match=words):
        ask(world)


def test_a_key_is_for_one_application_alone(world: KeyWorld) -> None:
    given = world.give()
    ids = [key.key_id for key in given]
    with pytest.raises(WrongCallerError):
        world.fetch(ids, slave="app3")
    with pytest.raises(BadKeyRequestError):
        world.fetch([*ids, "00000000-0000-4000-8000-000000000000"])
    assert same(given, world.fetch([ids[0].upper()])), "a refused request takes nothing"


def test_quotas(tmp_path: Path) -> None:
    world = KeyWorld(tmp_path, max_waiting_keys=3)
    world.saes["app1"] = world.saes["app1"].model_copy(update={"bits_per_day": 1024})
    with world:
        given = world.give(3)
        with pytest.raises(KeysUnavailableError, match="quota of app1") as caught:
            world.give(2)
        assert caught.value.reason == "quota"
        with pytest.raises(KeysUnavailableError, match="too many keys of app1 wait for app2"):
            world.give(1)
        world.fetch([given[0].key_id])
        world.give(1)
        with pytest.raises(KeysUnavailableError, match="quota of app1"):
            world.give(1)
    with world:
        with pytest.raises(KeysUnavailableError, match="quota of app1"):
            world.give(1)
        assert world.slave_ends["bob"].shelf.counts() == {}


def test_who_asks_and_hangs_up_has_drawn_what_left_the_stock(tmp_path: Path) -> None:
    """Sizes that differ, so that no order is like one before and no key set aside serves it."""
    world = KeyWorld(tmp_path)
    world.saes["app1"] = world.saes["app1"].model_copy(update={"bits_per_day": 10 * 1024})
    with world:
        world.give(1, 64)
        free, why = world.master_ends["alice"].free_bits(), ""
        for size in range(1024, 1024 + 8 * 40, 8):
            future = given_up(world, size)
            if not future.cancelled():
                why = str(future.exception())
                break
        assert "quota of app1" in why
        assert free - world.master_ends["alice"].free_bits() < 20 * 1024


def test_keys_set_aside_count_once_when_they_are_given_after_all(tmp_path: Path) -> None:
    world = KeyWorld(tmp_path)
    world.saes["app1"] = world.saes["app1"].model_copy(update={"bits_per_day": 1024})
    with world:
        world.give(1, 256)
        assert given_up(world, 512).cancelled()
        with pytest.raises(KeysUnavailableError, match="quota of app1"):
            world.give(1, 264)
        assert len(world.give(1, 256)) == 1


def test_what_a_slave_fetches_is_no_draw_of_its_own(tmp_path: Path) -> None:
    world = KeyWorld(tmp_path)
    world.saes["app2"] = world.saes["app2"].model_copy(update={"bits_per_day": 256})
    with world:
        world.fetch([key.key_id for key in world.give(4)])
        world.stop("bob")
        world.start("bob")
        world.meet()
        assert len(world.desks["bob"].enc_keys("app2", "app1", 1, 256).result(20)) == 1


def test_no_waiting_key_and_no_window_survives_a_start(world: KeyWorld) -> None:
    given = world.give(2)
    stored = world.stores["bob"].lane_ledger("alice", Lane.OTP_AB).stored
    granted = sum(run.n_bits for run in world.stores["bob"].windows.granted("alice", Lane.OTP_AB))
    world.stop("bob")
    world.start("bob")
    assert world.stores["bob"].lane_ledger("alice", Lane.OTP_AB).stored == stored - granted - 512
    with pytest.raises(BadKeyRequestError, match="not found"):
        world.fetch([key.key_id for key in given])
    world.meet()
    assert world.stores["alice"].windows.granted("bob", Lane.OTP_AB) == []
    again = world.give(2)
    assert same(again, world.fetch([key.key_id for key in again]))
    assert balanced(world.stores)


def test_a_master_end_that_starts_again_leaves_waiting_keys_alone(world: KeyWorld) -> None:
    given = world.give(2)
    world.stop("alice")
    world.start("alice")
    world.meet()
    assert same(given, world.fetch([key.key_id for key in given]))
    again = world.give(2)
    assert same(again, world.fetch([key.key_id for key in again]))
    assert balanced(world.stores)


def test_a_batch_is_refused_while_the_stores_have_not_met(tmp_path: Path) -> None:
    world = KeyWorld(tmp_path).start()
    try:
        future = world.master_ends["alice"].order("app1", "app2", 1, 256, patience_s=0.5)
        with pytest.raises(KeysUnavailableError, match="did not answer"):
            future.result(10)
        assert world.stores["bob"].letters("alice").rejected == {}
    finally:
        world.stop()


def test_keys_of_an_order_that_was_given_up_go_to_the_next(world: KeyWorld) -> None:
    world.give()
    world.meddle = lambda sender, _, payload: None if sender == "bob" else payload
    future = world.master_ends["alice"].order("app1", "app2", 2, 256, patience_s=0.6)
    with pytest.raises(KeysUnavailableError, match="did not answer in time"):
        future.result(10)
    free = world.master_ends["alice"].free_bits()
    world.meddle = lambda _, __, payload: payload
    given = world.give(2)
    assert same(given, world.fetch([key.key_id for key in given]))
    assert world.master_ends["alice"].free_bits() >= free - 2 * 256 - 256, "nothing was drawn a second time"
    assert world.slave_ends["bob"].shelf.counts() == {"app2": 1}
    assert balanced(world.stores)


@pytest.mark.parametrize("sender", ["alice", "bob"])
@pytest.mark.parametrize("harm", ["lose", "flip", "cut", "twice", "splice", "reorder"])
def test_a_hub_that_meddles_only_delays(tmp_path: Path, sender: str, harm: str) -> None:
    seen: list[bytes] = []

    def meddle(who: str, number: int, payload: bytes) -> bytes | list[bytes] | None:
        if who != sender or number % 2:
            return [payload, seen[-1]] if harm == "reorder" and who == sender and seen else payload
        seen.append(payload)
        if harm == "reorder":
            return None  # until after the next
        if harm == "twice":
            return [payload, payload]
        if harm == "lose":
            return None
        if harm == "flip":
            middle = len(payload) // 2
            return payload[:middle] + bytes([payload[middle] ^ 1]) + payload[middle + 1 :]
        if harm == "cut":
            return payload[: len(payload) // 2]
        if harm == "splice" and len(seen) > 1:
            return seen[0]
        return payload

    world = KeyWorld(tmp_path)
    with world:
        world.meddle = meddle
        for _ in range(3):
            given = world.give(2)
            assert same(given, world.fetch([key.key_id for key in given]))
        assert balanced(world.stores)
        ledgers = [world.stores[n].lane_ledger(world.peer(n), Lane.OTP_AB) for n in ("alice", "bob")]
        assert ledgers[0] == ledgers[1]
        assert ledgers[0].burnt == 0


def test_many_applications_at_once(world: KeyWorld) -> None:
    def one(_: int) -> tuple[list, list]:
        given = world.give(1 + _ % 3)
        return given, world.fetch([key.key_id for key in given])

    with ThreadPoolExecutor(16) as pool:
        pairs = list(pool.map(one, range(96)))
    assert all(same(given, fetched) for given, fetched in pairs)
    ids = [key.key_id for given, _ in pairs for key in given]
    assert len(set(ids)) == len(ids)
    assert balanced(world.stores)


def test_only_one_of_two_that_fetch_the_same_key_gets_it(world: KeyWorld) -> None:
    (key,) = world.give()
    futures = [world.desks["bob"].dec_keys("app2", "app1", [key.key_id]) for _ in range(2)]
    got = [future for future in futures if future.exception(10) is None]
    assert len(got) == 1


def test_keys_that_nobody_fetches_are_burnt(tmp_path: Path) -> None:
    with KeyWorld(tmp_path, key_waits_s=100.0) as world:
        given = world.give(2)
        world.slave_ends["bob"].burn_late(runtime.now() + 99.0)
        assert world.slave_ends["bob"].shelf.counts() == {"app2": 2}
        world.slave_ends["bob"].burn_late(runtime.now() + 101.0)
        with pytest.raises(BadKeyRequestError):
            world.fetch([key.key_id for key in given])
        assert world.stores["bob"].lane_ledger("alice", Lane.OTP_AB).burnt == 512
        assert balanced(world.stores)


@pytest.mark.parametrize("step", range(8))
def test_the_link_is_cut_at_every_step(tmp_path: Path, step: int) -> None:
    """Whichever message is the last that arrives: after the link is back the order is answered, each key once."""
    cut = threading.Event()
    world = KeyWorld(tmp_path)

    def meddle(_: str, __: int, payload: bytes) -> bytes | None:
        if sum(world.said.values()) == step + 1 and not cut.is_set():
            world.cut = True
            cut.set()
            return None if step % 2 else payload
        return payload

    with world:
        world.meddle = meddle
        given: list = []
        while not cut.is_set():
            future = world.master_ends["alice"].order("app1", "app2", 2, 256, patience_s=20.0)
            while not future.done() and not cut.wait(0.01):
                pass
            world.cut = False
            given += future.result(20)
        given += world.give(2)
        assert same(given, world.fetch([key.key_id for key in given]))
        assert balanced(world.stores)
        one, other = (world.stores[n].lane_ledger(world.peer(n), Lane.OTP_AB) for n in ("alice", "bob"))
        assert one == other
        assert one.delivered == sum(len(key.key) for key in given)
        assert one.burnt == 0


def test_a_channel_whose_other_end_was_left_is_given_up_for_another(world: KeyWorld) -> None:
    others = threading.enumerate()
    world.give()
    before = len(world.opened)
    (listener,) = [
        each for each in threading.enumerate() if each.name == "keys-from-alice" and each not in others
    ]
    world.slave_ends["bob"].listen("alice", world.deaf())
    listener.join()
    given = world.master_ends["alice"].order("app1", "app2", 1, 256, patience_s=20.0).result(30)
    assert len(world.opened) == before + 1
    assert same(given, world.fetch([key.key_id for key in given]))


def test_a_hub_that_opens_channels_without_end(world: KeyWorld) -> None:
    def threads() -> int:
        return sum(each.name == "keys-from-alice" for each in threading.enumerate())

    before = threads()
    for _ in range(200):
        world.slave_ends["bob"].listen("alice", world.deaf())
    assert threads() - before <= 8
    waited_for(lambda: threads() - before <= 1)
    given = world.master_ends["alice"].order("app1", "app2", 1, 256, patience_s=20.0).result(30)
    assert same(given, world.fetch([key.key_id for key in given]))


def test_the_hub_sees_no_key(world: KeyWorld) -> None:
    """R9: no 16 bytes of any key are in anything that two nodes said; a planted one is found."""
    seen: list[bytes] = []

    def record(_: str, __: int, payload: bytes) -> bytes:
        seen.append(payload)
        return payload

    world.meddle = record
    given = [key for _ in range(5) for key in world.give(3, 512)]
    fetched = world.fetch([key.key_id for key in given])
    keys = [key.key.reveal_bytes() for key in fetched]
    assert len(seen) >= 10
    assert not leaked(keys, seen)
    assert leaked(keys, [*seen, b"?" + keys[3][20:40]])


def leaked(keys: list[bytes], seen: list[bytes]) -> bool:
    """Whether any 16 consecutive bytes of a key stand in what was seen."""
    everything = b"|".join(seen)
    return any(key[at : at + 16] in everything for key in keys for at in range(len(key) - 15))
