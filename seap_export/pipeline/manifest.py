"""manifest.json: what an output folder holds, from what it was made, and the hash of every file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import seap_export
from seap_export.errors import ArtifactError, UsageError
from seap_export.hashing import sha256_file
from seap_export.pipeline.outputs import write_whole
from seap_export.sources.config import read_json

__all__ = ["MANIFEST", "MANIFEST_SCHEMA", "Manifest", "package_versions", "read_manifest"]

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "seap-export/manifest/1"
_PACKAGES = ("torch", "transformers", "safetensors", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu")


@dataclass
class Manifest:
    """The state of an output folder; it is written anew after every finished step.

    Attributes:
        complete: Whether the last export into the folder ended.
        source: Name, digest and shape of the dense model.
        tasks: For each task what it was calibrated on.
        variants: For each variant its ratios, sizes and parity verdict.
        steps: For each finished step, named by the path it made, the hash of its inputs.
        files: For each file of a step, its size in bytes and SHA-256.
    """

    complete: bool = False
    source: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replaces the folder's manifest in one move."""
        values = {
            "schema": MANIFEST_SCHEMA,
            "complete": self.complete,
            "versions": {"seap-export": seap_export.__version__, **package_versions()},
            "source": self.source,
            "tasks": dict(sorted(self.tasks.items())),
            "variants": dict(sorted(self.variants.items())),
            "steps": dict(sorted(self.steps.items())),
            "files": dict(sorted(self.files.items())),
        }
        with write_whole(folder / MANIFEST, folder=False, force=True) as path:
            path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")

    def record(self, folder: Path, step: str, key: str) -> None:
        """Notes a finished step and the files it made."""
        self.forget(step)
        self.steps[step] = key
        for path in _files_of(folder / step):
            name = path.relative_to(folder).as_posix()
            self.files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}

    def forget(self, step: str) -> None:
        """Removes a step and its files from the record."""
        self.steps.pop(step, None)
        for name in [name for name in self.files if name == step or name.startswith(step + "/")]:
            del self.files[name]

    def damage(self, folder: Path, step: str) -> str | None:
        """What is wrong with the files of a step, in words, or None."""
        for name, expected in self.files.items():
            if name != step and not name.startswith(step + "/"):
                continue
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != expected["bytes"] or sha256_file(path) != expected["sha256"]:
                return f"{path} differs from its SHA-256 in {MANIFEST}"
        return None


def _files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape an artifact, those that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None if it has none.

    Raises:
        ArtifactError: The manifest is damaged or of another schema.
        UsageError: The folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder")
    path = folder / MANIFEST
    if not path.is_file():
        return None
    values = read_json(path)
    if values.get("schema") != MANIFEST_SCHEMA:
        raise ArtifactError(f"{path}: manifest schema is {values.get('schema')!r}, expected {MANIFEST_SCHEMA!r}")
    names = ("complete", "source", "tasks", "variants", "steps", "files")
    try:
        return Manifest(**{name: values[name] for name in names})
    except KeyError as error:
        raise ArtifactError(f"{path}: damaged, {error} is missing") from error
