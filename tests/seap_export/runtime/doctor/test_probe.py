"""Models that are really run, and what is said of those that do not work."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seap_export.common.providers import PROVIDERS
from seap_export.runtime.doctor import probe
from seap_export.runtime.doctor.models import TRIALS
from seap_export.runtime.doctor.probe import TOLERANCE, answer, try_model


@pytest.mark.parametrize("what", list(TRIALS))
def test_the_cpu_computes_what_numpy_does(what: str) -> None:
    verdict = answer(what, "cpu")
    assert verdict["reason"] == ""
    assert 0 < verdict["difference"] < 0.002


@pytest.mark.parametrize("what", list(TRIALS))
def test_wrong_numbers_are_noticed(what: str) -> None:
    trial = TRIALS[what]
    expected = trial.expected()
    expected[-1, -1] += 2 * TOLERANCE
    verdict = try_model(replace(trial, expected=lambda: expected), "cpu")
    assert verdict["reason"] == f"{trial.name} is wrong by 0.02"
    assert verdict["difference"] == pytest.approx(2 * TOLERANCE, rel=0.1)


def test_numbers_that_are_not_finite_are_noticed() -> None:
    trial = TRIALS["session"]
    feeds = {**trial.feeds(), "a": np.full((4, 8), np.inf, np.float16)}
    verdict = try_model(replace(trial, feeds=lambda: feeds), "cpu")
    assert verdict["difference"] is None
    assert "not finite" in verdict["reason"]


def test_work_that_fell_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = TRIALS["attention"]
    given = trial.expected().astype(np.float16)
    monkeypatch.setattr(probe, "open_session", lambda *_: SimpleNamespace(run=lambda *_: [given]))

    def nodes(provider: str, node: str) -> Any:
        return lambda _: {PROVIDERS[provider].ort_name: {node: 1}}

    monkeypatch.setattr(probe, "nodes_by_provider", nodes("cpu", "GroupQueryAttention"))
    assert try_model(trial, "cuda")["reason"] == "attention in float16 runs on the CPU instead"
    for others in (nodes("cuda", "GroupQueryAttention"), nodes("cpu", "Shape"), lambda _: None):
        monkeypatch.setattr(probe, "nodes_by_provider", others)
        assert try_model(trial, "cuda")["reason"] == ""
