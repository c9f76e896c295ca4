"""The types of single fields that messages share, with their limits."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

Role: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[a-z0-9][a-z0-9._-]*\Z")]
Topic: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
Reason: TypeAlias = Annotated[str, Meta(max_length=1000)]
REASON_LIMIT = 400
"""Characters to which the words of an error are cut before they are sent as a reason."""
Count: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 62))]
Instance: TypeAlias = Annotated[str, Meta(min_length=16, max_length=64)]
Lane: TypeAlias = Annotated[str, Meta(max_length=16, pattern=r"\A[a-z][a-z_]*\Z")]
"""A lane of the key store by name; this leaf knows no store."""
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0)]
InstrumentName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Purpose: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"\A[a-z][a-z-]*(:[a-z][a-z-]*)?\Z")]
"""What a lease is for."""
