"""A generation is timed from its prompt to its last token."""

from __future__ import annotations

import pytest

from validation.runtimes import timing as pace


def test_each_token_goes_into_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = iter((10.0, 12.0, 13.0, 17.0)), []
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))

    def following(token: int) -> int:
        calls.append(token)
        return token + 1

    assert pace.timed_loop(lambda: 7, following, 2) == pace.Pace(2.0, (1.0, 4.0))
    assert calls == [7, 8]
