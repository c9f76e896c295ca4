"""Where the digits come from."""

from __future__ import annotations

from fl.workloads.data import DataSet

DATA = DataSet(
    "digits",
    "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository; bundled with scikit-learn",
    "CC BY 4.0",
    state=lambda: (True, "bundled with scikit-learn"),
)
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""Of the images and then the labels, one byte a value."""
