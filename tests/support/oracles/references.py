"""What torch computes of a model folder, once in a process for each state of the folder's files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from seap_export.common.hashing import sha256_file
from seap_export.model.families import Experts
from validation.parity import run as parity
from validation.parity.references import Reference

#: Logits and caches of a micro model take about a megabyte.
KEPT = 64
_known: dict[Any, Any] = {}


def reuse_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity takes references and their noise from an earlier comparison with the same files and texts.

    Models whose weights are changed, or read from a written file, are computed each time.
    """
    references, noise = parity.run_references, parity.measure_exact_noise

    def run_references(runner: Any, cases: Any, store: Any, spec: Any, say: Callable[[str], None]) -> Any:
        cases = list(cases)

        def passed(move: Callable[[Any], Any], known: Mapping[Any, Reference]) -> dict[Any, Reference]:
            return {
                sequence: Reference(
                    move(of.logits), tuple({state: move(one) for state, one in layer.items()} for layer in of.cache)
                )
                for sequence, of in known.items()
            }

        def compute(say: Callable[[str], None]) -> Any:
            return passed(store.get, references(runner, cases, store, spec, say))

        return passed(store.put, _remembered(runner, ("references", repr(cases)), compute, say))

    def measure_exact_noise(runner: Any, known: Any, store: Any, say: Callable[[str], None]) -> Any:
        if any(True for _ in runner.spec.all(Experts)):  # ties are counted in all sequences together
            return _remembered(runner, ("noise", repr(list(known))), lambda say: noise(runner, known, store, say), say)
        measured: dict[Any, Any] = _remembered(runner, "noise", lambda say: {}, say)
        missing = {sequence: reference for sequence, reference in known.items() if sequence not in measured}
        if missing:
            measured |= noise(runner, missing, store, say)
        return {sequence: measured[sequence] for sequence in known}

    monkeypatch.setattr(parity, "run_references", run_references)
    monkeypatch.setattr(parity, "measure_exact_noise", measure_exact_noise)


def _remembered(runner: Any, what: Any, compute: Callable[[Any], Any], say: Callable[[str], None]) -> Any:
    """What `compute` gives and says, once for each state of the runner's folder."""
    checkpoint = runner.checkpoint
    if checkpoint._changes or checkpoint._stored is not None:
        return compute(say)
    key = (_digest(checkpoint.folder), runner._stock.model.config._attn_implementation, what)
    if key not in _known:
        said: list[str] = []
        value = compute(said.append)
        if len(_known) >= KEPT:
            del _known[next(iter(_known))]
        _known[key] = value, said
    value, lines = _known[key]
    for line in lines:
        say(line)
    return value


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256("".join(f"{path.name} {sha256_file(path)}\n" for path in files).encode()).hexdigest()
