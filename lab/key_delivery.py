"""The sections of a testbed file about key delivery to applications (ETSI GS QKD 014): ``[key_delivery]`` and ``[sae.NAME]``.

An application is a *secure application entity*, SAE; the node that serves it is its *key management entity*, KME.
An application is named by its SAE id, which is the common name of its certificate
(:mod:`orchestrator.delivery.certificates`), and it is served by the node of one user alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from drivers.links.addresses import AddressError, split_address
from lab.quantities import Plausible
from lab.sections import NonNegative, Positive, Section

if TYPE_CHECKING:
    from lab.consistency import Mistake
    from lab.testbed import Testbed

SAE_ID_CHARACTERS = 63
SAE_ID_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{SAE_ID_CHARACTERS - 1}}}$"
"""What stands in a path, in a common name (at most 64 characters, RFC 5280) and in the name of a folder alike."""
SAE_ID_RULE = f"letters, digits, - and _, at most {SAE_ID_CHARACTERS}, a letter or digit first"
"""The same in words."""
AUTHORITY_FOLDER, SAE_FOLDER_PREFIX = "authority", "sae-"
"""Folders among the secrets that are no user's: the authority's, and those of applications before their SAE ids."""
SaeId = Annotated[str, Field(pattern=SAE_ID_PATTERN)]
Size = Annotated[int, Field(ge=8, le=2**20, multiple_of=8)]
"""Of a key, in bits; keys travel as whole bytes."""
SHARE_FOR_APPLICATIONS = 128
"""``otp_per_1024`` of a testbed that is made with applications."""


class KeyDelivery(Section):
    """What each node delivers to applications; every machine of a testbed says the same."""

    otp_per_1024: Annotated[int, Field(ge=0, le=256)] = 0
    """Share of every block for the one-time-pad lane of each direction, from which applications draw; the rest masks."""
    key_size_bits: Size = 256  # where a request names no size
    min_key_size_bits: Size = 64  # smaller ones are refused
    max_key_size_bits: Size = 65536  # larger ones are refused
    max_keys_per_request: Annotated[int, Field(ge=1, le=1024)] = 128  # more are refused
    stock_bits: Annotated[int, Field(ge=0)] = 262_144
    """Free bits of each one-time-pad lane between users with applications up to which the ring makes key by itself."""
    max_waiting_keys: Annotated[int, Field(ge=1, le=10**6)] = 4096
    """Keys of one application that may wait at a node for another one to fetch its copies there."""
    relay: bool = False
    """Whether nodes in the middle hand keys on where two users share none, or too few: they know those keys."""
    key_waits_s: Annotated[Positive, Plausible(1, 1e7)] = 3600.0  # a key not fetched by then is burnt


class Application(Section):
    """An application that draws keys: a secure application entity, named by its SAE id."""

    user: str  # whose node serves it
    bits_per_day: Annotated[int, Field(ge=0)] = 10_000_000  # of key that it may draw; 0: as much as there is
    requests_per_s: NonNegative = 1000.0  # that it may make, on average over a second; 0: as many as it likes


def with_applications(data: Mapping[str, Any], applications: Mapping[str, str]) -> dict[str, Any]:
    """Testbed content with these applications (SAE id -> user) besides its own, and a share of every block for them."""
    delivery = {"otp_per_1024": SHARE_FOR_APPLICATIONS, **data.get("key_delivery", {})}
    delivery["otp_per_1024"] = delivery["otp_per_1024"] or SHARE_FOR_APPLICATIONS
    entries = {name: {"user": user} for name, user in applications.items()}
    return {**data, "key_delivery": delivery, "sae": {**data.get("sae", {}), **entries}}


def applications_named(words: Iterable[str]) -> dict[str, str]:
    """SAE ids with their users from ``NAME@USER``; ValueError for a word of another form, or a name given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, at, user = word.partition("@")
        if not (name and at and user):
            raise ValueError(f"{word!r} is no application: write NAME@USER, such as app1@alice")
        if name in found:
            raise ValueError(f"{name} is given twice; an application is served by one user's node")
        found[name] = user
    return found


def delivery_mistakes(testbed: Testbed) -> Iterator[Mistake]:
    """Checks between both sections and the users."""
    delivery = testbed.key_delivery
    if not delivery.min_key_size_bits <= delivery.key_size_bits <= delivery.max_key_size_bits:
        yield (
            "key_delivery.key_size_bits",
            f"{delivery.key_size_bits} is not between min_key_size_bits = {delivery.min_key_size_bits} and "
            f"max_key_size_bits = {delivery.max_key_size_bits}; a request that names no size could not be answered",
        )
    for name, entry in testbed.sae.items():
        if entry.user not in testbed.user_names():
            yield f"sae.{name}.user", f"no user {entry.user!r}; users are {', '.join(testbed.user_names())}"
    spelt = Counter(name.lower() for name in testbed.sae)
    for name in testbed.sae:
        if spelt[name.lower()] > 1:
            yield (
                f"sae.{name}",
                "differs from another application by capital letters alone; choose another name",
            )
    if testbed.sae and not delivery.otp_per_1024:
        yield (
            "key_delivery.otp_per_1024",
            f"0 leaves no key for {', '.join(testbed.sae)}; give applications a share of every block, such as "
            f"{SHARE_FOR_APPLICATIONS}",
        )
    for index, user in enumerate(testbed.users):
        if user.name == AUTHORITY_FOLDER or user.name.startswith(SAE_FOLDER_PREFIX):
            yield (
                f"users[{index}].name",
                f"a user cannot be called {user.name!r}: secrets of others lie in that folder",
            )
        if user.etsi014 == "auto":
            continue
        try:
            if not 0 < split_address(user.etsi014, 0)[1] < 65536:
                raise AddressError(f"{user.etsi014!r} has no port")
        except AddressError as error:
            yield f"users[{index}].etsi014", f"write HOST:PORT, or auto ({error})"
