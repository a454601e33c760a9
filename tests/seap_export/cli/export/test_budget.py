"""`export` with targets in place of a ratio, on a micro model: what is chosen, shown, kept and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.exports import Outcome, Run, tree
from support.product import CANDIDATES_FOLDER

from seap_export.common.checksums import SUMS
from seap_export.common.json_file import read_json
from seap_export.pipeline.budget import candidates
from seap_export.pipeline.steps.single.guess import GuessStep
from validation.reports import schema

#: The int4 file of the dense model has about 135 kB and the int8 file about 180 kB.
FITTED = ("--target-size", "125kB", "--quality", "--quiet", "--out", "out")
MODEL = ("export", "m", "--task", "a=a.jsonl")


def points_of(out: Path, task: str = "a") -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = read_json(out / "frontier.json")["tasks"][task]["points"]
    return points


def chosen_of(out: Path, task: str = "a") -> dict[str, Any]:
    return next(point for point in points_of(out, task) if point["chosen"])


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with the inputs and an export into 125 kB; not to be changed."""
    done_in(place, *MODEL, *FITTED)
    return place


@pytest.fixture
def fitted(home: Path) -> Path:
    return home / "out"


def test_the_choice_fits_nothing_that_fits_is_nearer_and_the_report_shows_it(run: Run, fitted: Path) -> None:
    chosen, points = chosen_of(fitted), points_of(fitted)
    folder = fitted / chosen["variant"] / "onnx"
    sizes = (path.stat().st_size for path in folder.iterdir() if path.name != SUMS)
    assert chosen["bytes"] == sum(sizes) <= 125_000
    assert chosen["ratio"] > 0
    fitting = [point for point in points if point["bytes"] <= 125_000]
    assert chosen["mean_kl_nats"] == min(point["mean_kl_nats"] for point in fitting)
    made = [point for point in points if point["key"] is not None]
    assert {(each["precision"], each["ratio"]) for each in points if each not in made} == {("fp32", 0), ("fp16", 0)}
    assert 1 <= len(made) <= 3
    assert made == fitting, "what does not fit was made"
    report = read_json(fitted / "validation.json")
    Draft202012Validator(schema()).validate(report)
    assert report["frontier"] == read_json(fitted / "frontier.json")
    (variant,), whole = report["variants"].values(), report["whole"].values()
    memories = [variant["memory_about"]["onnx"], *(row["memory_about"] for row in whole)]
    assert len(memories) == 3
    assert all(memory > 30_000_000 for memory in memories)  # a session alone
    (files,) = (found["files"] for found in report["recommended"].values())
    assert sorted(file["memory_about"] for file in files) == sorted(memories)
    page = (fitted / "validation.html").read_text("utf-8")
    assert chosen["variant"] in page.partition('id="frontier"')[2].partition("</section>")[0]
    assert run("validate", fitted, "--check", "integrity", "--out", "v.json").code == 0
    assert read_json(Path("v.json"))["frontier"] == report["frontier"]


