"""Adds the keys of configs that the installed transformers reads to those that this package knows of.

    PYTHONPATH=.:tests python -m support.transformers_keys

Keys of other releases stay, so that a list made with several holds for all of them.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import transformers

from seap_export.model.families.files import common_keys, transformers_keys

ROOT = Path(__file__).parents[2]
LIST = ROOT / "seap_export/model/families/transformers_keys.txt"
#: What computes models in transformers, and not what trains them.
MODEL_CODE = (
    "*_utils.py", "*_mapping.py", "modeling_*.py", "integrations/*attention.py", "integrations/moe.py",
    "integrations/heterogeneity/*.py", "models/*/configuration_*.py", "models/*/modeling_*.py",
)  # fmt: skip


def keys_of_transformers() -> set[str]:
    """The keys that transformers asks configs of models that write texts for, or that a class of theirs declares."""
    keys: set[str] = set()
    for path in (path for pattern in MODEL_CODE for path in Path(transformers.__file__).parent.glob(pattern)):
        if path.match("models/*/*.py") and not any(map(_writes_texts, path.parent.glob("modeling_*.py"))):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        keys |= {*_asked(tree), *(_declared(tree) if "configuration_" in path.name else ())}
    return {key for key in keys if key.isidentifier() and not key.startswith("_")} - common_keys()[0]


@cache
def _writes_texts(path: Path) -> bool:
    return "GenerationMixin" in path.read_text("utf-8")


def _asked(tree: ast.AST) -> Iterator[str]:
    """`config.KEY`, `config["KEY"]`, `config.get("KEY")` and `getattr(config, "KEY")`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=config, attr=key) if _is_config(config):
                yield key
            case ast.Subscript(value=config, slice=ast.Constant(str(key))) if _is_config(config):
                yield key
            case ast.Call(ast.Attribute(config, "get" | "pop"), [ast.Constant(str(key)), *_]) if _is_config(config):
                yield key
            case ast.Call(ast.Name("getattr" | "hasattr"), [config, ast.Constant(str(key)), *_]) if _is_config(config):
                yield key


def _declared(tree: ast.AST) -> Iterator[str]:
    """Fields, arguments, `self.KEY`, the keys of dicts, and what is taken out of one."""
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(target=ast.Name(key)) | ast.Attribute(value=ast.Name("self"), attr=key):
                yield key
            case ast.FunctionDef(name="__init__", args=arguments):
                yield from (argument.arg for argument in (*arguments.args, *arguments.kwonlyargs))
            case ast.Call(ast.Attribute(attr="get" | "pop"), [ast.Constant(str(key)), *_]):
                yield key
            case ast.Dict(keys=keys):
                yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _is_config(node: ast.AST) -> bool:
    """Whether it is a variable or an attribute that is called a config."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return "config" in name
    return False


if __name__ == "__main__":
    known = sorted({*transformers_keys(), *keys_of_transformers()})
    LIST.write_text("\n".join(textwrap.wrap(" ".join(known), 119)) + "\n", "utf-8")
