"""Tests do not hold on to where the product's modules lie."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PACKAGES = ("seap_export", "converters", "validation")


def _path(module: str) -> Path:
    return ROOT.joinpath(*module.split("."))


def _is_module(name: str) -> bool:
    return _path(name).is_dir() or _path(name).with_suffix(".py").is_file()


def imported_by_path(file: Path) -> Iterator[tuple[str, str]]:
    """The modules within the product's folders, and what a test takes from each.

    Not counted: a module as a whole, which a patch needs and misses loudly; names of a package, of a module right
    below one of the three packages or of what all floors share; and what lies in the folder that the test mirrors.
    """
    mirrored = ".".join(file.relative_to(TESTS).parent.parts)
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        module = node.module
        if module.split(".")[0] not in PACKAGES or module.count(".") < 2 or _path(module).is_dir():
            continue
        if module.startswith(("seap_export.common.", "seap_export.pruning.scores")):
            continue
        if mirrored and f"{module}.".startswith(f"{mirrored}."):
            continue
        yield from ((module, name.name) for name in node.names if not _is_module(f"{module}.{name.name}"))


def test_what_two_files_import_by_path_they_take_from_the_facade() -> None:
    """`tests/support/product.py`: then a module moves without the tests."""
    files = defaultdict[tuple[str, str], list[str]](list)
    for file in sorted(TESTS.rglob("*.py")):
        if not {TESTS / "support", TESTS / "benchmarks"} & {*file.parents}:  # the facade, and programs
            for imported in dict.fromkeys(imported_by_path(file)):
                files[imported].append(file.relative_to(TESTS).as_posix())
    assert len(files) > 50
    assert {imported: paths for imported, paths in files.items() if len(paths) > 1} == {}
