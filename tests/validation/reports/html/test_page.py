from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2 import UndefinedError

from validation.reports import html_page, reading

Report = dict[str, Any]
_VOID = {"meta", "link"}


class Page(HTMLParser):
    """Checks that tags are nested rightly, and gathers texts, attributes and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(params=["passing", "failing"])
def page(request: pytest.FixtureRequest) -> Page:
    return Page(html_page(request.getfixturevalue(request.param)))


def test_page_needs_nothing_else(page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "video", "audio", "base", "form", "image", "use"}
    assert page.attributes("src") == []
    assert all((link or "").startswith(("#", "data:,")) for link in page.attributes("href"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_links_lead_to_places_on_the_page(page: Page) -> None:
    targets = page.attributes("id")
    assert len(set(targets)) == len(targets)
    links = [link for link in page.attributes("href") if link and link.startswith("#")]
    assert links
    assert {link[1:] for link in links} <= set(targets)


def test_verdict_comes_first(passing: Report, failing: Report) -> None:
    for report, words, status in (
        (passing, "demo-output", "✓ Files verified; quality: within its limit; speed: within its limit."),
        (failing, "✗ Failed: out a|b <script>", "✗ Files failed; quality: outside its limit; speed: outside its"),
    ):
        page = Page(html_page(report))
        first = next(tag for tag, _ in page.tags if tag in ("header", "section"))
        assert first == "header"
        assert page.text.count(words) == 2  # in the title, too
        assert page.text.index(words) < page.text.index(status)
    text = Page(html_page(failing)).text
    assert "file 0 is missing ✗ Files failed" in text
    assert "3 variants of SmolLM2-135M-Instruct.Q4_1.gguf" in text
    assert "Exit code 7: an artifact is damaged or incomplete." in text


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ([("integrity", "passed")], "Files verified; quality: no limit set; speed: no limit set"),
        ([("quality", "passed")], "Files not checked; quality: within its limit; speed: no limit set"),
        ([("parity", "failed"), ("integrity", "passed")], "Files failed; quality: no limit set; speed: no limit set"),
        ([("quality", "failed"), ("quality", "passed")], "Files not checked; quality: outside its limit"),
    ],
)
def test_what_was_verified_and_which_limits_there_were(checks: list[tuple[str, str]], words: str) -> None:
    report = {"checks": [{"check": name, "verdict": verdict} for name, verdict in checks]}
    assert reading.status(report).startswith(words)


def test_failures_say_where_why_and_what_to_do(failing: Report) -> None:
    text = Page(html_page(failing)).text
    assert text.count("What to do:") == 7
    assert "arithmetic-0.5 : parity max abs 0.412 > 0.001 at case 'prompt 1'" in text
    assert "The error starts at layer 12, attention (relative error 0.04) ." in text
    assert "2 more file 5 is missing file 6 is missing" in text
    assert "lost-0.2: integrity lost-0.2/onnx/model.onnx is damaged" in text.replace(" : ", ": ")
    assert text.index("What failed") < text.index("Compared with the dense model")


def test_names_from_outside_are_text(failing: Report) -> None:
    name = "<img src=x onerror=alert(1)>\x00\ud800"
    tap = {"name": name, "layer": None, "sublayer": name, "error": 1.0}
    failing["variants"]["arithmetic-0.5"]["bisect"] |= {"case": name, "first": tap, "taps": [tap], "overflows": []}
    failing["source"]["name"] = failing["failure"] = name
    failing["tasks"][name] = {"seed": name, name: [name]}
    failing["files"][name] = {"bytes": 1, "sha256": name}
    failing["versions"][name] = failing["machine"]["processor"] = name
    failing["checks"][1]["notes"] = [name]
    text = html_page(failing)
    text.encode("utf-8")
    assert "\x00" not in text
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"img", "script"}
    assert page.text.count("<img src=x onerror=alert(1)>") > 15


def test_what_a_report_lacks_is_no_empty_text(passing: Report) -> None:
    del passing["variants"]["arithmetic-0.2"]["layers"][0]["kept"]
    with pytest.raises((KeyError, UndefinedError), match="kept"):
        html_page(passing)


def test_report_of_nothing_still_makes_a_page(passing: Report) -> None:
    empty = {"source": None, "checks": [], "variants": {}, "tasks": {}, "files": {}, "versions": {}}
    text = Page(html_page(passing | empty)).text
    assert "0 variants. Nothing was checked." in text


def test_a_figure_stands_beside_the_limit_of_its_own_case(passing: Report) -> None:
    """Noise widens the limits of some cases; the largest figure may be further from its limit than another is."""
    parity = passing["variants"]["general-0.5"]["parity"]["onnx"]
    for case, kl, limit in zip(parity["cases"][-3:], (0.003, 0.024, 0.009), (0.002, 0.035, 0.01), strict=True):
        case |= {"limits": {"mean_kl": limit}, "mean_kl_nats": kl, "verdict": "passed" if kl < limit else "not judged"}
    text = Page(html_page(passing)).text
    assert "cache error 2.4e-5 ≤ 0.001 (prompt 0, prefill), mean KL 0.003 > 0.002 (batch of 3, prefill)." in text
    assert "? not judged mean KL 0.003 > 0.002 too few tokens to judge the stage alone" in text
    parity["cases"].pop(-3)
    assert "mean KL 0.009 ≤ 0.01 (prompt 0, as it is, prefill)." in Page(html_page(passing)).text


def _parity(page: str, variant: str) -> list[tuple[bool, str]]:
    """Whether each parity table of a variant is open, and the line above it."""
    section = page[page.index(f'<h2>{variant} <span class="pill') :].split("</section>")[0]
    sections = re.findall(r"<details( open=\"\")?><summary>(<b>Parity.*?)</summary>", section, re.DOTALL)
    return [(bool(opened), " ".join(re.sub("<[^>]*>", "", words).split())) for opened, words in sections]


def test_passed_parity_is_folded_and_failed_open(failing: Report) -> None:
    page = html_page(failing)
    told = "Parity of onnx ✓ passed 10 comparisons, largest difference of a logit 1.1e-4"
    assert _parity(page, "everyday-0.35") == [(False, told)]
    told = "Parity of onnx ✗ failed 10 comparisons, largest difference of a logit 0.412"
    assert _parity(page, "arithmetic-0.5") == [(True, told)]
    section = page[page.index("<h2>arithmetic-0.5") :]
    assert section.index("Parity of onnx") < section.index("Quality compared")  # what failed comes first
    variant = failing["variants"]["arithmetic-0.5"]["parity"]
    variant["gguf"] = failing["variants"]["everyday-0.35"]["parity"]["onnx"]
    assert [is_open for is_open, _ in _parity(html_page(failing), "arithmetic-0.5")] == [True, False]
