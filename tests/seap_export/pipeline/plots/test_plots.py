"""Figures of plans and of reports."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from support.plans import kept_layer
from support.product import KeptHeads, KeptNeurons, Plan, PlanSettings, Sparsity
from support.variations import micro_config

from seap_export.errors import ArtifactError, UsageError
from seap_export.model.families import model_spec
from seap_export.pipeline.plots.data import (
    DrawnVariant,
    overlap,
    removed_by_layer,
)
from seap_export.pipeline.plots.figures import kept_figure, overlap_figure
from seap_export.pipeline.plots.quality import QualityPoint, parse_evaluation, refuse_incomparable
from seap_export.pipeline.plots.quality_figure import quality_figure
from seap_export.pipeline.plots.style import house_style, save

Layer = tuple[Iterable[int], Iterable[int], Iterable[int]]
WHOLE: Layer = (range(3), range(6), range(80))


@pytest.fixture
def make_variant() -> Callable[..., DrawnVariant]:
    """`make_variant("a", "a-0.2", layers)`, each layer as its kept KV groups, heads and neurons; the rest is whole."""

    def make(task: str, name: str, layers: dict[int, Layer], **values: Any) -> DrawnVariant:
        dense = model_spec(micro_config(model_type="llama"))
        rows = [layers.get(index, WHOLE) for index in range(3)]
        plan = Plan(
            **{
                "task": task,
                "weights": {task: 1.0},
                "source_name": "micro",
                "source_sha256": "00",
                "method": "seap",
                "settings": PlanSettings("wifv", Sparsity(), balance="alike", compensation="bias", distillation=0.0),
                "requested_ratio": 0.2,
                "achieved_ratio": 0.2,
                "layers": tuple(kept_layer(2, *row) for row in rows),
                **values,
            }
        )
        return DrawnVariant(name, plan, dense)

    return make


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
    kl_a, *_, accuracy_b = figure.axes
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


#: Layer 1 cut in both parts, layer 2 in neurons only.
A = {1: ([0, 2], [0, 4], range(0, 64)), 2: (range(3), range(6), range(0, 48))}
B = {1: ([0, 1], [0, 1, 2, 3], range(16, 80))}


def test_removed_weights_against_the_tensors(make_variant: Make) -> None:
    """Counted in the tensors that the shrunk and the dense model store."""
    variant = make_variant("a", "a-0.2", A)
    shrunk, dense = variant.plan.shrunk_spec(variant.dense).tensors(), variant.dense.tensors()
    removed = removed_by_layer(variant)
    of_sublayers = removed.sublayers
    for name, values, parts in (
        ("attention", of_sublayers["attention"], "qkvo"),
        ("mlp", of_sublayers["mlp"], ("gate", "up", "down")),
        ("total", removed.total, None),
    ):
        for layer in range(3):
            left = whole = 0
            for tensor, shape in dense.items():
                part = tensor.split(".")[-2].removesuffix("_proj")
                if f"layers.{layer}." in tensor and "_proj.weight" in tensor and (parts is None or part in parts):
                    whole += shape[0] * shape[1]
                    left += shrunk[tensor][0] * shrunk[tensor][1]
            assert values[layer] == pytest.approx(1 - left / whole, abs=1e-12), (name, layer)


def test_overlap_is_the_jaccard_index_over_the_layers_that_are_cut(make_variant: Make) -> None:
    first, second = make_variant("a", "a-0.2", A), make_variant("b", "b-0.2", B)
    neurons = overlap([first, second], KeptNeurons)
    # layer 1: 0-63 and 16-79; layer 2: 0-47 and all 80, cut by the first alone; layer 0 does not count
    assert neurons.jaccard[0][1] == (48 + 48) / (80 + 80)
    shared = 64 * 64 / 80 + 48 * 80 / 80
    assert neurons.chance[0][1] == pytest.approx(shared / (64 + 64 + 48 + 80 - shared))
    heads = overlap([first, second], KeptHeads)
    assert heads.jaccard[0][1] == 1 / 5  # {0, 4} and {0, 1, 2, 3}
    assert heads.chance[0][1] == pytest.approx((2 * 4 / 6) / (2 + 4 - 2 * 4 / 6))
    for sets in (neurons, heads):
        assert sets.names == ("a-0.2", "b-0.2")
        assert sets.jaccard[1][0] == sets.jaccard[0][1]
        assert sets.jaccard[0][0] == sets.jaccard[1][1] == 1.0


def test_overlap_of_parts_that_nobody_cuts_is_not_defined(make_variant: Make) -> None:
    only_neurons = {0: (range(3), range(6), range(16))}
    variants = [make_variant(task, task, only_neurons) for task in "ab"]
    assert overlap(variants, KeptHeads).jaccard == ((None, None), (None, None))
    assert overlap(variants, KeptHeads).chance == ((None, None), (None, None))
    assert overlap(variants, KeptNeurons).jaccard == ((1.0, 1.0), (1.0, 1.0))
    assert overlap(variants, KeptNeurons).chance[0][1] == pytest.approx((16 / 5) / (32 - 16 / 5))


REPORT: dict[str, Any] = {
    "schema": "seap-export/evaluation/2",
    "variant": "a-0.2",
    "task": "a",
    "method": None,
    "score": "wifv",
    "sparsity": "logistic",
    "compensation": "bias",
    "requested_ratio": 0.2,
    "achieved_ratio": 0.19,
    "divergence": {
        "hf": {"mean_kl_nats": 0.25, "top1_agreement": 0.9, "perplexity": 12.0, "dense_perplexity": 10.0, "tokens": 9},
        "onnx": {"mean_kl_nats": 0.5, "top1_agreement": 0.9, "perplexity": 13.0, "dense_perplexity": 10.0},
    },
    "zero_shot": {"hf": {"piqa": {"acc": 0.6, "acc_norm": 0.7}}, "dense": {"piqa": {"acc": 0.65, "acc_norm": 0.7}}},
}


def report(*path: str, value: Any = None, **values: Any) -> dict[str, Any]:
    """A copy of `REPORT` with other values: those of keywords, and the one at a path."""
    made = {**deepcopy(REPORT), **values}
    if path:
        cell = made
        for key in path[:-1]:
            cell = cell[key]
        cell[path[-1]] = value
    return made


def test_a_point_is_that_of_the_safetensors_form() -> None:
    point = parse_evaluation(REPORT, "r.json")
    assert (point.variant, point.task, point.form, point.achieved_ratio) == ("a-0.2", "a", "hf", 0.19)
    assert (point.mean_kl_nats, point.perplexity, point.dense_perplexity) == (0.25, 12.0, 10.0)
    assert (point.accuracy, point.dense_accuracy) == ({"piqa": 0.6}, {"piqa": 0.65})
    assert point.stderr == {}
    assert point.settings == ("SEAP", "wifv", "logistic", "bias")


@pytest.mark.parametrize("value", [None, float("inf")])
def test_a_perplexity_beyond_floats_is_left_out(value: float | None) -> None:
    point = parse_evaluation(report("divergence", "hf", "perplexity", value=value), "r.json")
    assert (point.perplexity, point.mean_kl_nats) == (None, 0.25)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (report(schema="seap-export/parity/1"), "evaluation schema is 'seap-export/parity/1'"),
        ({key: value for key, value in REPORT.items() if key != "score"}, "'score' is missing"),
        (report(achieved_ratio="0.2"), "'0.2' is not a finite number"),
        (report(divergence={}, zero_shot={}), "neither divergence nor zero_shot"),
        (report("divergence", "hf", "mean_kl_nats", value=float("nan")), "nan is not a finite number"),
        (report("zero_shot", "hf", "piqa", "acc", value=60), "accuracy must"),
        (report(divergence=[1]), "not a valid evaluation"),
    ],
)
def test_a_bad_report_is_refused_by_name(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_evaluation(made, "r.json")
    assert str(caught.value).startswith("r.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_texts_or_questions_of_a_task_are_refused() -> None:
    asked = {"texts": {"sha256": "aa"}, "tasks": {"piqa": {"origin": "hub", "sha256": "bb"}}}
    first, same = parse_evaluation(report(**asked), ""), parse_evaluation(report(**asked, method="wanda-sp"), "")
    assert first.digests == {"texts": "aa", "questions of piqa": "bb"}
    refuse_incomparable([first, same])
    texts = parse_evaluation(report(**{**asked, "texts": {"sha256": "cc"}}), "")
    with pytest.raises(UsageError, match="task 'a' have different texts"):
        refuse_incomparable([first, texts])
    questions = parse_evaluation(report(**{**asked, "tasks": {"piqa": {"sha256": "cc"}}}), "")
    with pytest.raises(UsageError, match="task 'a' have different questions of piqa"):
        refuse_incomparable([first, questions])
