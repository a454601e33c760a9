"""The page in a real browser, at the widths of a phone and of a desktop, light and dark."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.processes.browser import browser_command

from validation.reports import html_page

pytestmark = pytest.mark.needs("browser")
MEASURE = Path(__file__).with_name("measure.js")
WIDTHS, HEIGHT = (390, 1200, 1600), 844
SCHEMES = ("light", "dark")
CONTRAST, LEAST_SIZE = 4.5, 11.0  # WCAG 2 AA
#: A page that breaks every rule.
WRONG = (
    '<!doctype html><body style="margin:0;background:#fff"><header id="verdict"><h1>x</h1></header>'
    '<p style="width:500px">wide</p><p style="color:#aaa;font-size:8px">pale</p>'
    '<svg width="100"><text y="20">one</text><text y="20">two</text></svg></body>'
)


def _measure(page: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Shows the page in a frame for each width and scheme; what the frames look like, by `<width>-<scheme>`."""
    frames = "".join(
        f'<iframe id="{width}-{scheme}" style="width:{width}px;height:{HEIGHT}px;border:0;color-scheme:{scheme}" '
        f'srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
        for scheme in SCHEMES
    )
    script = f"<script>{MEASURE.read_text('utf-8')}</script>"
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f'<!doctype html><meta charset="utf-8">{script}{frames}<pre id="measured"></pre>', "utf-8")
    command = browser_command(folder / "profile", "--dump-dom", wrapper.as_uri())
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    match = re.search(r'<pre id="measured">(\{.*\})</pre>', done.stdout, re.DOTALL)
    assert match is not None, f"the browser measured nothing: {done.stderr[-2000:]}"
    measured: dict[str, dict[str, Any]] = json.loads(html.unescape(match[1]))
    return measured


def _unreadable(page: dict[str, Any]) -> list[str]:
    texts = page["texts"]
    return [one["words"] for one in texts if one["contrast"] < CONTRAST or one["size"] < LEAST_SIZE]


@pytest.mark.parametrize("sample", ["passing", "failing"])
def test_pages(sample: str, samples: dict[str, Any], tmp_path: Path) -> None:
    """The verdict is seen first, all can be read, and nothing is loaded."""
    frames = _measure(html_page(samples[sample]), tmp_path)
    assert {name: (page["width"], page["dark"]) for name, page in frames.items()} == {
        f"{width}-{scheme}": (width, scheme == "dark") for width in WIDTHS for scheme in SCHEMES
    }
    for page in frames.values():
        assert 0 < page["verdict"] < HEIGHT / 2
        assert page["scrollWidth"] <= page["width"]
        assert page["beyond"] == page["overlaps"] == page["requests"] == _unreadable(page) == []
        assert len(page["texts"]) > 500


def test_measuring_finds_what_is_wrong(tmp_path: Path) -> None:
    faults = _measure(WRONG, tmp_path)["390-light"]
    assert faults["scrollWidth"] == 500
    assert "P wide" in faults["beyond"]
    assert _unreadable(faults) == ["pale"]
    assert faults["overlaps"] == ["one / two"]
