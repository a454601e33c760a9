"""The life of an export: each is run again, killed, added to, damaged, and made with other settings.

After each of these events the folder holds the bytes that one undisturbed run writes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
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

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
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
    """An export, and what befalls it."""

    words: tuple[str, ...]  # options of the command
    model: str = "m"
    fewer: tuple[str, ...] = ()  # options of an export to which this one adds
    killed: tuple[str, ...] = ()  # steps in the middle of which the process is killed, one after the other
    damaged: str = ""  # a file in which a bit flips
    lost: str = ""  # a step of which a file is lost, and then all
    changed: tuple[str, ...] = ()  # options that need --force
    differs: str = ""  # what these change, as the refusal names it
    stays: tuple[str, ...] = ()  # what these leave as it is
    renamed: str = ""  # another name of the model


#: Each event befalls two recipes or more, and each recipe what its own steps are exposed to.
RECIPES = {
    "two tasks": Recipe(
        (*A, *B, "--ratio", "0.2", "--ratio", "0.4", *SHORT),
        fewer=(*A, "--ratio", "0.2", *SHORT),
        killed=("calibration/b", "a-0.4/hf", "ranking/b"),
        damaged="router/router.onnx",
    ),
    "mixtures": Recipe(
        (*A, *B, "--general", "--set", "weight.b=3", "--set", "mix.x=a:2,b", "--ratio", "0.3", *SHORT),
        changed=(*A, *B, "--general", "--set", "mix.x=a:2,b", "--ratio", "0.3", *SHORT),
        differs="weight",
        stays=("calibration/a", "a-0.3", "b-0.3", "x-0.3", "ranking/a"),
        renamed="renamed",
    ),
    "figures": Recipe(
        (*A, "--ratio", "0.4", "--format", "onnx:int8", "--format", "onnx:fp32", *MEASURED),
        fewer=(*A, "--ratio", "0.4", "--format", "onnx:int8", *SHORT),
        damaged="a-0.4/quality.json",
        lost="a-0.4/parity.json",
        changed=(*A, "--ratio", "0.4", "--format", "onnx:int8", "--set", "limits=limits.toml", *MEASURED),
        differs="limits",
        stays=("a-0.4/hf", "a-0.4/onnx"),
    ),
    "4 bits": Recipe(
        (*A, "--ratio", "0.3", "--vocabulary", "64", "--format", "onnx:int4", "--format", "onnx:fp32", *SHORT),
        model="chat",
        fewer=(*A, "--ratio", "0.3", "--vocabulary", "64", "--format", "hf", *SHORT),
        killed=("rounding/a-0.3/int4-32",),
        damaged="rounding/a-0.3/int4-32/model.safetensors",
        lost="rounding/a-0.3/int4-32",
    ),
    "answers": Recipe(
        (*TALKS, "--set", "answer_tokens=24", "--ratio", "0.2", "--ratio", "0.4"),
        model="chat",
        killed=("answers/a", "fresh/a", "a-0.2/hf"),
        lost="fresh/a",
    ),
    "plain model": Recipe(
        (*A, "--ratio", "0.4", "--layout", "uniform", "--recipe", "obc", *SHORT),
        changed=(*A, "--ratio", "0.4", "--layout", "uniform", "--recipe", "obc", "--precision", "int4", *SHORT),
        differs="precision, weights",
        stays=("a-0.4/hf/model.safetensors", "calibration/a"),
    ),
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


def in_pieces(life: Life) -> None:
    """Something is added, and killed in the middle of one step after the other, each of which goes on where it was;
    at last the second step is interrupted when it is all but done."""
    shutil.rmtree(OUT)
    if life.recipe.fewer:
        assert run_here("export", life.recipe.model, *life.recipe.fewer).code == 0
    before = times_of_writing(OUT)
    for step in life.recipe.killed:
        outcome = life.tool(Path.cwd(), step, *life.words, program=KILLED)
        assert outcome.code == -signal.SIGKILL, (step, outcome.err)
        assert not (OUT / step).exists()
    make, made_so_far = steps.make_step, []

    def interrupted(step: PathStep, *others: Any) -> None:
        def made(*arguments: Any) -> None:
            make_all(*arguments)
            if len(made_so_far) == 2:
                raise KeyboardInterrupt

        make_all = type(step).make
        made_so_far.append(step.name)
        with life.patch.context() as patch:
            patch.setattr(type(step), "make", made)
            make(step, *others)

    with life.patch.context() as patch:
        patch.setattr(steps, "make_step", interrupted)
        outcome = run_here(*life.words)
    assert (outcome.code, "interrupted" in outcome.err) == (130, True)
    assert times_of_writing(OUT).keys() >= before.keys()
    assert not (OUT / made_so_far[-1]).exists()
    assert not list(OUT.glob(".seap-export-tmp-*"))
    assert not json.loads((OUT / "manifest.json").read_text("utf-8"))["complete"]
    life.ends_whole()
    weights = [path for path in before if path.suffix in (".safetensors", ".data")]
    after = times_of_writing(OUT)
    assert [path for path in weights if after[path] != before[path]] == []


def damaged(life: Life) -> None:
    path = OUT / life.recipe.damaged
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = tree(OUT)
    run_here(*life.words).refused(7, str(path), "SHA-256", "--force")
    assert (tree(OUT), run_here("inspect", "out").code) == (before, 7)
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
    assert run_here(*others, "--force").code == 0
    assert tree(OUT) != life.whole
    life.ends_whole("--force")
    assert {path: times_of_writing(OUT)[path] for path in stays} == stays


def renamed(life: Life) -> None:
    """Nothing is made, though the model has another name and batches are of another size."""
    before = times_of_writing(OUT)
    Path(life.recipe.model).rename(life.recipe.renamed)
    with life.patch.context() as patch:
        patch.setattr(steps, "make_step", lambda step, *_: pytest.fail(step.name))
        outcome = run_here("export", life.recipe.renamed, *life.recipe.words, "--set", "batch_tokens=64")
    assert outcome.code == 0, outcome.err
    assert (times_of_writing(OUT), tree(OUT)) == (before, life.whole)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_an_export_lives(recipe: Recipe, tool: Tool, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_chat_model(work / "chat")
    write_records(work / "talks.jsonl", conversations(20))
    (work / "fresh.toml").write_text("min_tokens = 0\nfresh_tokens = 800\n", "utf-8")
    (work / "limits.toml").write_text("[int8]\nmax_abs = 0.01\n", "utf-8")
    outcome = run_here("export", recipe.model, *recipe.words)
    assert outcome.code == 0, outcome.err
    life = Life(recipe, tree(OUT), tool, monkeypatch)
    if recipe.fewer or recipe.killed:
        in_pieces(life)
    for event in (damaged, lost, changed, renamed):
        if getattr(recipe, event.__name__):
            event(life)


ONE = ("export", "m", *A, "--ratio", "0.2", *SHORT)


@pytest.fixture(scope="module")
def once(place: Path, tool: Tool) -> Path:
    """A folder in which a process was killed while it shrank the model; not to be changed."""
    assert tool(place, "a-0.2/hf", *ONE, program=KILLED).code == -signal.SIGKILL
    return place


@pytest.fixture
def left(home: Path) -> Path:
    """What it has left, in a copy."""
    (folder,) = (home / "out").glob(".seap-export-unfinished-*")
    return folder


def test_zeros_in_what_a_kill_left_are_found(left: Path, pristine: Path) -> None:
    """At the same size, as a crash of the machine leaves them; `tests/robustness/kills.py` tries random ones."""
    for path in left.rglob("*"):
        if path.name == "model.safetensors" or path.parent.name == "unfinished":
            size = path.stat().st_size
            os.truncate(path, size // 2)
            os.truncate(path, size)
    outcome = run_here(*ONE)
    assert outcome.code == 0
    assert "damaged" in outcome.err
    assert tree(OUT / "a-0.2") == tree(pristine / "a-0.2")


@pytest.mark.usefixtures("left")
def test_what_another_release_began_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finished stays, and everybody is told."""
    others = {**manifest.package_versions(), "torch": "2.5.0"}
    monkeypatch.setattr(manifest, "package_versions", lambda: others)
    outcome = run_here(*ONE)
    assert outcome.code == 0
    finished, unfinished = outcome.err.splitlines()
    assert [word for word in ("used as they are", "torch") if word not in finished] == []
    assert [word for word in ("begins anew", "now 2.5.0") if word not in unfinished] == []
    checks = json.loads(run_here("validate", "out", "--check", "integrity", "--json").out)["checks"]
    assert "torch 2.5.0: a-0.2/hf" in str(checks)


def test_it_does_not_go_on_while_a_worker_still_writes(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(left)
    monkeypatch.setattr(outputs, "_PATIENCE", 0.1)
    with outputs.alone(left / "hf"):
        run_here(*ONE).refused(6, str(left.name), "still writes", "run the same command again")
        assert tree(left) == before
