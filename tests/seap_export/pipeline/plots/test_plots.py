"""Figures of plans and of reports."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from support.plans import kept_layer
from support.product import KeptHeads, KeptNeurons, Plan, PlanSettings, Sparsity
from support.variations import micro_config

from seap_export.errors import ArtifactError, UsageError
from seap_export.model.families import model_spec
from seap_export.pipeline.plots.data import DrawnVariant, overlap
from seap_export.pipeline.plots.figures import kept_figure, overlap_figure
from seap_export.pipeline.plots.quality import QualityPoint, parse_evaluation, refuse_incomparable
from seap_export.pipeline.plots.quality_figure import quality_figure
from seap_export.pipeline.plots.size_figure import size_figure
from seap_export.pipeline.plots.style import house_style, save

#: Kept KV groups, heads and neurons.
Layer = tuple[Iterable[int], Iterable[int], Iterable[int]]
WHOLE: Layer = (range(3), range(6), range(80))
SETTINGS = PlanSettings("wifv", Sparsity(), balance="alike", compensation="bias", distillation=0.0)


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with house_style():
        yield


def variant(name: str, layers: dict[int, Layer]) -> DrawnVariant:
    """Of three layers; those that are not named are whole."""
    kept = tuple(kept_layer(2, *layers.get(index, WHOLE)) for index in range(3))
    plan = Plan(
        task=name, weights={name: 1.0}, source_name="micro", source_sha256="00", method="seap", settings=SETTINGS,
        requested_ratio=0.2, achieved_ratio=0.2, layers=kept,
    )  # fmt: skip
    return DrawnVariant(name, plan, model_spec(micro_config(model_type="llama")))


#: Layer 1 cut in both parts, layer 2 in neurons only.
A = variant("a-0.2", {1: ([0, 2], [0, 4], range(64)), 2: (range(3), range(6), range(48))})
B = variant("b-0.2", {1: ([0, 1], [0, 1, 2, 3], range(16, 80))})
#: Layers 0 and 2 are whole.
EVERY_OTHER = variant("reading-0.2", {1: ([0, 2], [0, 4], range(0, 80, 2))})
ONLY_NEURONS = [variant(name, {0: (range(3), range(6), range(16))}) for name in "mn"]


def texts(figure: Figure, tmp_path: Path) -> str:
    """What can be read in the SVG of a figure: a comment beside every text."""
    save(figure, tmp_path / "f.svg")
    return "\n".join(re.findall(r"<!-- (.*?) -->", (tmp_path / "f.svg").read_text(), re.DOTALL))


def test_neurons_are_one_image_in_the_file(tmp_path: Path) -> None:
    figure = kept_figure(EVERY_OTHER)
    _, middle, right = figure.axes
    assert np.array_equal(np.asarray(middle.images[0].get_array())[1], [3, 1] * 40)
    assert [bar.get_bbox().width for bar in right.patches if isinstance(bar, Rectangle)] == [1.0, 0.5, 1.0]
    assert "Heads and neurons kept by reading-0.2" in texts(figure, tmp_path)
    images = ElementTree.parse(tmp_path / "f.svg").getroot().iter("{http://www.w3.org/2000/svg}image")
    assert sorted((image.get("width"), image.get("height")) for image in images) == [("6", "3"), ("80", "3")]
    first = (tmp_path / "f.svg").read_bytes()
    with mpl.rc_context({"font.size": 20.0, "svg.hashsalt": None}), house_style():
        save(kept_figure(EVERY_OTHER), tmp_path / "f.svg")
    assert (tmp_path / "f.svg").read_bytes() == first


def test_quality_lines_by_method_and_the_dense_level() -> None:
    def evaluated(method: str | None, ratio: float, kl: float) -> QualityPoint:
        divergence = {"mean_kl_nats": kl, "perplexity": 10.0 + kl, "dense_perplexity": 10.0}
        made = report(method=method, achieved_ratio=ratio, divergence={"hf": divergence}, zero_shot={})
        return parse_evaluation(made, "r.json")

    kl, *_ = quality_figure([evaluated(None, 0.5, 2.0), evaluated(None, 0.2, 0.5), evaluated("wanda-sp", 0.2, 1)]).axes
    lines = {str(line.get_label()): line.get_xydata().tolist() for line in kl.lines}
    assert (lines["SEAP"], lines["wanda-sp"]) == ([[0.2, 0.5], [0.5, 2.0]], [[0.2, 1.0]])
    assert [height for _, height in lines["dense model"]] == [0.0, 0.0]


def test_sizes_and_divergences_with_the_file_to_ship_and_a_limit(tmp_path: Path) -> None:
    common = {"precision": "int8", "folder": "onnx", "mean_kl_nats_stderr": None, "beaten": False}
    files = [
        {"name": name, "is_whole": is_whole, "bytes": size, "mean_kl_nats": kl, **common}
        for name, is_whole, size, kl in (("a-0.2/onnx", False, 10**8, 0.3), ("a-whole-int8", True, 2 * 10**8, 0.1))
    ]
    limits = {"bytes": None, "max_kl": 0.2}
    figure = size_figure("a", {"file": "a-whole-int8", "files": files, "limits": limits})
    lines = {str(line.get_label()): np.ravel(line.get_data()).tolist() for line in figure.axes[0].lines}
    assert (lines["to ship"], lines["limit"]) == ([2e8, 0.1], [0, 1, 0.2, 0.2])
    save(figure, tmp_path / "f.svg")
    first = (tmp_path / "f.svg").read_bytes()
    save(size_figure("a", {"file": "a-whole-int8", "files": files, "limits": limits}), tmp_path / "f.svg")
    assert (tmp_path / "f.svg").read_bytes() == first


def test_overlap_is_the_jaccard_index_over_the_layers_that_are_cut(tmp_path: Path) -> None:
    heads, neurons = overlap([A, B], KeptHeads), overlap([A, B], KeptNeurons)
    # layer 1: 0-63 and 16-79; layer 2: 0-47 and all 80, cut by the first alone; layer 0 does not count
    assert neurons.jaccard[0][1] == (48 + 48) / (80 + 80)
    shared = 64 * 64 / 80 + 48 * 80 / 80
    assert neurons.chance[0][1] == pytest.approx(shared / (64 + 64 + 48 + 80 - shared))
    assert heads.jaccard[0][1] == 1 / 5  # {0, 4} and {0, 1, 2, 3}
    assert heads.chance[0][1] == pytest.approx((2 * 4 / 6) / (2 + 4 - 2 * 4 / 6))
    for sets in (neurons, heads):
        assert sets.names == ("a-0.2", "b-0.2")
        assert sets.jaccard[1][0] == sets.jaccard[0][1]
        assert sets.jaccard[0][0] == sets.jaccard[1][1] == 1.0
    read = texts(overlap_figure([A, B], {"heads": heads, "neurons": neurons}), tmp_path)
    assert [number for number in ("0.20\n(0.29)", "0.60\n(0.63)", "1.00") if number not in read] == []


def test_overlap_of_parts_that_nobody_cuts_is_not_defined() -> None:
    heads, neurons = (overlap(ONLY_NEURONS, kind) for kind in (KeptHeads, KeptNeurons))
    assert heads.jaccard == heads.chance == ((None, None), (None, None))
    assert neurons.jaccard == ((1.0, 1.0), (1.0, 1.0))
    assert neurons.chance[0][1] == pytest.approx((16 / 5) / (32 - 16 / 5))
    axes = overlap_figure(ONLY_NEURONS, {"heads": heads}).axes[0]
    assert "not cut" in [text.get_text() for text in axes.texts]


REPORT: dict[str, Any] = {
    "schema": "seap-export/evaluation/2", "variant": "a-0.2", "task": "a", "method": None, "score": "wifv",
    "sparsity": "logistic", "compensation": "bias", "requested_ratio": 0.2, "achieved_ratio": 0.19,
    "divergence": {
        "hf": {"mean_kl_nats": 0.25, "top1_agreement": 0.9, "perplexity": 12.0, "dense_perplexity": 10.0, "tokens": 9},
        "onnx": {"mean_kl_nats": 0.5, "top1_agreement": 0.9, "perplexity": 13.0, "dense_perplexity": 10.0},
    },
    "zero_shot": {"hf": {"piqa": {"acc": 0.6, "acc_norm": 0.7}}, "dense": {"piqa": {"acc": 0.65, "acc_norm": 0.7}}},
}  # fmt: skip


def report(*path: str, value: Any = None, **values: Any) -> dict[str, Any]:
    """A copy of `REPORT` with other values: those of keywords, and the one at a path."""
    made = cell = {**deepcopy(REPORT), **values}
    for key in path[:-1]:
        cell = cell[key]
    if path:
        cell[path[-1]] = value
    return made


def test_a_point_is_that_of_the_safetensors_form() -> None:
    point = parse_evaluation(REPORT, "r.json")
    assert (point.variant, point.task, point.form, point.achieved_ratio) == ("a-0.2", "a", "hf", 0.19)
    assert (point.mean_kl_nats, point.perplexity, point.dense_perplexity) == (0.25, 12.0, 10.0)
    assert (point.accuracy, point.dense_accuracy, point.stderr) == ({"piqa": 0.6}, {"piqa": 0.65}, {})
    assert point.settings == ("SEAP", "wifv", "logistic", "bias")
    for beyond_floats in (None, float("inf")):
        point = parse_evaluation(report("divergence", "hf", "perplexity", value=beyond_floats), "r.json")
        assert (point.perplexity, point.mean_kl_nats) == (None, 0.25)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({key: value for key, value in REPORT.items() if key != "score"}, "'score' is missing"),
        (report(achieved_ratio="0.2"), "'0.2' is not a finite number"),
        (report(divergence={}, zero_shot={}), "neither divergence nor zero_shot"),
        (report("divergence", "hf", "mean_kl_nats", value=float("nan")), "nan is not a finite number"),
        (report("zero_shot", "hf", "piqa", "acc", value=60), "accuracy must"),
        (report(divergence=[1]), "not a valid evaluation"),
    ],
)
def test_a_bad_report_is_refused_by_name(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=rf"\Ar\.json: [^\n]*{message}"):
        parse_evaluation(made, "r.json")


def test_other_texts_or_questions_of_a_task_are_refused() -> None:
    asked = {"texts": {"sha256": "aa"}, "tasks": {"piqa": {"origin": "hub", "sha256": "bb"}}}
    first, same = parse_evaluation(report(**asked), ""), parse_evaluation(report(**asked, method="wanda-sp"), "")
    assert first.digests == {"texts": "aa", "questions of piqa": "bb"}
    refuse_incomparable([first, same])
    for other, what in (
        ({**asked, "texts": {"sha256": "cc"}}, "texts"),
        ({**asked, "tasks": {"piqa": {"sha256": "cc"}}}, "questions of piqa"),
    ):
        with pytest.raises(UsageError, match=f"task 'a' have different {what}"):
            refuse_incomparable([first, parse_evaluation(report(**other), "")])
