"""Finds Node and the npm package of transformers.js."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seap_export.common.json_file import read_json
from seap_export.errors import EnvironmentFailure, InputError

PACKAGE = "@huggingface/transformers"
#: The environment variable that names a folder `node_modules`, or the folder that contains it.
NODE_MODULES = "SEAP_NODE_MODULES"
_LEAST_NODE, _LEAST_PACKAGE = (20,), (4, 3)
#: Install scripts are left out: the one of onnxruntime-node downloads CUDA's libraries, which nothing here uses.
_INSTALL = f"npm install {PACKAGE}@4.3 --ignore-scripts"


@dataclass(frozen=True)
class NodePackage:
    """An installation of Node and of transformers.js."""

    node: str
    folder: Path
    version: str


def find_transformers_js() -> NodePackage:
    """Looks in the folder named by `SEAP_NODE_MODULES`, or else in the working directory's and npm's global one."""
    node = shutil.which("node")
    if node is None:
        raise EnvironmentFailure(
            f"transformers.js needs Node; install version 20 or later from nodejs.org, then run '{_INSTALL}'"
        )
    version = _said([node, "--version"]).removeprefix("v")
    if _numbers(version) < _LEAST_NODE:
        raise EnvironmentFailure(f"Node {version} is too old for transformers.js; install Node 20 or later")
    for modules in _folders():
        folder = modules / PACKAGE
        if (folder / "package.json").is_file():
            return NodePackage(node, folder.resolve(), _version(folder))
    raise EnvironmentFailure(
        f"transformers.js is not installed; run '{_INSTALL}' in the working directory, or set {NODE_MODULES} to a "
        "folder node_modules that has it"
    )


def _folders() -> Iterator[Path]:
    named = os.environ.get(NODE_MODULES)
    if named:
        yield Path(named)
        yield Path(named) / "node_modules"
        return
    yield Path.cwd() / "node_modules"
    npm = shutil.which("npm")
    root = _said([npm, "root", "--global"]) if npm else ""
    if root:
        yield Path(root)


def _version(folder: Path) -> str:
    try:
        version = str(read_json(folder / "package.json").get("version"))
    except InputError as error:
        raise EnvironmentFailure(f"{error}; run '{_INSTALL}' again") from error
    if _numbers(version) < _LEAST_PACKAGE:
        raise EnvironmentFailure(f"{folder}: {PACKAGE} {version} is too old; run '{_INSTALL}'")
    return version


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers at the start of a version; none where there are none."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
