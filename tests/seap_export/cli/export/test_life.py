"""The life of an export: every recipe is run again, killed, added to, damaged, and made with other settings.

A row is an export and what befalls it. In the end the folder holds the bytes that one undisturbed run writes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.conversations import conversations, write_chat_model, write_records
from support.exports import HELD_OUT_OPTION, run_here, times_of_writing, tree
from support.processes import Tool
from support.product import PathStep

from seap_export.pipeline.folder import manifest, outputs
from seap_export.pipeline.steps import step as steps

OUT = Path("out")
#: What `run_here` takes by default, for the runs that are processes of their own.
FEW = ("--out", "out", "-q", "--no-speed", "--set", "decode_steps=2")
SHORT = (*FEW, *HELD_OUT_OPTION, "--no-quality")
MEASURED = (*FEW, *HELD_OUT_OPTION, "--quality")
A, B = ("--task", "a=a.jsonl"), ("--task", "b=b.jsonl")
TALKS = (
    *("--task", "a=talks.jsonl", "--answers", "model", "--recipe", "fresh.toml"),
    *("--format", "hf", "--set", "held_out=4", "--no-quality", *FEW),
)
#: Runs the command, and kills itself when the step that its first argument names reports its second layer.
KILLED = """
import os, signal, sys
from seap_export.cli.main import main
from seap_export.pipeline.steps import step as steps

make_step = steps.make_step

def killed(step, work, workspace):
    make, seen = type(step).make, []
    def fatal(layer):
        seen.append(layer)
        if step.name == sys.argv[1] and len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    type(step).make = lambda self, work, path, advance: make(self, work, path, fatal)
    try:
        make_step(step, work, workspace)
    finally:
        type(step).make = make

