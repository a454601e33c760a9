from __future__ import annotations

import time

import pytest

from seap_export.api import progress
from seap_export.api.progress import PrintedProgress, progress_line


@pytest.mark.parametrize(
    ("done", "total", "seconds", "times", "line"),
    [
        (12, 30, 7.0, (5.0, 5.5, 6.0), "12 of 30 layers in 7 s, 2 layers/s, about 8 s left"),
        (12, 30, 6.25, (5.0, 5.5, 6.0), "12 of 30 layers in 6 s, 2 layers/s, about 9 s left"),
        (3, 30, 600.0, (580.0, 590.0, 600.0), "3 of 30 layers in 10 min 0 s, 0.1 layers/s, about 4 min 30 s left"),
        (1, 30, 6.0, (6.0,), "1 of 30 layers in 6 s"),
        (0, 30, 3600.0, (), "1 h 0 min so far"),
        (30, 30, 6.0, (1.0, 6.0), "30 of 30 layers in 6 s, finishing"),
    ],
)
def test_a_progress_line_has_what_is_done_the_pace_and_the_time_left(
    done: int, total: int | None, seconds: float, times: tuple[float, ...], line: str
) -> None:
    """What came before the first layer, or was made by an earlier run, says nothing of the pace."""
    assert progress_line(done, total, "layers", seconds, times) == line


def test_where_no_terminal_is_a_long_step_prints_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_SECONDS", 0.01)
    with PrintedProgress().step("ranking a", 3) as advance:
        advance(0)
        time.sleep(0.02)
        advance(1)
        deadline = time.monotonic() + 20
        printed = ""
        while "left" not in printed and time.monotonic() < deadline:
            time.sleep(0.02)
            printed += capsys.readouterr().err
    assert printed.startswith("ranking a\nranking a: ")
    assert "2 of 3 layers in " in printed
    assert "left" in printed
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it ends with the step
