"""The keys of steps: hashes of a step's inputs, which also tell which input differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.common.hashing import sha256_json

#: The name of the input that changes when a release makes other bytes of the same inputs.
RELEASE = "release of seap-export"


def step_key(inputs: Mapping[str, Any]) -> str:
    """The key of a step: the hash of all inputs, and a short hash of each by its name."""
    return ",".join([sha256_json(inputs), *(f"{name}={sha256_json(value)[:8]}" for name, value in inputs.items())])


def differing(recorded: str, key: str) -> list[str]:
    """The names of the inputs in which two keys of a step differ; earlier releases recorded no names."""
    before, now = (dict(part.partition("=")[::2] for part in one.split(",")[1:]) for one in (recorded, key))
    return [name for name in {**now, **before} if before.get(name) != now.get(name)] if before else [RELEASE]
