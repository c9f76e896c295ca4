"""Draws the three figures of docs/concepts.md: the way of a pulse, of a key, of a round.

    python docs/scripts/figures.py

Each is a page of boxes and arrows on a card of its own, in the colours of reports, light or dark as the reader's system is.
Colours tell who has what: blue is a user's and secret, red the relay's, grey the hub's or server's, green light and key.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from lab.runs.pages.style import PANEL, SERIES, SOFT, TEXT, Colour, css, themed

FOLDER = Path(__file__).resolve().parents[1]
USER, RELAY, KEY, HUB = SERIES[0], SERIES[1], SERIES[2], SOFT
FONT = "font-family='Helvetica, Arial, sans-serif'"


@dataclass
class Figure:
    """Elements on a card of this size; ``says`` is what a reader hears who sees no picture."""

    width: int
    height: int
    says: str
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, w: float, h: float, colour: Colour, *lines: str) -> None:
        """A rounded box with a bold first line."""
        place = f"x='{x:g}' y='{y:g}' width='{w:g}' height='{h:g}' rx='6'"
        self.parts.append(f"<rect {place} fill='{PANEL}'/>")  # hides what passes behind
        self.parts.append(f"<rect {place} fill='{colour}' fill-opacity='0.16' stroke='{colour}'/>")
        top = y + h / 2 - 7.5 * (len(lines) - 1) + 4.5
        for number, line in enumerate(lines):
            self.text(x + w / 2, top + 15 * number, line, bold=number == 0)

    def text(self, x: float, y: float, line: str, *, bold: bool = False, anchor: str = "middle") -> None:
        """A line of text; ``y`` is its base line."""
        weight = " font-weight='bold'" if bold else ""
        self.parts.append(
            f"<text x='{x:g}' y='{y:g}' text-anchor='{anchor}' {FONT} font-size='12'{weight} fill='{TEXT}'>{escape(line)}</text>"
        )

    def arrow(
        self, x1: float, y1: float, x2: float, y2: float, label: str = "", *, both: bool = False
    ) -> None:
        """A straight arrow with its label above the middle; ``both``: with a head at either end."""
        start = " marker-start='url(#back)'" if both else ""
        self.parts.append(
            f"<line x1='{x1:g}' y1='{y1:g}' x2='{x2:g}' y2='{y2:g}' stroke='{TEXT}' stroke-width='1.4' marker-end='url(#head)'{start}/>"
        )
        if label:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - 6, label)

    def svg(self) -> str:
        """The file."""
        head = (
            "<defs>"
            f"<marker id='head' markerWidth='9' markerHeight='8' refX='8' refY='4' orient='auto'><path d='M0,0 L9,4 L0,8 z' fill='{TEXT}'/></marker>"
            f"<marker id='back' markerWidth='9' markerHeight='8' refX='1' refY='4' orient='auto'><path d='M9,0 L0,4 L9,8 z' fill='{TEXT}'/></marker>"
            "</defs>"
        )
        card = f"<rect width='{self.width}' height='{self.height}' rx='10' fill='{PANEL}'/>"
        return "\n".join(
            [
                f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' role='img'>",
                f"<title>{escape(self.says)}</title>",
                f"<style>{css()}</style>",
                *map(themed, (head, card, *self.parts)),
                "</svg>\n",
            ]
        )


def pulse() -> Figure:
    """From the laser around the loop, both ways, to two detectors."""
    drawn = Figure(
        820, 430, "A pulse: laser, carver, launch, coupler, both ways around the loop, detectors, tags"
    )
    for number, lines in enumerate(
        (("laser", "steady light"), ("carver", "0.4 ns, 100 MHz"), ("launch", "54-62 dB"))
    ):
        drawn.box(20 + 135 * number, 30, 110, 44, RELAY, *lines)
        drawn.arrow(130 + 135 * number, 52, 155 + 135 * number, 52)
    drawn.box(425, 30, 150, 44, RELAY, "coupler 50:50", "halves every pulse")
    drawn.parts.append(
        f"<rect x='90' y='150' width='640' height='150' rx='75' fill='none' stroke='{KEY}' stroke-width='3'/>"
    )
    drawn.arrow(455, 76, 455, 148, both=True)
    drawn.arrow(545, 76, 545, 148, both=True)
    drawn.text(500, 117, "both ways")
    drawn.text(270, 138, "6 km of fibre; clockwise: relay, alice, bob, carol, dave, relay")
    for x, y, lines, colour in (
        (640, 190, ("alice: in", "turns ccw light"), USER),
        (530, 278, ("bob: bypassed", "0.6 dB"), HUB),
        (250, 278, ("carol: in", "turns cw light"), USER),
        (40, 190, ("dave: bypassed", "0.6 dB"), HUB),
    ):
        drawn.box(x, y, 130, 44, colour, *lines)
    drawn.text(410, 215, "each user turns only the pulse that goes home")
    drawn.text(410, 233, "without passing the partner; both arrive equally bright")
    drawn.arrow(575, 44, 640, 44)
    drawn.box(642, 24, 150, 44, RELAY, "D1 · D2", "equal phases: D1")
    drawn.arrow(717, 68, 717, 96)
    drawn.box(642, 98, 150, 40, RELAY, "time tagger", "tags in gates of 1 ns")
    drawn.text(
        410,
        352,
        "phase of a pulse = voltage of the user's own generator at the moment when it passes",
        bold=True,
    )
    drawn.text(
        410, 372, "The tagger triggers all generators once a frame; everybody runs on one 10 MHz reference."
    )
    drawn.text(
        410,
        400,
        "announced to everybody: which slots clicked in exactly one detector, and in which. Phases are never announced.",
    )
    return drawn


def key() -> Figure:
    """From symbols to bits that two stores hold alike."""
    drawn = Figure(
        820,
        560,
        "A key: symbols, announcement, sifting, reconciliation, verification, amplification, tags, stores",
    )
    drawn.text(140, 28, "first user's node", bold=True)
    drawn.text(410, 28, "relay and hub: hear all of it, hold no bit of it", bold=True)
    drawn.text(680, 28, "second user's node", bold=True)
    steps = (
        (
            ("random symbols", "basis and bit per slot"),
            "waveform, played once",
            ("random symbols", "basis and bit per slot"),
        ),
        (
            ("own record of clicks", "digest per frame"),
            "announcement: slot, detector",
            ("own record of clicks", "digest per frame"),
        ),
        (
            ("lost frames settled", "then bases"),
            "digests with MAC, then bases",
            ("lost frames settled", "then bases"),
        ),
        (
            ("sifting", "XX key · YY test"),
            "test bits: error rate",
            ("sifting, D2 flips bit", "XX key · YY test"),
        ),
        (
            ("reconciliation", "answers parities"),
            "Cascade; every bit told is counted",
            ("reconciliation", "corrects its bits"),
        ),
        (
            ("verification", "privacy amplification"),
            "tag, then a fresh public seed",
            ("verification", "privacy amplification"),
        ),
        (
            ("one tag over all", "that was said"),
            "Poly1305 under one-time keys",
            ("one tag over all", "that was said"),
        ),
    )
    for number, (left, said, right) in enumerate(steps):
        y = 45 + 64 * number
        drawn.box(40, y, 200, 44, USER, *left)
        drawn.box(580, y, 200, 44, USER, *right)
        drawn.arrow(244, y + 22, 576, y + 22, said, both=True)
        drawn.arrow(140, y + 44, 140, y + 63)
        drawn.arrow(680, y + 44, 680, y + 63)
    drawn.box(40, 493, 200, 48, KEY, "key store", "bits, lanes, ledger")
    drawn.box(580, 493, 200, 48, KEY, "key store", "the same bits")
    drawn.arrow(244, 517, 576, 517, "confirmed by both, or burnt by both", both=True)
    return drawn


def training_round() -> Figure:
    """From consent to the next model."""
    drawn = Figure(
        820, 430, "A round: consent, pads from nodes, masked updates, the sum at the server, the next model"
    )
    names = ("alice", "bob", "carol", "dave")
    for number, name in enumerate(names):
        y = 50 + 84 * number
        drawn.box(20, y, 120, 56, KEY, f"{name}'s node", "pads, used once")
        drawn.arrow(140, y + 28, 188, y + 28)
        drawn.box(
            190, y, 190, 56, USER, f"{name}'s client", "trains, quantises to ±L,", "adds and subtracts pads"
        )
        drawn.arrow(380, y + 28, 556, 178 + 24 * number)
    drawn.text(80, 34, "pads from the ring", bold=True)
    drawn.text(285, 34, "one trust domain with its node", bold=True)
    drawn.text(470, 88, "y = w q + pads mod 2^b")
    drawn.box(
        560,
        150,
        230,
        130,
        HUB,
        "learning server",
        "sees four uniformly random",
        "uploads and their sum:",
        "pads cancel in the sum",
        "and only there",
    )
    drawn.arrow(675, 280, 675, 318)
    drawn.box(
        560, 320, 230, 56, HUB, "next model", "each client works it out itself", "from the published sum"
    )
    drawn.parts.append(
        f"<path d='M560,350 C470,400 420,395 384,350' fill='none' stroke='{TEXT}' stroke-width='1.4' marker-end='url(#head)'/>"
    )
    drawn.text(675, 60, "Before: every operator agrees to one", bold=True)
    drawn.text(675, 78, "description of the run. Its SHA-256 is part of")
    drawn.text(675, 96, "what two nodes compare before a pad leaves.")
    drawn.text(675, 114, "Another set, seed or model gets no pad.")
    drawn.text(470, 412, "A client that vanishes: otp pauses; lightsecagg decodes the sum without it")
    return drawn


FIGURES = {"way-of-a-pulse.svg": pulse, "way-of-a-key.svg": key, "way-of-a-round.svg": training_round}

if __name__ == "__main__":
    for file, draw in FIGURES.items():
        (FOLDER / file).write_text(draw().svg(), encoding="utf-8")
        sys.stdout.write(f"{FOLDER / file}\n")
