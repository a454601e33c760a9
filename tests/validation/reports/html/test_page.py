from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError

from validation.reports import html_page, job_summary, reading
from validation.reports.html.charts import Bar, bars
from validation.reports.html.page import templates
from validation.reports.variants import head as columns
from validation.reports.variants import verdict_of

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


@pytest.mark.parametrize(
    ("sample", "words", "status", "summary"),
    [
        ("passing", "demo-output", "✓ Files verified; quality: within its limit; speed: within its", "✅ demo"),
        ("failing", "✗ Failed: out a|b <script>", "✗ Files failed; quality: outside its limit; speed: outside its",
         "❌ Failed: out a&#124;b "),
    ],
)  # fmt: skip
def test_a_page_needs_nothing_else_and_begins_with_the_verdict(
    sample: str, words: str, status: str, summary: str, samples: dict[str, Report]
) -> None:
    page = Page(html_page(samples[sample]))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "video", "audio", "base", "form", "image", "use"}
    assert page.attributes("src") == []
    links, targets = [link or "" for link in page.attributes("href")], page.attributes("id")
    assert all(link.startswith(("#", "data:,")) for link in links)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(set(targets)) == len(targets)
    assert set() < {link[1:] for link in links if link.startswith("#")} <= set(targets)
    assert next(tag for tag, _ in page.tags if tag in ("header", "section")) == "header"
    assert page.text.count(words) == 2  # in the title, too
    assert page.text.index(words) < page.text.index(status)
    assert job_summary(samples[sample]).startswith(f"## {summary}")


UNLIMITED = "quality: no limit set; speed: no limit set"


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ([("integrity", "passed")], f"Files verified; {UNLIMITED}"),
        ([("quality", "passed")], "Files not checked; quality: within its limit; speed: no limit set"),
        ([("parity", "failed"), ("integrity", "passed")], f"Files failed; {UNLIMITED}"),
        ([("quality", "failed"), ("quality", "passed")], "Files not checked; quality: outside its limit"),
    ],
)
def test_what_was_verified_and_which_limits_there_were(checks: list[tuple[str, str]], words: str) -> None:
    report = {"checks": [{"check": name, "verdict": verdict} for name, verdict in checks]}
    assert reading.status(report).startswith(words)


def test_a_variant_failed_if_one_of_its_checks_did() -> None:
    verdicts = [("a", "not judged"), ("a", "failed"), ("b", "skipped"), ("b", "passed"), (None, "not judged")]
    verdicts += [(None, "passed")]
    report = {"checks": [{"variant": variant, "verdict": verdict} for variant, verdict in verdicts]}
    told = {"a": "failed", "b": "passed", "c": "skipped", None: "not judged"}
    assert {variant: verdict_of(report, variant) for variant in told} == told


def test_names_from_outside_are_text(failing: Report) -> None:
    summary = job_summary(failing)
    assert "<script" not in summary
    assert "\\`\\*\\_\\[x\\](y)" in summary
    assert {line.count(" | ") for line in summary.splitlines() if line.startswith("|")} == {len(columns())}
    assert not any(ord(letter) < 32 and letter != "\n" for letter in summary)
    name = "<img src=x onerror=alert(1)>\x00\ud800"
    tap = {"name": name, "layer": None, "sublayer": name, "error": 1.0}
    failing["variants"]["arithmetic-0.5"]["bisect"] |= {"case": name, "first": tap, "taps": [tap]}
    failing["source"]["name"] = failing["failure"] = name
    failing["tasks"][name], failing["files"][name] = {"seed": name, name: [name]}, {"bytes": 1, "sha256": name}
    failing["versions"][name] = failing["machine"]["processor"] = name
    failing["checks"][1]["notes"] = [name]
    text = html_page(failing)
    text.encode("utf-8")
    assert "\x00" not in text
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"img", "script"}
    assert page.text.count("<img src=x onerror=alert(1)>") > 15


def test_what_a_report_lacks_is_no_empty_text(passing: Report) -> None:
    empty = {"source": None, "checks": [], "variants": {}, "tasks": {}, "files": {}, "versions": {}}
    assert "0 variants. Nothing was checked." in Page(html_page(passing | empty)).text
    del passing["variants"]["arithmetic-0.2"]["layers"][0]["kept"]
    with pytest.raises((KeyError, UndefinedError), match="kept"):
        html_page(passing)


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


def test_bars_are_as_long_as_their_values() -> None:
    draw = templates().get_template("shared.html.jinja").module.draw  # type: ignore[attr-defined]
    chart = bars("KL", "nats", [Bar("one <b>", 0.1, "a"), Bar("two", 0.3, "b", 0.2)], [("a", "hf")])
    figure = ElementTree.fromstring(draw(chart))
    one, two = (float(bar.attrib["width"].removesuffix("%")) for bar in figure.iter("rect"))
    (limit,) = (line for line in figure.iter("line") if line.attrib["class"] == "limit")
    assert (two, float(limit.attrib["x1"].removesuffix("%"))) == pytest.approx((3 * one, 2 * one), rel=1e-3)
    assert figure.findtext(".//desc") == "Bars in nats: one <b> 0.1; two 0.3."
