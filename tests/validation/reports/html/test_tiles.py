"""The three tiles of each variant: what they say is what the JSON says."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from validation.reports import html_page

Report = dict[str, Any]


def _tiles(report: Report, name: str) -> dict[str, list[str]]:
    """The texts of a variant's tiles by their headings, in order."""
    page = html_page(report)
    (article,) = (part for part in re.findall(r"<article>.*?</article>", page, re.DOTALL) if f">{name}</a>" in part)
    tiles = re.findall(r"<div class=.tile [a-z]+.><h4>(\w+)</h4>(.*?)(?=<div class=.tile |</div></article>)", article)
    return {title: _lines(content) for title, content in tiles}


def _lines(content: str) -> list[str]:
    return [html.unescape(" ".join(re.sub("<[^>]*>", " ", line).split())) for line in content.split("</p>")[:-1]]


def _numbers(lines: list[str]) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.?\d*", " ".join(lines))]


@pytest.mark.parametrize("name", ["arithmetic-0.2", "everyday-0.35"])
def test_numbers_are_those_of_the_report(passing: Report, name: str) -> None:
    variant = passing["variants"][name]
    tiles = _tiles(passing, name)
    size, dense = variant["bytes"], variant["dense_bytes"]
    assert _numbers(tiles["Smaller"]) == pytest.approx(
        [
            100 * (1 - size["onnx"] / dense["onnx"]), 32,
            *(number / 1e6 for folder in ("onnx", "hf") for number in (size[folder], dense[folder])),
        ],
        rel=5e-3,
    )  # fmt: skip
    cell, dense_cell = variant["speed"]["variant"][0], variant["speed"]["dense"][0]
    decode = [line for line in tiles["Faster"] if "(decode)" in line or "a token" in line]
    assert _numbers(decode) == pytest.approx(
        [dense_cell[key] / cell[key] for key in ["decode_ms_per_token"]]
        + [model["decode_ms_per_token"] for model in (cell, dense_cell)],
        rel=5e-3,
    )
    prefill = [line for line in tiles["Faster"] if "(prefill)" in line]
    assert _numbers(prefill) == pytest.approx([dense_cell["prefill_ms"] / cell["prefill_ms"]], rel=5e-3)
    divergence = variant["quality"]["divergence"]["onnx"]
    kl, top1, perplexity, dense_perplexity, loss = tiles["Worse"][0], *tiles["Worse"][3:]
    digits = 10 ** -len(kl.split()[0].partition(".")[2])
    assert _numbers([kl]) == pytest.approx(
        [divergence["mean_kl_nats"], divergence["mean_kl_nats_stderr"]], abs=digits / 2 + 1e-12
    )
    assert _numbers([top1]) == pytest.approx(
        [100 * divergence["top1_agreement"], 100 * divergence["top1_agreement_stderr"]], abs=0.05
    )
    assert _numbers([perplexity, dense_perplexity]) == pytest.approx(
        [divergence["perplexity"], divergence["dense_perplexity"]], abs=0.05
    )
    sign, words = ("−" if divergence["loss_difference_nats"] < 0 else "+"), "nats per token, on the same texts"
    assert re.fullmatch(rf"\{sign}0\.0\d+ ± 0\.0\d+ {words}", loss)
