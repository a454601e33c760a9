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

SCHEMA = {"schema": "seap-export/router/1"}
VALUES: dict[str, Any] = {
    "source": {"name": "m", "sha256": "00"}, "classes": ["a", "b"], "seed": 0, "max_length": 64, "threshold": 0.7,
    "calibration_prompts": {"a": 3, "b": 4}, "held_out": {"accuracy": 1.0},
    "variants": {"0.2": {"a": "a-0.2", "b": "b-0.2"}}, "fallback": {"0.2": None},
}  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = RouterManifest(**{**VALUES, "classes": ("a", "b")})
    write_router(manifest, tmp_path)
    assert read_router(tmp_path) == manifest
    assert json.loads((tmp_path / "router.json").read_text()) == SCHEMA | VALUES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "seap-export/router/9"}, "router schema is 'seap-export/router/9', expected"),
        ({"extra": 1}, "unexpected keyword argument 'extra'"),
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
    (tmp_path / "router.json").write_text(json.dumps(SCHEMA | VALUES | changes))
    with pytest.raises(ArtifactError, match=rf"\A{tmp_path}/router\.json: [^\n]*{message}"):
        read_router(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "router.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"router\.json: .*export again$"):
        read_router(tmp_path)


def test_a_prompt_is_cut_and_counts_alone_whatever_stands_beside_it(done: Path) -> None:
    router = Router(done / "router", threads=1)
    ids = [router.token_ids(text) for text in task_texts("a", 20)] + [[]]
    alone = np.concatenate([router.probabilities([row]) for row in ids])
    assert np.abs(router.probabilities(ids) - alone).max() < 1e-6
    assert alone[-1].tolist() == [0.5, 0.5]
    set_json(done / "router" / "router.json", max_length=3)
    assert Router(done / "router").token_ids("the a cat dog mat") == router.token_ids("the a cat dog mat")[:3]


def test_damaged_files_are_refused_in_one_line(done: Path) -> None:
    folder = done / "router"
    graph, whole = folder / "router.onnx", {path.name: path.read_bytes() for path in folder.iterdir()}
    model = onnx.load(graph)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "logits_of_token")
    table.raw_data = np.full(list(table.dims), np.nan, np.float32).tobytes()
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="not probabilities"):
        Router(folder).probabilities([[4, 5]])
    others = {"a": "a-0.2", "b": "b-0.2", "c": "c-0.2"}
    three_classes = json.dumps({**json.loads(whole["router.json"]), "classes": [*others], "variants": {"0.2": others}})
    for name, content, message in (
        ("router.onnx", whole["router.onnx"][:50], r"router\.onnx: "),
        ("tokenizer.json", whole["tokenizer.json"][:50], r"tokenizer\.json: "),
        ("router.json", three_classes.encode(), r"router\.onnx: [^\n]*classes"),
        ("router.json", None, r"router\.json: "),
    ):
        graph.write_bytes(whole["router.onnx"])
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"\A{folder}/{message}[^\n]*\Z"):
            Router(folder)
        (folder / name).write_bytes(whole[name])


OF_A, OF_B = task_texts("a", 1, seed=9)[0], task_texts("b", 1, seed=9)[0]


def set_router(folder: Path, **changes: object) -> None:
    set_json(folder / "router" / "router.json", **changes)


@pytest.mark.parametrize(
    ("prompt", "threshold", "fallback", "expected"),
    [
        (OF_A, None, "general-0.2", ("a", "a-0.2", False, False)),
        (OF_B, None, "general-0.2", ("b", "b-0.2", False, False)),
        (OF_B, 0.0, "general-0.2", ("b", "b-0.2", False, False)),
        (OF_B, 1.0, "general-0.2", ("b", "general-0.2", True, True)),  # below the threshold
        (OF_B, 1.0, None, ("b", "b-0.2", False, True)),
        ("  ", 0.0, "general-0.2", ("a", "general-0.2", True, True)),  # without a token it is of no clear task
    ],
)
def test_where_a_prompt_goes(
    done: Path, prompt: str, threshold: float | None, fallback: str | None, expected: tuple[str, str, bool, bool]
) -> None:
    set_router(done, fallback={"0.2": fallback})
    route = RoutedModel(done, threshold=threshold).route(prompt)
    assert (route.task, route.variant.name, route.is_fallback, route.is_uncertain) == expected
    assert (route.variant.parent, set(route.probabilities)) == (done, {"a", "b"})
    assert route.confidence == route.probabilities[route.task] == max(route.probabilities.values())
    assert (route.confidence > 0.6) is bool(prompt.strip())


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
