"""What the extras of the package bring: from here follow what `qunetlab doctor` looks for and what a missing module is told as.

A test holds the list against ``pyproject.toml``.
"""

from __future__ import annotations

EXTRAS = {
    "learning": (
        "torch",
        "pennylane",
        "qiskit",
        "sklearn",
        "qiskit_aer",
        "qiskit_ibm_runtime",
        "safetensors",
        "tokenizers",
        "transformers",
    ),
    "flower": ("flwr",),
    "usb": ("usb",),
}
"""Modules that a base installation does not have, by extra; libusb, which `usb` brings too, may be the system's."""
EXTRA_OF = {module: extra for extra, modules in EXTRAS.items() for module in modules}


def how_to_install(extra: str) -> str:
    """In words that go on a sentence."""
    return f"in the folder of qunetlab's source, pip install '.[{extra}]'"
