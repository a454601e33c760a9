"""Bugs planted in the code, each of which the tests that its row names must find.

A row of the TOML files beside this one is a mutant: a snippet that the packages have once, what stands there instead,
and the tests that fail then. White space does not count in the snippet, and all modules are searched for it, so that a
row outlives a new layout of the code. Where other code reads the same, `within` names the class, function or module
that is meant, such as `decoder.Graph.step`. A mutant that nothing finds has no `killed_by`; it names the tests that
pass all the same (`survives`), and why that is left so.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What the named tests need: the packages, the tests and what these read.
COPIED = ("converters", "samples", "seap_export", "tests", "validation", "pyproject.toml")
PASSED, FAILED = 0, 1
PACKAGES = ("seap_export", "converters", "validation")
#: What computes or decides, in a function.
_DECIDING = (
    ast.If, ast.IfExp, ast.Match, ast.For, ast.While, ast.Try, ast.With, ast.comprehension, ast.BoolOp, ast.Compare,
    ast.BinOp, ast.UnaryOp,
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One row.

    Attributes:
        what: The bug, in words.
        find: A snippet that the packages have once.
        replace: What takes its place.
        within: The class, function or module in which the snippet is looked for; everywhere if empty.
        killed_by: Tests that fail then, as pytest names them.
        survives: Without such: tests that pass.
        why: Without such: why that is left so.
    """

    what: str
    find: str
    replace: str
    within: str = ""
    killed_by: tuple[str, ...] = ()
    survives: tuple[str, ...] = ()
    why: str = ""

    @property
    def tests(self) -> tuple[str, ...]:
        return self.killed_by or self.survives

    @cached_property
    def places(self) -> list[tuple[str, int, int]]:
        """Where the code has the snippet: a module, as a path from the root, and the characters from and to."""
        wanted = _dense(self.find)
        return [
            (module.path, module.kept[at], module.kept[at + len(wanted) - 1] + 1)
            for module in _modules()
            if wanted in module.dense
            for at in _occurrences(wanted, module.dense)
            if f".{self.within}." in f".{module.place(module.kept[at])}." or not self.within
        ]

    @property
    def module(self) -> str:
        return self.places[0][0]

    @property
    def changed(self) -> str:
        """The module with the bug."""
        module, start, end = self.places[0]
        text = (ROOT / module).read_text("utf-8")
        return text[:start] + self.replace.strip() + text[end:]


class _Module:
    """A module or a template of the packages, searched without its white space."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = (ROOT / path).read_text("utf-8")
        self.dense = _dense(self.text)

    @cached_property
    def kept(self) -> list[int]:
        """Where each character of `dense` stands in the text."""
        return [at for at, character in enumerate(self.text) if not character.isspace()]

    @cached_property
    def definitions(self) -> list[tuple[int, int, str]]:
        """The first and last line of each class and function, and its name, from the outside in."""
        nodes = ast.walk(ast.parse(self.text if self.path.endswith(".py") else ""))  # templates have none
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        return sorted((node.lineno, -(node.end_lineno or 0), node.name) for node in nodes if isinstance(node, kinds))

    def place(self, at: int) -> str:
        """The module, classes and functions around a character, with dots between them."""
        line = self.text.count("\n", 0, at) + 1
        names = [name for first, last, name in self.definitions if first <= line <= -last]
        return ".".join([*Path(self.path).with_suffix("").parts, *names])


@cache
def _modules() -> list[_Module]:
    kinds = ("*.py", "*.jinja")
    paths = [path for package in PACKAGES for kind in kinds for path in sorted((ROOT / package).rglob(kind))]
    return [_Module(path.relative_to(ROOT).as_posix()) for path in paths]


def _dense(text: str) -> str:
    return "".join(text.split())


def _occurrences(wanted: str, text: str) -> Iterator[int]:
    return (match.start() for match in re.finditer(re.escape(wanted), text))


def _read(path: Path) -> list[Mutant]:
    rows = tomllib.loads(path.read_text("utf-8"))["mutant"]
    return [
        Mutant(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
        for row in rows
    ]


AREAS = {path.stem: _read(path) for path in sorted(Path(__file__).parent.glob("*.toml"))}
MUTANTS = [mutant for mutants in AREAS.values() for mutant in mutants]


@pytest.mark.parametrize("area", AREAS)
def test_every_row_fits_the_code(area: str) -> None:
    problems = []
    for mutant in AREAS[area]:
        problems += [f"there is no {test}" for test in mutant.tests if test.split("[")[0] not in _tests(test)]
        if bool(mutant.killed_by) is bool(mutant.why and mutant.survives):
            problems.append(f"either tests kill '{mutant.what}', or the row says why not")
        if len(mutant.places) == 1 and mutant.find != mutant.replace:
            if mutant.module.endswith(".py"):
                compile(mutant.changed, mutant.module, "exec")
        else:
            problems.append(f"{[module for module, _, _ in mutant.places]} have: {mutant.find}")
    assert problems == []


def test_there_are_many_and_each_is_another_one() -> None:
    assert len({(mutant.find, mutant.within, mutant.replace) for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS)


def test_every_module_that_computes_or_decides_has_a_mutant() -> None:
    named = {module for mutant in MUTANTS for module, _, _ in mutant.places}
    others = [module.path for module in _modules() if module.path.endswith(".py") and module.path not in named]
    assert [path for path in others if _decides(path)] == [], "plant a bug in each of these: CONTRIBUTING.md, Tests"


def test_every_test_that_a_row_names_exists(collected: frozenset[str]) -> None:
    """Names change with the cases of a test; a run of the whole suite knows them all."""
    files = {name.split("::")[0] for name in collected}
    known = {*files, *collected, *(name.split("[")[0] for name in collected)}
    named = {test for mutant in MUTANTS for test in mutant.tests if test.split("::")[0] in files}
    assert named - known == set()


@pytest.mark.full
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what.replace(" ", "_"))
def test_its_tests_find_a_mutant(mutant: Mutant, tmp_path: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name)
        else:
            shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".cache").symlink_to(ROOT / ".cache")  # a test that misses the real model would find every mutant
    (tmp_path / mutant.module).write_text(mutant.changed, "utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *mutant.tests],
        cwd=tmp_path,
        env={**_inherited(), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    shutil.rmtree(tmp_path)  # hundreds of them would fill the disk
    assert result.returncode == (FAILED if mutant.killed_by else PASSED), result.stdout + result.stderr


def _decides(path: str) -> bool:
    """Whether a module does more in its functions than name, hand on or call something."""
    functions = [
        node
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.Lambda)
    ]
    return any(isinstance(node, _DECIDING) for function in functions for node in _inside(function))


def _inside(function: ast.FunctionDef | ast.Lambda) -> Iterator[ast.AST]:
    """What stands in a function, without its annotations and defaults."""
    for part in function.body if isinstance(function, ast.FunctionDef) else [function.body]:
        yield from ast.walk(part)


def _inherited() -> dict[str, str]:
    """The environment without what this run of pytest puts there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


@cache
def _tests_in(path: str) -> frozenset[str]:
    if not (ROOT / path).is_file():
        return frozenset()
    functions = [
        node.name for node in ast.parse((ROOT / path).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    return frozenset([path, *(f"{path}::{name}" for name in functions if name.startswith("test_"))])


def _tests(test: str) -> frozenset[str]:
    """The tests in the file of a test, and the file."""
    return _tests_in(test.split("::")[0])
