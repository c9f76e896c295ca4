"""Every attack of the attack range: what it does, what the protocol promises against it, and who carries it.

One row is one attack; the command, the page and the documents say what stands here.  An attack on light is put into the
simulator's ring.  One of a process takes the place of the honest process, of a simulated ring alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim_backends.attacks.light import Eavesdropper


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """An attack in words and numbers: what it does, what is promised of it, and what its ``strength`` is, in ``unit``."""

    name: str
    title: str
    does: str
    promise: str
    strength: str
    unit: str
    usual: float
    """Strength where none is named."""
    least: float
    most: float
    source: str
    role: str
    """The process whose place it takes; empty for an attack on light."""


@dataclass(frozen=True, kw_only=True)
class Attack(AttackRow):
    """An attack and who carries it."""

    light: Callable[[float], Eavesdropper] | None = None
    """What stands at the fibre; None for an attack of a process."""

    def checked(self, strength: float | None) -> float:
        """The strength, or the usual one; raises ValueError outside its limits."""
        value = self.usual if strength is None else strength
        if not self.least <= value <= self.most:
            raise ValueError(
                f"{self.name}: {self.strength} lies between {self.least:g} and {self.most:g} {self.unit}, not {value:g}"
            )
        return value

    def told(self, strength: float) -> str:
        """In words, such as ``Tap on the fibre, 20 % of the light``."""
        return f"{self.title}, {strength:g} {self.unit} {self.strength}"


ATTACKS: tuple[Attack, ...] = (
    Attack(
        name="tap",
        title="Tap on the fibre",
        does="A coupler between the relay and the first station takes a share out of the light of either direction.",
        promise="Light that leaves a user counts as known to everybody who could catch it, so a tap learns nothing that the key "
        "was not shortened for already. Less light comes home: shorter key, or none where too much is missing.",
        strength="of the light",
        unit="%",
        usual=10.0,
        least=1.0,
        most=90.0,
        source="Beam splitting: Bennett et al., J. Cryptology 5, 3 (1992). Bound: docs/formulas.md.",
        role="",
        light=lambda percent: Eavesdropper(tapped=percent / 100),
    ),
    Attack(
        name="intercept-resend",
        title="Intercept and resend",
        does="A share of the pulses is measured on the way home in a basis chosen by chance, and sent anew as it was found. "
        "More than physics allows: every pulse gives a result, and no light is lost.",
        promise="Half of the bases are wrong, half of those results too: the QBER rises by a quarter of the share. The phase error "
        "rises with it: shorter key, then blocks that give none, and say so.",
        strength="of the pulses",
        unit="%",
        usual=20.0,
        least=0.1,
        most=100.0,
        source="Bennett and Brassard (1984); 25 % error: Bennett et al., J. Cryptology 5, 3 (1992).",
        role="",
        light=lambda percent: Eavesdropper(resent=percent / 100),
    ),
    Attack(
        name="bright-light",
        title="Bright light into the stations",
        does="Light is brightened on its way into the loop and dimmed by as much where it leaves, so that users send more "
        "photons than planned while the relay counts what it always does.",
        promise="Every user reads its own light, with its own sensors and at moments of its own choice, and dims its output to "
        "what was planned. Too little comes home then: shorter key, then blocks that end without; above a user's bound at once.",
        strength="brighter",
        unit="dB",
        usual=3.0,
        least=0.1,
        most=20.0,
        source="Trojan horse: Gisin et al., Phys. Rev. A 73, 022320 (2006).",
        role="",
        light=lambda db: Eavesdropper(brighter_db=db),
    ),
    Attack(
        name="lying-relay",
        title="Relay that lies",
        does="The relay announces a share of its clicks in slots and detectors of its own choice, the same to both users.",
        promise="The relay is not trusted: what it announces only says which symbols are compared. An invented click is an error "
        "every other time, so the QBER rises by half of the share, and blocks give no key, and say so.",
        strength="of the clicks",
        unit="%",
        usual=10.0,
        least=0.1,
        most=100.0,
        source="Lo, Curty and Qi, Phys. Rev. Lett. 108, 130503 (2012); tests/faults/test_lying_relay.py.",
        role="relay",
    ),
    Attack(
        name="tampering-hub",
        title="Hub that tampers",
        does="The hub changes one bit in a share of the messages that two nodes send each other through it.",
        promise="Nodes put one-time tags over what they agreed on. A changed message ends the block, or the meeting of the nodes: no "
        "key, authentication bits are spent, and nothing that differs at both ends is ever kept.",
        strength="of the messages",
        unit="%",
        usual=2.0,
        least=0.01,
        most=100.0,
        source="Wegman and Carter, J. Comput. Syst. Sci. 22, 265 (1981); tests/faults/test_evil_hub.py.",
        role="orchestrator",
    ),
    Attack(
        name="two-list-server",
        title="Learning server with two lists",
        does="The server of the next training run tells some clients that all take part, and others that the last one does not: the "
        "difference of the two sums would be that one's update.",
        promise="A client agreed to one set of participants, under tags of the nodes, and takes part in no other: the round is "
        "refused with its reason, and no update is unmasked.",
        strength="told the shorter list",
        unit="clients",
        usual=1.0,
        least=1.0,
        most=3.0,
        source="Bonawitz et al., CCS (2017), doi:10.1145/3133956.3133982; tests/fl/modes/test_two_lists.py.",
        role="fl-server",
    ),
)

BY_NAME = {attack.name: attack for attack in ATTACKS}


def attack_named(name: str) -> Attack:
    """Raises ValueError with those that there are."""
    if name not in BY_NAME:
        raise ValueError(f"no attack {name!r}; there are {', '.join(BY_NAME)}")
    return BY_NAME[name]