steps.make_step = killed
main(sys.argv[2:])
"""


@dataclass(frozen=True)
class Recipe:
    """An export, and what befalls it.

    Attributes:
        words: Options of the command.
        model: The model folder.
        killed: Steps in the middle of which the process is killed, one after the other.
        damaged: A file in which a bit flips.
        lost: A step of which a file is lost, and then all.
        fewer: Options of an export to which this one adds.
        changed: Options that need --force.
        differs: What these change, as the refusal names it.
        stays: What these leave as it is.
    """

    words: tuple[str, ...]
    model: str = "m"
    killed: tuple[str, ...] = ()
    damaged: str = ""
    lost: str = ""
    fewer: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    differs: str = ""
    stays: tuple[str, ...] = ()


#: Each event befalls two recipes or more, and each recipe what its own steps are exposed to.
RECIPES = {
    "two tasks": Recipe(
        (*A, *B, "--ratio", "0.2", "--ratio", "0.4", *SHORT),
        killed=("calibration/a", "a-0.4/hf", "ranking/b"),
        damaged="router/router.onnx",
        lost="a-0.2/onnx",
        fewer=(*A, "--ratio", "0.2", *SHORT),
    ),
    "mixtures": Recipe(
        (*A, *B, "--general", "--set", "weight.b=3", "--set", "mix.x=a:2,b", "--ratio", "0.3", *SHORT),
        changed=(*A, *B, "--general", "--set", "mix.x=a:2,b", "--ratio", "0.3", *SHORT),
        differs="weight",
        stays=("calibration/a", "a-0.3", "b-0.3", "x-0.3", "ranking/a"),
    ),
    "figures": Recipe(
        (*A, "--ratio", "0.4", "--format", "onnx:int8", "--format", "onnx:fp32", *MEASURED),
        damaged="a-0.4/quality.json",
        lost="a-0.4/parity.json",
        fewer=(*A, "--ratio", "0.4", "--format", "onnx:int8", *SHORT),
        changed=(*A, "--ratio", "0.4", "--format", "onnx:int8", "--set", "limits=limits.toml", *MEASURED),
        differs="limits",
        stays=("a-0.4/hf", "a-0.4/onnx"),
    ),
    "4 bits": Recipe(
        (*A, "--ratio", "0.3", "--vocabulary", "64", "--format", "onnx:int4", "--format", "onnx:fp32", *SHORT),
        model="chat",
        killed=("a-0.3/hf", "rounding/a-0.3/int4-32"),
        damaged="rounding/a-0.3/int4-32/model.safetensors",
        lost="rounding/a-0.3/int4-32",
    ),
    "answers": Recipe(
        (*TALKS, "--set", "answer_tokens=24", "--ratio", "0.2", "--ratio", "0.4"),
        model="chat",
        killed=("answers/a", "fresh/a", "a-0.4/hf"),
        lost="fresh/a",
        fewer=(*TALKS, "--set", "answer_tokens=24", "--ratio", "0.4"),
    ),
    "plain model": Recipe(
        (*A, "--ratio", "0.4", "--layout", "uniform", "--recipe", "obc", *SHORT),
        changed=(*A, "--ratio", "0.4", "--layout", "uniform", "--recipe", "obc", "--precision", "int4", *SHORT),
        differs="precision, weights",
        stays=("a-0.4/hf/model.safetensors", "calibration/a"),
    ),
    "a target": Recipe((*A, "--target-size", "125kB", *MEASURED), damaged="calibration/a/layer-00001.safetensors"),
}


@dataclass(frozen=True)
class Life:
    """One of them in the current folder; `whole` is what an undisturbed run has written."""

    recipe: Recipe
    whole: dict[str, bytes]
    tool: Tool
    patch: pytest.MonkeyPatch

    @property
    def words(self) -> tuple[str, ...]:
        return ("export", self.recipe.model, *self.recipe.words)

    def ends_whole(self, *words: str) -> None:
        outcome = run_here(*self.words, *words)
        assert outcome.code == 0, outcome.err
        assert tree(OUT) == self.whole


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def again(life: Life) -> None:
    """Nothing is made, though the model has another name and batches are of another size."""
    before = times_of_writing(OUT)

    def refuse(step: PathStep, *_: Any) -> None:
        raise AssertionError(step.name)

    life.patch.setattr(steps, "make_step", refuse)
    Path(life.recipe.model).rename("renamed")
    outcome = run_here("export", "renamed", *life.recipe.words, "--set", "batch_tokens=64")
    assert outcome.code == 0, outcome.err
    assert times_of_writing(OUT) == before
    assert tree(OUT) == life.whole


def killed(life: Life) -> None:
    """In the middle of one step after the other; each goes on where it was."""
    shutil.rmtree(OUT)
    for step in life.recipe.killed:
        outcome = life.tool(Path.cwd(), step, *life.words, program=KILLED)
        assert outcome.code == -signal.SIGKILL, (step, outcome.err)
        assert not (OUT / step).exists()
    life.ends_whole()


def added_to(life: Life) -> None:
    """What is there stays; the second thing that is added is interrupted when it is all but done."""
    shutil.rmtree(OUT)
    outcome = run_here("export", life.recipe.model, *life.recipe.fewer)
    assert outcome.code == 0, outcome.err
    before, make, added = times_of_writing(OUT), steps.make_step, []

    def interrupted(step: PathStep, *others: Any) -> None:
        make_all = type(step).make
        added.append(step.name)

        def made(*arguments: Any) -> None:
            make_all(*arguments)
            if len(added) == 2:
                raise KeyboardInterrupt

        with life.patch.context() as patch:
            patch.setattr(type(step), "make", made)
            make(step, *others)

    with life.patch.context() as patch:
        patch.setattr(steps, "make_step", interrupted)
        outcome = run_here(*life.words)
    assert outcome.code == 130
    assert "interrupted" in outcome.err
    assert times_of_writing(OUT).keys() >= before.keys()
    assert not (OUT / added[-1]).exists()
    assert not list(OUT.glob(".seap-export-tmp-*"))
    assert not json.loads((OUT / "manifest.json").read_text("utf-8"))["complete"]
    life.ends_whole()
    weights = {path: time for path, time in before.items() if path.suffix in (".safetensors", ".data")}
    after = times_of_writing(OUT)
    assert {path: after[path] for path in weights} == weights


def damaged(life: Life) -> None:
    flip(OUT / life.recipe.damaged)
    before = tree(OUT)
    run_here(*life.words).refused(7, f"out/{life.recipe.damaged}", "SHA-256", "--force")
    assert tree(OUT) == before
    assert run_here("inspect", "out").code == 7
    life.ends_whole("--force")


def lost(life: Life) -> None:
    """A file is missed; a step is made again."""
    path = OUT / life.recipe.lost
    if path.is_dir():
        file = max(path.iterdir(), key=lambda file: file.stat().st_size)
        file.unlink()
        run_here(*life.words).refused(7, str(file), "missing", "--force")
        shutil.rmtree(path)
    else:
        path.unlink()
    life.ends_whole()


def changed(life: Life) -> None:
    """Other settings replace what they make otherwise, if they may, and nothing else; and so do these again."""
    stays = times_of_writing(*(OUT / name for name in life.recipe.stays))
    assert bool(stays) is bool(life.recipe.stays)
    others = ("export", life.recipe.model, *life.recipe.changed)
    run_here(*others).refused(2, f"other inputs ({life.recipe.differs})", "--force")
    assert tree(OUT) == life.whole
    outcome = run_here(*others, "--force")
    assert outcome.code == 0, outcome.err
    assert tree(OUT) != life.whole
    life.ends_whole("--force")
    assert {path: times_of_writing(OUT)[path] for path in stays} == stays


EVENTS = {"killed": killed, "fewer": added_to, "damaged": damaged, "lost": lost, "changed": changed}
ROWS = [
    *(pytest.param(RECIPES[name], again, id=f"{name}, again") for name in ("two tasks", "mixtures", "a target")),
    *(
        pytest.param(recipe, event, id=f"{name}, {event.__name__}")
        for name, recipe in RECIPES.items()
        for key, event in EVENTS.items()
        if getattr(recipe, key)
    ),
]


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """A folder with models, corpora and the export of a recipe; not to be changed."""
    folders: dict[Recipe, Path] = {}

    def made(recipe: Recipe) -> Path:
        if recipe not in folders:
            folder = Path(shutil.copytree(inputs, tmp_path_factory.mktemp("life") / "work"))
            write_chat_model(folder / "chat")
            write_records(folder / "talks.jsonl", conversations(20))
            (folder / "fresh.toml").write_text("min_tokens = 0\nfresh_tokens = 800\n", "utf-8")
            (folder / "plain.toml").write_text('compensation = "none"\n', "utf-8")
            (folder / "limits.toml").write_text("[int8]\nmax_abs = 0.01\n", "utf-8")
            with chdir(folder):
                outcome = run_here("export", recipe.model, *recipe.words)
            assert outcome.code == 0, outcome.err
            folders[recipe] = folder
        return folders[recipe]

    return made


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(("recipe", "event"), ROWS)
def test_an_export_lives(
    recipe: Recipe,
    event: Callable[[Life], None],
    undisturbed: Callable[[Recipe], Path],
    tool: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Path(shutil.copytree(undisturbed(recipe), tmp_path / "work"))
    monkeypatch.chdir(home)
    event(Life(recipe, tree(OUT), tool, monkeypatch))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_zeros_in_what_a_kill_left_are_found(tool: Tool, work: Path) -> None:
    """At the same size, as a crash of the machine leaves them; `tests/robustness/kills.py` tries random ones."""
    words = ("export", "m", *A, "--ratio", "0.2", *SHORT)
    assert run_here(*words).code == 0
    whole = tree(Path(shutil.move(OUT, "whole")))
    assert tool(work, "a-0.2/hf", *words, program=KILLED).code == -signal.SIGKILL
    for path in next(OUT.glob(".seap-export-unfinished-*")).rglob("*"):
        if path.name == "model.safetensors" or path.parent.name == "unfinished":
            size = path.stat().st_size
            os.truncate(path, size // 2)
            os.truncate(path, size)
    outcome = run_here(*words)
    assert outcome.code == 0
    assert "damaged" in outcome.err
    assert tree(OUT) == whole


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_what_another_release_began_is_made_anew(tool: Tool, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finished stays, and everybody is told."""
    words = ("export", "m", *A, "--ratio", "0.2", *SHORT)
    assert tool(work, "a-0.2/hf", *words, program=KILLED).code == -signal.SIGKILL
    others = {**manifest.package_versions(), "torch": "2.5.0"}
    monkeypatch.setattr(manifest, "package_versions", lambda: others)
    outcome = run_here(*words)
    assert outcome.code == 0
    finished, unfinished = outcome.err.splitlines()
    assert "used as they are" in finished
    assert "torch" in finished
    assert "begins anew" in unfinished
    assert "now 2.5.0" in unfinished
    run_here("validate", "out", "--check", "integrity", "--out", "report.json")
    checks = json.loads(Path("report.json").read_text("utf-8"))["checks"]
    assert "torch 2.5.0: a-0.2/hf" in str(checks)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_it_does_not_go_on_while_a_worker_still_writes(
    tool: Tool, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("export", "m", *A, "--ratio", "0.2", *SHORT)
    assert tool(work, "a-0.2/hf", *words, program=KILLED).code == -signal.SIGKILL
    (left,) = (work / "out").glob(".seap-export-unfinished-*")
    before = tree(left)
    monkeypatch.setattr(outputs, "_PATIENCE", 0.1)
    with outputs.alone(left / "hf"):
        run_here(*words).refused(6, str(left.name), "still writes", "run the same command again")
        assert tree(left) == before
    assert run_here(*words).code == 0
