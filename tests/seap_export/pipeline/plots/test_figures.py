from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from support.product import KeptHeads, KeptNeurons

from seap_export.pipeline.plots.data import DrawnVariant, overlap, removed_by_layer
from seap_export.pipeline.plots.figures import kept_figure, overlap_figure, sparsity_figure
from seap_export.pipeline.plots.quality import QualityPoint
from seap_export.pipeline.plots.quality_figure import quality_figure
from seap_export.pipeline.plots.style import house_style, save

Make = Callable[..., DrawnVariant]
CUT = {1: ([0, 2], [0, 4], range(0, 80, 2))}


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with house_style():
        yield


def point(task: str, method: str, ratio: float, kl: float | None, **values: object) -> QualityPoint:
    perplexity = None if kl is None else 10.0 + kl
    dense = None if kl is None else 10.0
    settings = (method, "wifv", "logistic", "bias")
    return QualityPoint(f"{task}-{ratio}", task, settings, "hf", ratio, kl, perplexity, dense, **{
        "accuracy": {}, "dense_accuracy": {}, "digests": {}, **values,
    })  # type: ignore[arg-type]  # fmt: skip


def texts(figure: Figure, tmp_path: Path) -> str:
    """What can be read in the SVG of a figure: a comment beside every text."""
    save(figure, tmp_path / "f.svg")
    return "\n".join(re.findall(r"<!-- (.*?) -->", (tmp_path / "f.svg").read_text(), re.DOTALL))


def test_sparsity_lines_are_the_removed_fractions(make_variant: Make, tmp_path: Path) -> None:
    variants = [make_variant("a", "a-0.2", CUT), make_variant("b", "b-0.2", {})]
    removed = [removed_by_layer(variant) for variant in variants]
    figure = sparsity_figure(variants, removed)
    for panel, values in zip(figure.axes, removed, strict=True):
        drawn = {str(line.get_label()): tuple(line.get_ydata()) for line in panel.lines}
        assert drawn == {
            "attention": values.sublayers["attention"],
            "MLP": values.sublayers["mlp"],
            "both": values.total,
        }
        low, high = panel.get_ylim()
        assert low < 0 < max(value or 0.0 for value in removed[0].sublayers["attention"]) < high
    read = texts(figure, tmp_path)
    for label in ("a: 20.0% of all removed", "b: 20.0% of all removed", "attention", "MLP", "micro", "ratio 0.2"):
        assert label in read


def test_neurons_are_one_image_in_the_file(make_variant: Make, tmp_path: Path) -> None:
    figure = kept_figure(make_variant("reading", "reading-0.2", CUT))
    left, middle, right = figure.axes
    assert np.array_equal(np.asarray(middle.images[0].get_array())[1], [3, 1] * 40)
    assert [bar.get_bbox().width for bar in right.patches if isinstance(bar, Rectangle)] == [1.0, 0.5, 1.0]
    assert left.images[0].get_array() is not None
    read = texts(figure, tmp_path)
    for label in ("Heads and neurons kept by reading-0.2", "MLP neurons", "heads by KV group", "kept"):
        assert label in read
    root = ElementTree.parse(tmp_path / "f.svg").getroot()
    images = root.findall(".//{http://www.w3.org/2000/svg}image")
    assert sorted((image.get("width"), image.get("height")) for image in images) == [("6", "3"), ("80", "3")]


def test_overlap_is_annotated_with_its_numbers(make_variant: Make, tmp_path: Path) -> None:
    variants = [make_variant("a", "a", CUT), make_variant("b", "b", {1: (range(3), range(6), range(64))})]
    heads, neurons = overlap(variants, KeptHeads), overlap(variants, KeptNeurons)
    figure = overlap_figure(variants, {"heads": heads, "neurons": neurons})
    read = texts(figure, tmp_path)
    assert (heads.jaccard[0][1], neurons.jaccard[0][1]) == (2 / 6, 32 / 72)
    for number in ("0.33\n(0.33)", "0.44\n(0.44)", "1.00"):
        assert number in read
    # the second variant cuts no head, so that its own overlap is not defined
    assert "not cut" in [text.get_text() for text in figure.axes[0].texts]


def test_quality_lines_by_method_and_the_dense_level(tmp_path: Path) -> None:
    points = [
        point("a", "SEAP", 0.5, 2.0),
        point(
            "a", "SEAP", 0.2, 0.5, accuracy={"piqa": 0.6}, dense_accuracy={"piqa": 0.7}, stderr={"mean_kl_nats": 0.25}
        ),
        point("a", "wanda-sp", 0.2, 1.0),
        point("b", "SEAP", 0.2, 0.25),
    ]
    figure = quality_figure(points)
    kl_a, kl_b, perplexity_a, _, accuracy_a, accuracy_b = figure.axes
    lines = {str(line.get_label()): line for line in kl_a.lines}
    assert list(lines["SEAP"].get_xdata()) == [0.2, 0.5]
    assert list(lines["SEAP"].get_ydata()) == [0.5, 2.0]
    assert list(lines["wanda-sp"].get_ydata()) == [1.0]
    assert list(lines["dense model"].get_ydata()) == [0.0, 0.0]
    (bars,) = kl_a.collections
    assert isinstance(bars, LineCollection)
    assert [segment.tolist() for segment in bars.get_segments()] == [
        [[0.2, 0.25], [0.2, 0.75]],
        [[0.5, 2.0], [0.5, 2.0]],
    ]
    assert not any(axes.collections for axes in (kl_b, perplexity_a, accuracy_a))
    assert {str(line.get_label()) for line in kl_b.lines} == {"SEAP", "dense model"}
    assert perplexity_a.get_yscale() == "log"
    assert {str(line.get_label()): list(line.get_ydata()) for line in perplexity_a.lines}["dense model"] == [10, 10]
    assert {str(line.get_label()): list(line.get_ydata()) for line in accuracy_a.lines} == {
        "SEAP": [0.6], "dense model": [0.7, 0.7],
    }  # fmt: skip
    assert [text.get_text() for text in accuracy_b.texts] == ["not evaluated"]
    assert kl_a.get_xlim()[1] > 0.5
    read = texts(figure, tmp_path)
    for label in ("nats per token", "perplexity (log)", "accuracy, piqa", "SEAP", "wanda-sp", "dense model"):
        assert label in read


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_picture_has_the_same_bytes_whatever_matplotlibrc_says(
    make_variant: Make, tmp_path: Path, suffix: str
) -> None:
    variant = make_variant("a", "a-0.2", CUT)
    save(kept_figure(variant), tmp_path / f"first.{suffix}")
    with mpl.rc_context({"font.size": 20.0, "svg.hashsalt": None}), house_style():
        save(kept_figure(variant), tmp_path / f"second.{suffix}")
    first = (tmp_path / f"first.{suffix}").read_bytes()
    assert first == (tmp_path / f"second.{suffix}").read_bytes()
    for trace in (b"<dc:date>", b"Matplotlib v", b"Software", b"tIME"):
        assert trace not in first
