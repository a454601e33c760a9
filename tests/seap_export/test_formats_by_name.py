"""No command, step or report knows a format or a runtime by name: what is special about one is in its class or row."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.product import RUNTIMES

import seap_export
from converters.formats import FORMATS, WRITTEN

ROOT = Path(seap_export.__file__).parent
#: Modules that may name one, with the names.
ALLOWED: Mapping[str, set[str]] = {
    # The options of graphs and of execution providers, which are ONNX Runtime's, and their help.
    "api/convert.py": {"onnx", "onnx runtime"},
    "api/options.py": {"onnx", "onnx runtime"},
    "cli/commands/bench.py": {"onnx", "onnx runtime"},
    "cli/commands/convert.py": {"onnx"},
    "cli/commands/plan.py": {"onnx runtime"},
    "cli/generation.py": {"onnx runtime"},
    # Examples in help.
    "pipeline/request/main_options.py": {"onnx", "gguf"},
    # A part of the Python API.
    "api/variant.py": {"onnx"},
    # It says how to repair an ONNX Runtime that our own runtime cannot import.
    "cli/commands/doctor.py": {"onnxruntime", "onnx runtime"},
    # The router is no model that is written in a format, but a graph of its own.
    "pipeline/gate/router_check.py": {"onnx"},
    "pipeline/steps/joint/router.py": {"onnx"},
    # Packages whose releases are recorded.
    "pipeline/evaluation/bench.py": {"onnxruntime"},
    "pipeline/folder/manifest.py": {"onnx", "onnxruntime"},
}
#: Dense models may be GGUF files, whatever is written.
SOURCE = re.compile(r"[._]gguf\b")


def names() -> set[str]:
    """The names and titles of all formats and runtimes."""
    titles = {FORMATS[name].title for name in WRITTEN} | {row.title for row in RUNTIMES.values() if row.title}
    return {name.lower() for name in {*WRITTEN, *RUNTIMES, *titles}}


def words(tree: ast.AST) -> Iterator[str]:
    """The identifiers and the strings of a module, but for docstrings, as they are and with their words apart."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            if isinstance(value, str) and id(node) not in docstrings:
                yield f"{value} {re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', value)}".lower()


def named(code: str) -> set[str]:
    """The names of formats and runtimes in the code of a module."""
    known = "|".join(map(re.escape, sorted(names(), key=len, reverse=True)))
    pattern = re.compile(rf"(?<![a-z0-9])(?:{known})(?![a-z0-9])")
    return {name for text in words(ast.parse(code)) for name in pattern.findall(SOURCE.sub("", text))}


def test_no_command_step_or_report_names_a_format_or_a_runtime() -> None:
    paths = [path for room in ("api", "cli", "pipeline") for path in (ROOT / room).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): named(path.read_text("utf-8")) for path in paths}
    assert {module: names for module, names in found.items() if names} == ALLOWED


def test_what_counts_as_naming_one() -> None:
    assert named("from converters.onnx.format import Format") == {"onnx"}
    assert named("def f(is_onnx): return OnnxFormat") == {"onnx"}
    assert named("_SLOW = {'mlx': 40.0}; words = 'in LiteRT-LM and llama.cpp'") == {"mlx", "litert-lm", "llama.cpp"}
    assert named("'a model.gguf'; website = 'https://web.example'") == {"web"}
    assert named('def f():\n    """Reads ONNX files."""\n    # of OpenVINO') == set()
