"""The router's files, where prompts go, and the model that answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.corpora import task_texts
from support.editing import set_json
from support.tokenizers import add_chat_template

from seap_export.errors import ArtifactError, UsageError
from seap_export.runtime import RoutedModel, Router
from seap_export.runtime.manifest import RouterManifest, read_router, write_router

VALUES: dict[str, Any] = {
    "source": {"name": "m", "sha256": "00"},
    "classes": ["a", "b"],
    "seed": 0,
    "max_length": 64,
    "threshold": 0.7,
    "calibration_prompts": {"a": 3, "b": 4},
    "held_out": {"accuracy": 1.0},
    "variants": {"0.2": {"a": "a-0.2", "b": "b-0.2"}},
    "fallback": {"0.2": None},
}


def write(folder: Path, **changes: Any) -> None:
    values = {"schema": "seap-export/router/1", **VALUES, **changes}
    (folder / "router.json").write_text(json.dumps({key: value for key, value in values.items() if value != "drop"}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = RouterManifest(**{**VALUES, "classes": ("a", "b")})
    write_router(manifest, tmp_path)
    assert read_router(tmp_path) == manifest
    written = (tmp_path / "router.json").read_bytes()
    write_router(read_router(tmp_path), tmp_path)
    assert (tmp_path / "router.json").read_bytes() == written
    assert json.loads(written) == {"schema": "seap-export/router/1", **VALUES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "seap-export/router/9"}, "router schema is 'seap-export/router/9', expected"),
        ({"threshold": "drop"}, "missing 1 required positional argument: 'threshold'"),
        ({"classes": ["a"]}, "two or more"),
        ({"classes": ["a", "a"]}, "two or more"),
        ({"classes": ["a", 1]}, "'classes' must be"),
        ({"seed": True}, "'seed' and 'max_length' must be whole numbers"),
        ({"max_length": 0}, "'max_length' must be at least 1"),
        ({"threshold": float("nan")}, "number NaN"),
        ({"threshold": 1.5}, "'threshold' must be a number from 0 to 1"),
        ({"variants": {"0.2": {"a": "a-0.2"}}}, "'variants' of 0.2 must name one for each class"),
        ({"variants": {"0.2": {"a": "../a", "b": "b"}}}, "'variants' of 0.2 must be folder names"),
        ({"fallback": {}}, "'fallback' must have the same ratios"),
        ({"fallback": {"0.2": "../general"}}, "'fallback' must be a folder name"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path)
    assert read_router(tmp_path).classes == ("a", "b")
    write(tmp_path, **changes)
    with pytest.raises(ArtifactError) as caught:
        read_router(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/router.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "router.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"router\.json: .*export again$"):
        read_router(tmp_path)


def test_a_prompt_counts_alone_whatever_stands_beside_it(pristine: Path) -> None:
    router = Router(pristine / "router", threads=1)
    ids = [router.token_ids(text) for text in task_texts("a", 20)] + [[]]
    together = router.probabilities(ids)
    alone = np.concatenate([router.probabilities([row]) for row in ids])
    assert np.abs(together - alone).max() < 1e-6
    assert alone[-1].tolist() == [0.5, 0.5]


def test_prompts_are_cut(done: Path) -> None:
    set_json(done / "router" / "router.json", max_length=3)
    router = Router(done / "router")
    assert router.token_ids("the a cat dog mat") == Router(done / "router").token_ids("the a cat")
    assert len(router.token_ids("the a cat dog mat")) == 3


@pytest.mark.parametrize(
    ("name", "is_missing"), [("router.json", True), ("router.onnx", False), ("tokenizer.json", False)]
)
def test_damaged_files_are_refused_in_one_line(done: Path, name: str, is_missing: bool) -> None:
    path = done / "router" / name
    path.unlink() if is_missing else path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactError) as caught:
        Router(done / "router")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_finite_is_refused(done: Path) -> None:
    model = onnx.load(path := done / "router" / "router.onnx")
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "logits_of_token")
    table.raw_data = np.full(list(table.dims), np.nan, np.float32).tobytes()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="not probabilities"):
        Router(done / "router").probabilities([[4, 5]])


def test_a_graph_of_other_classes_is_refused(done: Path) -> None:
    path = done / "router" / "router.json"
    values = json.loads(path.read_text())
    values["classes"].append("c")
    values["variants"]["0.2"]["c"] = "c-0.2"
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"router\.onnx: .*classes"):
        Router(done / "router")


OF_A, OF_B = task_texts("a", 1, seed=9)[0], task_texts("b", 1, seed=9)[0]


def set_router(folder: Path, **changes: object) -> None:
    set_json(folder / "router" / "router.json", **changes)


def test_a_prompt_goes_to_the_variant_of_its_task(pristine: Path) -> None:
    model = RoutedModel(pristine)
    for task, prompt in (("a", OF_A), ("b", OF_B)):
        route = model.route(prompt)
        assert (route.task, route.variant) == (task, pristine / f"{task}-0.2")
        assert route.confidence == route.probabilities[task] == max(route.probabilities.values()) > 0.6
        assert set(route.probabilities) == {"a", "b"}
        assert not route.is_fallback
        assert not route.is_uncertain


def test_below_the_threshold_the_mixture_answers(pristine: Path) -> None:
    route = RoutedModel(pristine, threshold=1.0).route(OF_B)
    assert (route.task, route.variant) == ("b", pristine / "general-0.2")
    assert route.is_fallback
    assert route.is_uncertain
    assert not RoutedModel(pristine, threshold=0.0).route(OF_B).is_uncertain


def test_without_a_mixture_the_most_likely_task_answers_and_says_so(done: Path) -> None:
    set_router(done, fallback={"0.2": None}, threshold=1.0)
    route = RoutedModel(done).route(OF_B)
    assert (route.task, route.variant, route.is_fallback) == ("b", done / "b-0.2", False)
    assert route.is_uncertain


def test_a_prompt_without_a_token_is_of_no_clear_task_whatever_the_threshold(pristine: Path) -> None:
    route = RoutedModel(pristine, threshold=0.0).route("  ")
    assert route.probabilities == {"a": 0.5, "b": 0.5}
    assert (route.variant, route.is_fallback, route.is_uncertain) == (pristine / "general-0.2", True, True)


def test_a_chat_model_answers_in_its_template_and_is_routed_without_it(done: Path) -> None:
    plain = RoutedModel(done, threads=1)
    expected = {"route": plain.route(OF_B), "text": plain.generate(f"cat {OF_B} home dog", 9)}
    raw = plain.generate(OF_B, 9)
    add_chat_template(done / "b-0.2" / "onnx")
    model = RoutedModel(done, threads=1)
    messages = [{"role": "system", "content": OF_A}, {"role": "user", "content": OF_B}]
    for prompt in (OF_B, messages, [{"role": "user", "content": OF_A}, *messages]):
        assert model.route(prompt) == expected["route"]
    assert model.generate(OF_B, 9) == model.generate(messages[1:], 9) == expected["text"]
    assert model.generate(OF_B, 9, raw=True) == raw != expected["text"]


def test_the_ratio_must_be_one_of_those_there_are(done: Path) -> None:
    assert RoutedModel(done, ratio=0.2).route(OF_A).variant == done / "a-0.2"
    with pytest.raises(UsageError, match=r"ratio 0\.5; .*0\.2$"):
        RoutedModel(done, ratio=0.5)
    names = {ratio: {"a": f"a-{ratio}", "b": f"b-{ratio}"} for ratio in ("0.2", "0.5")}
    set_router(done, variants=names, fallback={"0.2": "general-0.2", "0.5": None})
    shutil.copytree(done / "a-0.2", done / "a-0.5")
    with pytest.raises(UsageError, match=r"; .*0\.2, 0\.5 with --ratio$"):
        RoutedModel(done)
    assert RoutedModel(done, ratio=0.5).route(OF_A).variant == done / "a-0.5"


def test_what_is_missing_is_named(done: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path}: .*no router here; "):
        RoutedModel(tmp_path)
    shutil.rmtree(done / "a-0.2" / "onnx")
    with pytest.raises(ArtifactError, match=r"a-0\.2/onnx/genai_config\.json: no such file"):
        RoutedModel(done).generate(OF_A, 1)
    shutil.rmtree(done / "a-0.2")
    with pytest.raises(ArtifactError, match=r"a-0\.2: this variant is missing"):
        RoutedModel(done).route(OF_A)
