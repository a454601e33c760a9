from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest

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


def test_the_recommendation_comes_before_what_was_verified(shipped: Report) -> None:
    text = html_page(shipped)
    page, words = Page(text), shipped["recommended"]["everyday"]["words"]
    assert words.startswith("Ship the whole model in int4 (86.4 MB, ")
    assert page.text.index(words) < page.text.index("Files verified")
    assert shipped["whole"]["everyday-whole-int4"]["command"] in text[: text.index("</header>")]
    assert text.index("</header>") < text.index('id="files-1"') < text.index('id="variants"')


def test_answers_stand_side_by_side_in_full(shipped: Report) -> None:
    for name, answer in (("arithmetic-0.2", " a\nb"), ("everyday-0.35", " <c>" * 200)):
        shipped["variants"][name]["quality"]["sample"] = {"prompt": "How?", "dense": " d", "variant": answer}
        shipped["variants"][name]["task"] = "both"
    page = html_page(shipped)
    section = page[page.index('<section class="answers">') :].split("</section>")[0]
    assert section.count("<blockquote>How?</blockquote>") == 1
    shown = re.findall(r"<h3>(.*?)</h3><p class=\"answer\">(.*?)</p>", section, re.DOTALL)
    assert [name for name, _ in shown] == ["Dense model", "arithmetic-0.2", "everyday-0.35"]
    assert [html.unescape(answer) for _, answer in shown] == [" d", " a\nb", " <c>" * 200]


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ([("integrity", "passed")], "Files verified; quality: no limit set; speed: no limit set"),
        ([("quality", "passed")], "Files not checked; quality: within its limit; speed: no limit set"),
        ([("parity", "failed"), ("integrity", "passed")], "Files failed; quality: no limit set; speed: no limit set"),
        ([("quality", "failed"), ("quality", "passed")], "Files not checked; quality: outside its limit"),
        ([("integrity", "passed"), ("quality", "skipped")], "Files verified; quality: no limit set"),
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


def test_a_heat_map_shows_what_was_lost_elsewhere(passing: Report) -> None:
    """Own tasks are framed, a colour means a divergence, and variants without figures have no row."""
    page = html_page(passing)
    section = re.search(r'<section id="elsewhere">(.*?)</section>', page, re.DOTALL)
    assert section is not None
    rows = re.findall(r"<tr>(.*?)</tr>", section[1])
    assert [re.sub("<[^>]*>", " ", row).split() for row in rows] == [
        ["Variant", "arithmetic", "everyday", "general", "text"],
        ["dense", "model", "–", "0.9", "–", "0.9", "–", "0.9"],
        ["arithmetic-0.2", "0.024", "±", "0.004", "0.906", "3.2", "±", "0.4", "1.7", "1.7", "±", "0.2", "1.32"],
        ["everyday-0.35", "0.44", "±", "0.06", "1.01", "0.062", "±", "0.010", "0.915", "0.120", "±", "0.015", "0.93"],
    ]
    kinds = [re.findall(r'class="heat ([^"]*)"', row) for row in rows[2:]]
    assert kinds == [["h0 own", "h5", "h4"], ["h3", "h1 own", "h2"]]
    assert "On up to 8 held-out texts" in section[1]
    for variant in passing["variants"].values():
        (variant["quality"] or {}).pop("elsewhere", None)
    assert "What was lost elsewhere" not in html_page(passing)


def test_a_variant_measured_on_other_texts_has_columns_of_its_own(passing: Report) -> None:
    cell = passing["variants"]["everyday-0.35"]["quality"]["elsewhere"]["onnx"]["arithmetic"]
    cell |= {"sha256": "f" * 64, "dense_bits_per_byte": 1.25}
    text = Page(html_page(passing)).text
    assert "Variant arithmetic arithmetic everyday general text dense model – 0.9 – 1.25 – 0.9 – 0.9" in text
    assert "arithmetic-0.2 0.024 ± 0.004 0.906 – 3.2 ± 0.4 1.7 1.7 ± 0.2 1.32 everyday-0.35 – 0.44 ± 0.06" in text


def test_sections_hold_the_figures(passing: Report) -> None:
    text = Page(html_page(passing)).text
    for words in (
        "general-0.5 : quality was skipped: no dense model was given",
        "general-0.5 : parity: int4 max_abs 0.01 is looser than the default 0.001",
        "Nearest to its limit: max abs 1.1e-4 ≤ 0.001 (prompt 0, prefill), cache error 2.4e-5 ≤ 0.001 (prompt 0,",
        "batch of 3 decode ✓ passed 8 1.1e-4 2.2e-11 4.1e-11 4.5e-11 100% – – 2.4e-5 3.2e-5",
        "prompt 3 prefill ✓ passed 120 1.1e-4 2.2e-11 4.1e-11 4.5e-11 100% 100% 1.0000 2.4e-5",
        "everyday-0.35, onnx: 0.062 ± 0.010 nats per token",
        "onnx 0.062 ± 0.010 93.8% ± 1.2% 15.1 dense 14.2 0.0124 0.498 1.24 2.55 3,012",
        "piqa onnx 54.2% 50 to 59% – – 50% 500 +0.4% ± 1.8% 41 / 43",
        "gsm8k dense 33.5% 27 to 40% 200 96 0%",
        "gsm8k onnx 29% 23 to 36% 200 −4.5% ± 2.5% 17 / 8 134 12.5%",
        "Dense model Put it in water. everyday-0.35 Put it in <hot> water.",
        "batch 1, 128 tokens decode 20 ms 16 ms 1.25× 1.23 to 1.27 1.30× 96%",
        "batch 1, 128 tokens prefill 200 ms 133 ms 1.50× 1.48 to 1.52 1.56× 96%",
        "0 100% 9 3 1536",
        "decode batch 1, 128 tokens ✓ passed 1.24× 1.20 to 1.29 ≥ 1.1×",
        "size on disk – ✓ passed 0.82× – ≤ 1×",
        "batch 1, 512 tokens decode 24.2 ms 19.5 ms 1.24× 1.20 to 1.29 – –",
        "batch 1, 512 tokens prefill 911 ms 772 ms 1.18× 1.14 to 1.23 – –",
        "Speed was skipped: no dense model was given.",
        "Dense model: SmolLM2-135M-Instruct.Q4_1.gguf , SHA-256 " + "5f" * 32,
        "arithmetic 0 512 200 24117 16 arithmetic.jsonl",
        "onnxruntime 1.31.1",
        "Processor Example CPU @ 2.10GHz",
        "9 files with their SHA-256",
        "arithmetic-0.2/hf/model.safetensors 453 MB " + "00" * 32,
    ):
        assert words in text, words


@pytest.mark.parametrize("key", ["parity", "quality", "speed"])
def test_what_was_not_measured_is_left_out(passing: Report, key: str) -> None:
    heads = {"parity": "Parity by case and stage", "quality": "Divergence", "speed": "Times, speed-ups"}
    before = html_page(passing).count(f"<caption>{heads[key]}")
    passing["variants"]["arithmetic-0.2"][key] = {} if key == "parity" else None
    assert html_page(passing).count(f"<caption>{heads[key]}") == before - 1


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
