"""Plants bugs in the code, one at a time, and names those that the tests let live: `make mutants FILE=...`.

The tests of a module are those of its own test file; what these let live meets all tests of the folder beside it, then
those of its package. Each bug is planted in a copy of the tree, so the checkout stays as it is.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
COPIED = ("converters", "samples", "seap_export", "tests", "validation", "docs", "README.md", "pyproject.toml")
#: The modules that compute and decide, from which a sample is drawn.
SAMPLED = (
    "seap_export/pruning", "converters", "validation/parity", "validation/divergence", "seap_export/pipeline/gate",
    "seap_export/pipeline/folder", "seap_export/runtime/decoding",
)  # fmt: skip
#: `|` stands in annotations, which nothing evaluates, and a decorator that is gone is mostly an import that fails.
_LEFT_OUT = ("ReplaceBinaryOperator_BitOr", "RemoveDecorator", "VariableInserter", "VariableReplacer")
_SECONDS = 900
#: What the pipeline decides is seen where its results are shown.
COMMANDS = "tests/seap_export/cli/commands"
#: Exit codes of pytest.
_PASSED, _NO_TESTS = 0, 5


@dataclass(frozen=True)
class Mutant:
    """A bug: an operator of cosmic-ray, applied where it fits the module for the nth time."""

    module: str
    line: int
    column: int
    operator: str
    occurrence: int

    @property
    def changed(self) -> str:
        """The module with the bug."""
        source = (ROOT / self.module).read_text("utf-8")
        return str(mutate_code(source, get_operator(self.operator)(), self.occurrence))

    def __str__(self) -> str:
        lines = zip((ROOT / self.module).read_text("utf-8").splitlines(), self.changed.splitlines(), strict=False)
        before, after = next((pair for pair in lines if pair[0] != pair[1]), ("", ""))
        return f"{self.module}:{self.line}: {before.strip()}  ->  {after.strip()}"


def mutants_of(module: str, draw: random.Random) -> list[Mutant]:
    """One mutant for each place of a module at which some operator fits."""
    nodes = list(ast_nodes(get_ast_from_path(ROOT / module)))
    by_place: dict[tuple[int, int], list[Mutant]] = defaultdict(list)
    for name in sorted(operator_names()):
        operator_class = get_operator(name)
        if name.split("/")[-1].startswith(_LEFT_OUT) or operator_class.arguments():
            continue
        operator = operator_class()
        places = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, (line, column) in enumerate(places):
            by_place[line, column].append(Mutant(module, line, column, name, occurrence))
    return [draw.choice(by_place[place]) for place in sorted(by_place)]


def tests_of(module: str) -> list[str]:
    """The module's test file if it has one, the nearest folder of tests, then those of its package, from the root."""
    path = Path("tests", module)
    test_file, folder = path.with_name(f"test_{path.name}"), path.parent
    while not any((ROOT / folder).glob("test_*.py")):
        folder = folder.parent
    package = Path(*folder.parts[:3])
    further = [str(package)] if package != folder else []
    further += [COMMANDS] if package.name == "pipeline" else []
    return [*([str(test_file)] if (ROOT / test_file).is_file() else []), str(folder), *further]


def is_found(mutant: Mutant, tree: Path) -> bool:
    """Whether a test fails, or never ends, in a tree with the bug."""
    (tree / mutant.module).write_text(mutant.changed, "utf-8")
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not (real or full)"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        for tests in tests_of(mutant.module):
            command = [sys.executable, "-m", "pytest", *options, tests]
            try:
                run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                return True
            if run.returncode not in (_PASSED, _NO_TESTS):
                return True
        return False
    finally:
        shutil.copyfile(ROOT / mutant.module, tree / mutant.module)


def trees(folder: Path, count: int) -> Iterator[Path]:
    """Copies of what the tests read, in which bugs are planted."""
    for number in range(count):
        tree = folder / str(number)
        tree.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, tree / name)
        (tree / ".cache").symlink_to(ROOT / ".cache")
        yield tree


def main() -> int:
    """The number of bugs that live is not an error: it is what the command tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="modules, from the root; without any, a sample of all that compute")
    parser.add_argument("--sample", type=int, default=150, help="how many to draw at most (150)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sampled = [path.relative_to(ROOT) for part in SAMPLED for path in sorted((ROOT / part).rglob("*.py"))]
    modules = given.modules or sorted(str(path) for path in sampled)
    draw = random.Random(given.seed)
    known = [mutant for module in modules for mutant in mutants_of(module, draw)]
    chosen = draw.sample(known, min(given.sample, len(known)))
    print(f"{len(chosen)} of {len(known)} mutants in {len(modules)} modules, seed {given.seed}", flush=True)
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        free: SimpleQueue[Path] = SimpleQueue()
        for tree in trees(Path(folder), 2):
            free.put(tree)

        def tried(mutant: Mutant) -> bool:
            tree = free.get()
            try:
                return is_found(mutant, tree)
            finally:
                free.put(tree)

        alive = 0
        for number, (mutant, found) in enumerate(zip(chosen, pool.map(tried, chosen), strict=True), 1):
            alive += not found
            print(f"{number:4} {'found' if found else 'LIVES'}  {mutant}", flush=True)
    print(f"found {len(chosen) - alive} of {len(chosen)} ({(len(chosen) - alive) / len(chosen):.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
