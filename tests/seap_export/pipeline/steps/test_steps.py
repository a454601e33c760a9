"""The steps of an export and of its router: keys that change with every input, what is written and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.corpora import micro_texts, task_texts
from support.exports import tree
from support.models import write_micro_model
from support.product import (
    EVEN,
    BlockQuantization,
    CalibrationSettings,
    ExportRequest,
    Limits,
    MixtureSpec,
    OnnxForm,
    OnnxFormat,
    ParitySettings,
    PlanSettings,
    Silent,
    Source,
    Sparsity,
    Workspace,
    choose_precision,
    open_source,
)
from tokenizers import Tokenizer

from seap_export.corpus import Sample, Split, Task
from seap_export.errors import InputError, ParityFailure, UsageError
from seap_export.pipeline.gate.router_check import _lost_targets
from seap_export.pipeline.request.settings import RouterSettings
from seap_export.pipeline.router.prompts import router_prompts
from seap_export.pipeline.steps.build import export_steps
from seap_export.pipeline.steps.joint import router as module
from seap_export.pipeline.steps.joint.router import RouterTargets, refuse_lost_tasks, router_key, router_targets
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.single.variant import PlanStep, ShrinkStep
from seap_export.runtime import Router

TEXTS = micro_texts(6)
SPLIT = Split(tuple(Sample(text, "") for text in TEXTS[:4]), tuple(Sample(text, "") for text in TEXTS[4:]))


def test_the_statistics_key() -> None:
    settings, a = CalibrationSettings(), Sample(TEXTS[4][:3], TEXTS[4][3:])
    changes: list[dict[str, Any]] = [
        {}, {"calibration": SPLIT.calibration[1:]}, {"held_out": SPLIT.held_out[1:]},
        {"held_out": (a, SPLIT.held_out[1])},
        {"held_out": (replace(a, question="Why?"), SPLIT.held_out[1])},  # it is in the record
    ]  # fmt: skip
    given = [(replace(SPLIT, **change), settings, "model") for change in changes]
    given += [(SPLIT, replace(settings, **change), "model") for change in ({"seed": 1}, {"max_length": 8})]
    steps = [CalibrationStep("a", *values, 12, checks=True) for values in [*given, (SPLIT, settings, "other")]]
    assert len({step.key for step in steps}) == len(steps)
    assert CalibrationStep("b", SPLIT, settings, "model", 12, checks=False).key == steps[0].key


def test_every_file_of_the_model_counts(tmp_path: Path) -> None:
    write_micro_model(tmp_path / "m", model_type="llama")
    templates = ["chat_template.jinja", "additional_chat_templates/chat_template.jinja"]
    (tmp_path / "m" / templates[1]).parent.mkdir()
    for template in templates:
        (tmp_path / "m" / template).write_text("x")
    digests = [open_source(str(tmp_path / "m")).digest]
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", *templates):
        with (tmp_path / "m" / name).open("a") as file:
            file.write("\n")
        digests.append(open_source(str(tmp_path / "m")).digest)
    assert len(set(digests)) == len(digests)


MIXTURE = MixtureSpec("x", {"a": 1.0, "b": 2.0})
PLANNED = PlanSettings("wifv", Sparsity("logistic"))


def ranking(mixture: MixtureSpec = MIXTURE, settings: PlanSettings = PLANNED, model: str = "model") -> RankingStep:
    calibration = CalibrationSettings()
    steps = {task: CalibrationStep(task, SPLIT, calibration, model, 12, checks=False) for task in mixture.weights}
    return RankingStep(mixture, settings, tuple(steps.values()))


def test_the_keys_of_plans_and_rankings() -> None:
    key = PlanStep(ranking(), 0.2).key
    changes: list[dict[str, Any]] = [
        {"score": "wifn"}, {"align": 8}, {"compensation": "none"}, {"sparsity": Sparsity("uniform")},
        {"sparsity": Sparsity(k=0.9)}, {"sparsity": Sparsity(x0=0.4)}, {"sparsity": Sparsity(protect_first=3)},
        {"balance": "alike"}, {"ridge": 1.0}, {"mix": "plain"}, {"sparsity": Sparsity("adaptive", budget="macs")},
        {"sparsity": Sparsity("adaptive", budget="macs", context=9)}, {"sparsity": EVEN},
        {"sparsity": EVEN, "layout": "uniform"}, {"group_tolerance": 0.01},
    ]  # fmt: skip
    rankings = [ranking(settings=replace(PLANNED, **change)) for change in changes]
    rankings += [ranking(model="other"), ranking(replace(MIXTURE, name="y"))]
    rankings += [ranking(replace(MIXTURE, weights=weights)) for weights in ({"a": 1.0, "b": 3.0}, {"a": 1.0})]
    keys = [key, PlanStep(ranking(), 0.20000001).key, *(PlanStep(each, 0.2).key for each in rankings)]
    assert len(set(keys)) == len(keys)
    spelled_out = replace(PLANNED, sparsity=Sparsity(protect_first=1, protect_last=1))
    assert PlanStep(ranking(settings=spelled_out), 0.2).key == key
    assert PlanStep(ranking(MixtureSpec("x", {"b": 2.0, "a": 1.0})), 0.2).key == key
    # A ranking serves every plan that differs only in how it is spread.
    assert ranking(settings=replace(PLANNED, sparsity=EVEN, align=8, compensation="none")).key == ranking().key
    assert ranking(settings=replace(PLANNED, ridge=1.0)).key != ranking().key


def test_the_keys_of_a_variant_follow_from_each_other() -> None:
    plan = PlanStep(ranking(), 0.2)
    hf = ShrinkStep(plan)
    forms = [OnnxForm(), OnnxForm(logits="last"), OnnxForm(choose_precision("int4"))]
    keys = [plan.key, hf.key, *(FormatStep(hf, "onnx", OnnxFormat.of(form)).key for form in forms)]
    keys.append(FormatStep(ShrinkStep(PlanStep(ranking(), 0.3)), "onnx", OnnxFormat.of(OnnxForm())).key)
    grids = [RoundingStep(hf, BlockQuantization(4, size)) for size in (32, 64)]
    keys += [step.key for step in grids]
    keys.append(FormatStep(grids[0], "onnx", OnnxFormat.of(forms[2])).key)
    settings, onnx = ParitySettings(), FormatStep(hf, "onnx", OnnxFormat.of(OnnxForm()))
    changes: list[dict[str, Any]] = [
        {}, {"provider": "cuda"}, {"decode_steps": 9}, {"long_tokens": 9}, {"prompts": 1},
        {"limits": Limits((("fp32", "max_abs", 1.0),))},
    ]  # fmt: skip
    keys += [ParityStep(onnx, replace(settings, **change)).key for change in changes]
    keys.append(ParityStep(FormatStep(hf, "onnx", OnnxFormat.of(forms[1])), settings).key)
    assert len(set(keys)) == len(keys)
    # Both tasks have the same two held-out texts, so that there are four prompts.
    assert ParityStep(onnx, replace(settings, prompts=9)).key == ParityStep(onnx, settings).key
    # `manifest` warns of steps that were made with another number of threads, and keeps them.
    assert ParityStep(onnx, replace(settings, threads=1)).key == ParityStep(onnx, settings).key


def test_each_step_comes_after_those_that_it_needs(source: Source, tmp_path: Path) -> None:
    tasks = tuple(Task(name, tmp_path / f"{name}.txt") for name in "ab")
    steps = export_steps(source, ExportRequest("m", tasks, ratio=(0.2, 0.5), general=True), {"a": SPLIT, "b": SPLIT})
    seen: set[str] = set()
    for step in steps.paths:
        assert {need.name for need in step.needs} <= seen
        assert step.name not in seen
        seen.add(step.name)
    assert len(seen) == 2 + 3 + 6 * 4
    assert [step.checks for step in steps.calibrations.values()] == [True, False]


def test_formats_with_the_same_grid_share_its_rounding(source: Source, tmp_path: Path) -> None:
    task = Task("a", tmp_path / "a.txt")
    formats = ("onnx:int4", "web:q4", "openvino:int4", "web:q8", "gguf:q4_0", "gguf:q4_k_m")
    request = ExportRequest("m", (task,), ratio=0.2, format=formats, quality=False, speed=False)
    variant = export_steps(source, request, {"a": SPLIT}).variants["a-0.2"]
    grids = ["int4-32", "int4-32-float-embeddings-whole-blocks"]
    assert [step.name for step in variant.rounded] == [f"rounding/a-0.2/{grid}" for grid in grids]
    rounded = {folder for folder, step in variant.formats.items() if step.before in variant.rounded}
    assert rounded == {"onnx", "web", "openvino", "gguf"}
    plain = export_steps(source, replace(request, rounding="nearest"), {"a": SPLIT}).variants["a-0.2"]
    assert not plain.rounded
    for folder, step in variant.formats.items():
        assert (plain.formats[folder].key == step.key) is (folder not in rounded)


Make = Callable[..., dict[str, Any]]
SETTINGS = RouterSettings(max_length=20)


def split_of(task: str) -> Split:
    texts, number = task_texts(task, 40), {"a": 30, "b": 12}[task]
    return Split(tuple(Sample(t, "") for t in texts[:number]), tuple(Sample(t, "") for t in texts[30:]))


SPLITS = {task: split_of(task) for task in "ab"}


def variants_of(tasks: str, *ratios: float) -> dict[str, dict[str, Any]]:
    return {f"{task}-{ratio:g}": {"task": task, "requested_ratio": ratio} for task in tasks for ratio in ratios}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(str(write_micro_model(tmp_path_factory.mktemp("source") / "m", model_type="llama")))


@pytest.fixture
def make(source: Source, tmp_path: Path) -> Make:
    """Makes the router of tasks a and b at 0.2 in ./out, or another, where `general` may have a variant at 0.2."""

    def call(
        splits: dict[str, Split] = SPLITS, *ratios: float, force: bool = False, fallback: str | None = None
    ) -> dict[str, Any]:
        workspace = Workspace(tmp_path / "out", force)
        with workspace.locked():
            variants = {
                **variants_of("".join(splits), *(ratios or (0.2,))),
                **({"general-0.2": {}} if fallback else {}),
            }
            return module.make_router(source, splits, variants, SETTINGS, workspace, Silent(), fallback)

    return call


def test_the_graph_equals_scikit_learn_on_mean_embeddings(source: Source, make: Make, tmp_path: Path) -> None:
    make()
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "router" / "tokenizer.json"))
    embedding = source.read_outer("embed_tokens").double().numpy()

    def features(samples: tuple[Sample, ...]) -> Any:
        return np.stack([embedding[tokenizer.encode(s.prompt).ids[:20]].mean(axis=0) for s in samples])

    regression = LogisticRegression(C=0.1, class_weight="balanced", max_iter=10_000)
    rows = np.concatenate([features(SPLITS[task].calibration) for task in "ab"])
    expected = make_pipeline(StandardScaler(), regression).fit(rows, [0] * 30 + [1] * 12)
    router = Router(tmp_path / "out" / "router")
    for task in "ab":
        held_out = SPLITS[task].held_out
        probabilities = router.probabilities([router.token_ids(sample.prompt) for sample in held_out])
        assert np.abs(probabilities - expected.predict_proba(features(held_out))).max() < 1e-5


def test_what_it_writes(source: Source, make: Make, tmp_path: Path) -> None:
    """The same bytes in any order of tasks and texts."""
    described = make(SPLITS, 0.4, 0.2, fallback="general")
    values = json.loads((tmp_path / "out" / "router" / "router.json").read_text())
    assert values["source"] == {"name": "m", "sha256": source.digest}
    assert (values["classes"], values["seed"], values["max_length"], values["threshold"]) == (["a", "b"], 0, 20, 0.7)
    assert values["calibration_prompts"] == {"a": 30, "b": 12}
    assert values["variants"] == {"0.2": {"a": "a-0.2", "b": "b-0.2"}, "0.4": {"a": "a-0.4", "b": "b-0.4"}}
    figures, fallback = values["held_out"], {"0.2": "general-0.2", "0.4": None}
    assert values["fallback"] == described["fallback"] == fallback
    assert described["held_out"] == {name: figures[name] for name in ("prompts", "accuracy", "below_threshold")}
    assert (figures["prompts"], figures["left_out_as_seen"]) == (20, 0)
    assert figures["accuracy"] > 0.9
    assert sum(figures["confusion"]["a"].values()) == 10
    (tmp_path / "out").rename(tmp_path / "first")
    turned = {task: Split(SPLITS[task].calibration[::-1], SPLITS[task].held_out[::-1]) for task in "ba"}
    make(turned, 0.4, 0.2, fallback="general")
    assert tree(tmp_path / "out" / "router") == tree(tmp_path / "first" / "router")


def test_a_task_is_forgotten_with_force_only(make: Make, tmp_path: Path) -> None:
    other = {"b": SPLITS["b"], "c": SPLITS["a"]}
    make()
    before = tree(tmp_path / "out" / "router")
    for forget in (make, lambda tasks: refuse_lost_tasks(Workspace(tmp_path / "out", force=False), tasks)):
        with pytest.raises(UsageError, match=r"router also covers a; .*--force"):
            forget(other)
    assert tree(tmp_path / "out" / "router") == before
    for out, tasks, force in (("out", "abc", False), ("out", "c", False), ("out", "bc", True), ("other", "bc", False)):
        refuse_lost_tasks(Workspace(tmp_path / out, force), list(tasks))
    assert make(other, force=True)["classes"] == ["b", "c"]


def test_the_key(source: Source, tmp_path: Path) -> None:
    other = open_source(str(write_micro_model(tmp_path / "m", seed=1, model_type="llama")))
    a, targets = SPLITS["a"], RouterTargets({"0.2": {"a": "a-0.2", "b": "b-0.2"}}, {"0.2": None})
    given = {"source": source, "splits": SPLITS, "settings": SETTINGS, "targets": targets}
    changes: list[dict[str, Any]] = [
        {},
        {"source": other},
        {"splits": {**SPLITS, "a": replace(a, calibration=a.calibration[1:])}},
        {"splits": {**SPLITS, "a": replace(a, held_out=a.held_out[1:])}},
        {"splits": {"a": SPLITS["b"], "b": SPLITS["a"]}},
        *(
            {"settings": replace(SETTINGS, **change)}
            for change in ({"seed": 1}, {"max_length": 21}, {"threshold": 0.8})
        ),
        {"targets": replace(targets, fallback={"0.2": "general-0.2"})},
        {"targets": replace(targets, variants={"0.2": {"a": "a-0.2", "b": "x"}})},
    ]
    keys = [router_key(*(given | change).values()) for change in changes]
    assert len(set(keys)) == len(keys)
    turned = {task: replace(SPLITS[task], held_out=SPLITS[task].held_out[::-1]) for task in "ba"}
    assert router_key(source, turned, SETTINGS, targets) == keys[0]


def test_only_ratios_with_a_variant_of_every_task_are_targets() -> None:
    variants = {**variants_of("ab", 0.2, 0.5), **variants_of("a", 0.3), **variants_of("z", 0.7)}
    variants |= {"general-0.5": {"task": None}, "general-0.3": {"task": None}}
    targets = router_targets(variants, ["b", "a"], "general")
    assert targets.variants == {"0.2": {"a": "a-0.2", "b": "b-0.2"}, "0.5": {"a": "a-0.5", "b": "b-0.5"}}
    assert targets.fallback == {"0.2": None, "0.5": "general-0.5"}
    assert router_targets(variants, ["a", "b"], None).fallback == {"0.2": None, "0.5": None}
    with pytest.raises(ValueError, match=r"no ratio at which all of \['a', 'z'\] have a variant"):
        router_targets(variants, ["a", "z"], None)


def test_a_graph_that_computes_something_else_is_no_router(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module.write_router_graph
    shifted = lambda path, table, weight, bias: write(path, table, weight, np.add(bias, [0, 1]))  # noqa: E731
    monkeypatch.setattr(module, "write_router_graph", shifted)
    with pytest.raises(ParityFailure, match=r"a probability of the ONNX graph differs by .* on prompts of 'a'"):
        make()
    assert not (tmp_path / "out").exists()


def test_a_router_that_sends_a_task_to_the_variant_of_another_one_is_damage(tmp_path: Path) -> None:
    manifest = SimpleNamespace(variants=variants_of("ab", 0.2), tasks={"a": {}, "b": {}})
    for name in manifest.variants:
        (tmp_path / name).mkdir()

    def damages(a: str, b: str) -> list[str]:
        targets = {"0.2": {"a": a, "b": b}}
        router = SimpleNamespace(classes=("a", "b"), variants=targets, fallback={"0.2": None})
        return _lost_targets(cast(Any, router), tmp_path, cast(Any, manifest))

    assert damages("a-0.2", "b-0.2") == []
    assert damages("b-0.2", "b-0.2") == ["router.json uses 'b-0.2' for a task that it was not made for"]


def by_letter(prompt: str) -> list[int]:
    """One token a letter, at most three."""
    return [ord(letter) for letter in prompt if letter != " "][:3]


def split(calibration: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> Split:
    return Split(tuple(Sample(*pair) for pair in calibration), tuple(Sample(*pair) for pair in held_out))


def test_prompts_are_questions_and_what_was_fitted_on_is_left_out_whatever_its_task() -> None:
    samples = (Sample("<user> q <assistant>", "a", question="q"), Sample("p", "a"), Sample("", "a"))
    prompts = router_prompts({"a": Split(samples, ()), "b": split([("b", "")], [])}, by_letter)
    assert prompts.calibration["a"] == [by_letter(text) for text in "qpa"]
    splits = {
        "a": split([("abc", "1"), ("b", "1")], [("abc", "2"), ("z", "1"), ("c", "1")]),
        "b": split([("c", "2")], [("abcd", "1"), ("y", "1")]),  # cut to three tokens, "abcd" is "abc"
    }
    prompts = router_prompts(splits, by_letter)
    assert prompts.calibration == {"a": [by_letter("abc"), by_letter("b")], "b": [by_letter("c")]}
    assert (prompts.held_out, prompts.num_seen) == ({"a": [by_letter("z")], "b": [by_letter("y")]}, 3)
    one = split([("a", "1")], [])
    for few, message in (({"a": one}, "two tasks"), ({"a": one, "b": split([(" ", "1")], [])}, "'b': .* no token")):
        with pytest.raises(InputError, match=message):
            router_prompts(few, by_letter)
