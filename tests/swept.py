"""Calibration and shrinking of micro models, undisturbed and interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest
from calibrated import Texts, random_texts

from seap_export.layers.compute import Compute
from seap_export.layers.working_memory import working_bytes
from seap_export.sources.source import Source

#: More tokens than the sensitivity is taken from, in several batches.
TEXTS: Texts = random_texts(45)
BATCH_TOKENS = 64
Make = Callable[[Path], None]


class Killed(BaseException):
    """Like the end of the process: nothing may catch it."""


def contents(folder: Path) -> MappingProxyType[str, bytes]:
    """The files of a folder; it holds nothing that is unfinished."""
    return MappingProxyType({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def on_disk(source: Source) -> Compute:
    """So little memory that hidden states and inputs are on disk."""
    return Compute(memory=working_bytes(source.spec, BATCH_TOKENS), batch_tokens=BATCH_TOKENS)


def in_memory() -> Compute:
    return Compute(batch_tokens=BATCH_TOKENS)


def die_at(monkeypatch: pytest.MonkeyPatch, where: object, name: str, call: int) -> None:
    """The given call of a function or method, counted from 0, raises `Killed` before it does anything."""
    plain, calls = getattr(where, name), [0]

    def dying(*arguments: object, **keywords: object) -> object:
        calls[0] += 1
        if calls[0] == call + 1:
            raise Killed
        return plain(*arguments, **keywords)

    monkeypatch.setattr(where, name, dying)
