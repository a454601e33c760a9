from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import pytest
from support.corpora import task_texts
from support.editing import set_json
from support.tokenizers import add_chat_template

from seap_export.errors import ArtifactError, UsageError
from seap_export.runtime import Generator, RoutedModel, routed_model

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


def test_one_variant_is_open_at_a_time(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref[Generator]] = []
    alive: list[int] = []

    def opening(*arguments: object) -> Generator:
        gc.collect()
        alive.append(sum(reference() is not None for reference in opened))
        generator = Generator(*arguments)  # type: ignore[arg-type]
        opened.append(weakref.ref(generator))
        return generator

    monkeypatch.setattr(routed_model, "Generator", opening)
    model = RoutedModel(pristine)
    model.route(OF_A)
    assert opened == []
    for prompt in (OF_A, OF_A, OF_B, OF_A):
        model.generate(prompt, 2)
    assert alive == [0, 0, 0]


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