def test_it_is_an_ordinary_variant_that_its_ratio_makes_again(
    run: Run, fitted: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run evaluates nothing again."""
    chosen, before = chosen_of(fitted), tree(fitted)
    (entry,) = read_json(fitted / "manifest.json")["variants"].values()
    assert entry["quality"]["mean_kl_nats"] == pytest.approx(chosen["mean_kl_nats"], rel=1e-6)
    assert entry["bytes"]["onnx"] == chosen["bytes"]
    assert entry["targets"] == {"size": 125_000, "decode_speedup": None, "max_kl": None, "first_token": None}
    arguments = ("--ratio", chosen["ratio"], "--precision", chosen["precision"], "--quality", "--out", "again")
    assert run(*MODEL, *arguments, "--quiet").code == 0
    assert tree(home / "again" / chosen["variant"]) == tree(fitted / chosen["variant"])
    monkeypatch.setattr(candidates, "measure_divergence", None)
    monkeypatch.setattr(GuessStep, "make", None)
    assert run(*MODEL, *FITTED).code == 0
    assert tree(fitted) == before


def test_where_nothing_fits_nothing_is_made_and_an_interrupted_search_goes_on(
    run: Run, once: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each search knows what those before it have evaluated, and the last writes the bytes of an undisturbed one."""
    out, measure, measured, most = work / "out", candidates.measure_divergence, list[int](), 1

    def counted(*arguments: Any, **options: Any) -> Any:
        if len(measured) == most:
            raise KeyboardInterrupt
        measured.append(1)
        return measure(*arguments, **options)

    monkeypatch.setattr(candidates, "measure_divergence", counted)
    assert run(*MODEL, *FITTED, "--max-kl", "0.01").code == 130
    assert (out / CANDIDATES_FOLDER).is_dir()
    assert not list(out.glob("a-*"))
    assert len([point for point in points_of(out) if point["key"] is not None]) == 1
    most = 2
    message = run(*MODEL, *FITTED, "--max-kl", "0.01").refused(4, "--max-kl", "comes nearest", "at most 125 kB", "KL")
    assert len(measured) == 2
    assert "a-0." in message
    assert not list(out.glob("a-*"))
    assert not (out / CANDIDATES_FOLDER).exists()
    assert not any(point["chosen"] for point in points_of(out))
    assert read_json(out / "manifest.json")["variants"] == {}
    assert run(*MODEL, *FITTED).code == 0
    assert tree(out) == tree(once / "out")


def test_every_task_and_mixture_has_its_own_choice(run: Run, work: Path) -> None:
    tasks = ("--task", "a=a.jsonl", "--task", "b=b.jsonl", "--general")
    options = ("--format", "onnx:int8", "--max-kl", "0.2", "--quality", "--quiet", "--out", "out")
    assert run("export", "m", *tasks, *options).code == 0
    frontier = read_json(work / "out" / "frontier.json")
    assert list(frontier["tasks"]) == ["a", "b", "general"]
    chosen = {task: chosen_of(work / "out", task) for task in frontier["tasks"]}
    assert all(point["mean_kl_nats"] <= 0.2 for point in chosen.values())
    router = read_json(work / "out" / "router" / "router.json")
    assert router["variants"] == {"chosen": {task: chosen[task]["variant"] for task in ("a", "b")}}
    assert router["fallback"] == {"chosen": chosen["general"]["variant"]}
    assert run("route", "out", "the cat").code == 0
    run("route", "out", "the cat", "--ratio", "0.2").refused(2, "chosen", "--ratio")


def test_a_dry_run_says_what_would_be_tried(result: Callable[..., Any], work: Path) -> None:
    values = result(*MODEL, *FITTED, "--dry-run")
    tried = {(candidate["precision"], candidate["variant"] != "a-0") for candidate in values["candidates"]}
    assert tried.isdisjoint({("int8", False), ("int4", False)})
    assert any(precision.startswith("mixed") and is_pruned for precision, is_pruned in tried)
    assert values["seconds_about"].keys() == {"calibration", "ranking", "refit"}
    assert not (work / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("no ratio", "--ratio", "--target-size")),
        (["--target-size", "1MB", "--ratio", "0.2"], ("--ratio", "contradict")),
        (["--target-size", "1MB", "--no-quality"], ("--no-quality",)),
        (["--target-decode-speedup", "2", "--no-speed"], ("--no-speed",)),
        (["--set", "target_first_token=113:1s"], ("target_first_token", "context of 128", "at most 112")),
        (["--max-kl", "0.1", "--format", "hf"], ("hf alone", "--format onnx")),
        (["--target-size", "1kB"], ("--target-size", "out of reach", "onnx mixed-2.25")),
        (["--target-size", "1MB", "--cluster", "local"], ("--cluster",)),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    run: Run, work: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    run(*MODEL, "--out", "out", "--quality", "--speed", *arguments).refused(2, *words)
    assert not (work / "out").exists()
