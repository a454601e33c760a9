from __future__ import annotations

import time

import pytest

from seap_export.api import progress
from seap_export.api.progress import PrintedProgress, duration, progress_line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")]
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_progress_line_has_what_is_done_the_rate_and_the_time_left() -> None:
    assert progress_line(12, 30, "layers", 6.0) == "12 of 30 layers, 2 layers/s, about 9 s left"
    assert progress_line(0, 30, "layers", 6.0) == "0 of 30 layers"
    assert progress_line(30, 30, "layers", 6.0) == "30 of 30 layers, finishing"
    assert progress_line(7, None, "layers", 75.0) == "1 min 15 s so far"


def test_where_no_terminal_is_a_long_step_prints_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_SECONDS", 0.01)
    with PrintedProgress().step("ranking a", 3) as advance:
        advance(0)
        deadline = time.monotonic() + 20
        printed = ""
        while printed.count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
            printed += capsys.readouterr().err
    first, second, *_ = printed.splitlines()
    assert first == "ranking a"
    assert second.startswith("ranking a: ")
    assert "1 of 3 layers" in printed
    assert "left" in printed
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it ends with the step


def test_quiet_prints_no_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_SECONDS", 0.001)
    with PrintedProgress(quiet=True).step("ranking a", 3) as advance:
        advance(0)
        time.sleep(0.02)
    assert capsys.readouterr().err == ""
