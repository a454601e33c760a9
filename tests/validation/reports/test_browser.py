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
DESKTOP = 1200
SCHEMES = ("light", "dark")
# WCAG 2 AA: text, and what is needed to understand a chart
TEXT_CONTRAST, SHAPE_CONTRAST, LEAST_SIZE = 4.5, 3.0, 11.0
Measured = dict[str, Any]


def _measure(page: str, folder: Path) -> dict[str, Measured]:
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
    measured: dict[str, Measured] = json.loads(html.unescape(match[1]))
    return measured


def _check(page: Measured) -> None:
    """The verdict is seen first, then size, speed and quality; all can be read, and nothing is loaded."""
    is_desktop = page["width"] >= DESKTOP
    verdict = page["verdict"]
    assert verdict["visible"]
    assert 0 <= verdict["top"] < verdict["bottom"] < HEIGHT / 2
    assert verdict["text"].startswith(("demo-output", "✗ Failed: out a|b"))
    assert ("Ship the whole model in int4" in verdict["text"]) == ("✓ Files verified" in verdict["text"])
    assert page["scrollWidth"] <= page["width"]
    assert page["beyond"] == page["overlaps"] == page["requests"] == []
    assert page["scrolling"] == [] or not is_desktop
    tiles = page["tiles"]
    assert [tile["title"] for tile in tiles[:3]] == ["Smaller", "Faster", "Worse"]
    tops = [tile["top"] for tile in tiles[:3]]
    assert len(set(tops)) == 1 if is_desktop else tops == sorted(set(tops))
    assert all(tile["top"] < page["table"] for tile in tiles)
    assert len(page["texts"]) > 500
    unreadable = [one for one in page["texts"] if one["contrast"] < TEXT_CONTRAST or one["size"] < LEAST_SIZE]
    assert unreadable == []
    assert len(page["charts"]) >= 8
    assert all(width > 240 and height > 60 for width, height in page["charts"])
    assert len(page["shapes"]) > 100
    assert [shape for shape in page["shapes"] if shape["contrast"] < SHAPE_CONTRAST] == []


@pytest.mark.parametrize("sample", ["passing", "failing"])
def test_pages(sample: str, samples: dict[str, Any], tmp_path: Path) -> None:
    frames = _measure(html_page(samples[sample]), tmp_path)
    assert {name: (page["width"], page["dark"]) for name, page in frames.items()} == {
        f"{width}-{scheme}": (width, scheme == "dark") for width in WIDTHS for scheme in SCHEMES
    }
    for page in frames.values():
        _check(page)
    light, dark = frames["390-light"]["texts"], frames["390-dark"]["texts"]
    assert [text["words"] for text in light] == [text["words"] for text in dark]
    assert [text["contrast"] for text in light] != [text["contrast"] for text in dark]


def test_measuring_finds_what_is_wrong(tmp_path: Path) -> None:
    """A page that breaks every rule: the measure must be able to tell."""
    page = (
        '<!doctype html><body style="margin:0;background:#fff"><header id="verdict"><h1>x</h1></header>'
        '<p style="width:500px">wide</p><p style="color:#aaa;font-size:8px">pale</p><figure><svg width="100">'
        '<text y="20">one</text><text y="20">two</text>'
        '<rect y="50" width="9" height="9" style="fill:#eee"></rect></svg>'
        '</figure><div class="scroll" style="overflow:auto"><p style="width:600px">too wide</p></div></body>'
    )
    faults = _measure(page, tmp_path)["390-light"]
    assert faults["scrollWidth"] == 500
    assert any(line.startswith("P wide") for line in faults["beyond"])
    assert faults["scrolling"] == ["too wide"]
    (pale,) = (text for text in faults["texts"] if text["words"] == "pale")
    assert pale["size"] == 8
    assert pale["contrast"] == pytest.approx(2.32, abs=0.01)
    assert faults["overlaps"] == ["one / two"]
    assert faults["shapes"][0]["contrast"] < SHAPE_CONTRAST
