"""manifest.json: what an output folder holds, what it was made from, and the hash of every file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import seap_export
from seap_export.common.checksums import SUMS, is_path_inside
from seap_export.common.hashing import sha256_files, sha256_json
from seap_export.common.json_file import json_text, read_json
from seap_export.errors import ArtifactError, InputError
from seap_export.model.layers.compute import Compute
from seap_export.pipeline.folder.names import CARD, HF, ROUNDING
from seap_export.pipeline.folder.outputs import write_whole

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "seap-export/manifest/3"
_REMEDY = (
    "it is damaged: put back a copy, or run the same export with --force, which makes everything in the folder anew"
)
#: The fields of every finished variant, and their types.
_VARIANT: dict[str, Any] = {
    "task": str,
    "weights": dict,
    "method": str,
    "requested_ratio": int | float,
    "achieved_ratio": int | float,
    "num_parameters": int,
    "precision": dict,
    "bytes": dict,
    "parity": dict,
}
#: A plain name, not a path that leads out of the folder.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
#: Folders with a step for each task or mixture.
_OF_TASKS = ("answers", "calibration", "fresh", "ranking")
_PACKAGES = ("torch", "transformers", "safetensors", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu")


@dataclass
class Manifest:
    """The state of an output folder, rewritten after every step.

    Attributes:
        complete: Whether the last export into the folder finished.
        versions: Versions of the packages that affect artifacts, in the run that made the last step.
        source: Name, digest and shape of the dense model.
        tasks: For each task, what it was calibrated on.
        variants: For each finished variant, its tasks, method and ratios; and by folder its precisions, sizes and
            parity verdicts.
        steps: For each step, named by the path it made, the key of its inputs.
        makers: The steps that were made with the same packages and threads, by these in words.
        files: For each file of a step, its size in bytes and SHA-256.
    """

    complete: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    makers: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replaces the folder's manifest atomically if its contents have changed."""
        values = {"schema": MANIFEST_SCHEMA, **asdict(self)}
        for name in ("tasks", "variants", "steps", "makers", "files"):
            values[name] = dict(sorted(values[name].items()))
        text = json_text(values)
        path = folder / MANIFEST
        if path.is_file() and path.read_bytes() == text.encode():
            return
        with write_whole(path, force=True) as temporary:
            temporary.write_text(text, "utf-8", newline="\n")

    def record(self, step: str, key: str, made: Path) -> None:
        """Records a step and its files, which are at `made`; its variant no longer counts as finished."""
        self.forget(step)
        paths = sorted(path for path in made.rglob("*") if path.is_file()) if made.is_dir() else [made]
        for path, digest in zip(paths, sha256_files(paths), strict=True):
            name = "/".join((step, *path.relative_to(made).parts))
            self.files[name] = {"bytes": path.stat().st_size, "sha256": digest}
        self.steps[step] = key
        self.makers[maker()] = sorted([*self.makers.get(maker(), ()), step])
        self.complete = False
        self.variants.pop(step.split("/")[0], None)
        self.versions = package_versions()

    def forget(self, step: str) -> None:
        """Drops a step and its files, if there are any."""
        for name in self.files_of(step):
            del self.files[name]
        self.steps.pop(step, None)
        others = {words: [one for one in steps if one != step] for words, steps in self.makers.items()}
        self.makers = {words: steps for words, steps in others.items() if steps}

    def made_otherwise(self, steps: Iterable[str]) -> dict[str, list[str]]:
        """The given steps that this run would make with other packages or threads, grouped by what differs."""
        return _differing(self.makers, frozenset(steps), maker())

    def mix(self, variant: str) -> str:
        """The packages and threads that made a variant's steps, in words; "" if all steps were made with the same."""
        entry, cards = self.variants[variant], f"{variant}/{HF}/"
        tasks = {*entry["weights"], entry["task"]}  # whose statistics, texts and ranking it is made from
        own = [step for step in self.steps if step.startswith((f"{variant}/", f"{ROUNDING}/{variant}/"))]
        before = [
            step
            for step in self.steps
            if step.partition("/")[::2] in {(of, task) for of in _OF_TASKS for task in tasks}
        ]
        made = _differing(
            self.makers, [*before, *(step for step in own if not step.startswith(cards) and not step.endswith(SUMS))]
        )
        return "; ".join(f"{words}: {', '.join(names)}" for words, names in made.items()) if len(made) > 1 else ""

    def damages(self, folder: Path, step: str) -> list[str]:
        """The files of a step that are missing or have changed, in words."""
        expected = {folder / name: self.files[name] for name in self.files_of(step)}
        to_hash = [p for p, entry in expected.items() if p.is_file() and p.stat().st_size == entry["bytes"]]
        hashes = dict(zip(to_hash, sha256_files(to_hash), strict=True))
        return [
            f"{path} differs from its SHA-256 in {MANIFEST}" if path.is_file() else f"{path} is missing"
            for path, entry in expected.items()
            if hashes.get(path) != entry["sha256"]
        ]

    def files_of(self, step: str) -> list[str]:
        """The files of a step, without those in its folder that are steps themselves, such as a model card."""
        inside = [name for name in self.files if name.startswith(f"{step}/") and name not in self.steps]
        return [step, *inside] if step in self.files else inside

    def has_outdated_card(self, variant: str) -> bool:
        """Whether a variant's model card describes it as it was before; exports of earlier releases have no card."""
        key = self.steps.get(f"{variant}/{HF}/{CARD}")
        return key is not None and not key.startswith(card_key(self.variants[variant], ""))


def card_key(entry: Mapping[str, Any], content: str) -> str:
    """The key of a model card: the hash of the variant's entry in the manifest, and that of the content."""
    return f"{sha256_json(entry)}-{content}"


def package_versions() -> dict[str, str]:
    """The versions of this package and of the installed packages that affect artifacts."""
    return {"seap-export": seap_export.__version__, **_installed_versions()}


def maker() -> str:
    """The packages and threads with which this run makes steps, in words."""
    return ", ".join(f"{name} {value}" for name, value in {**package_versions(), "threads": _threads()}.items())


def _differing(makers: Mapping[str, Sequence[str]], steps: Collection[str], *others: str) -> dict[str, list[str]]:
    """Steps grouped by what differs between their makers, and from others."""
    made = {words: [step for step in names if step in steps] for words, names in makers.items() if words not in others}
    made = {words: names for words, names in made.items() if names}
    same = set.intersection(*({*words.split(", ")} for words in (*made, *others))) if made else set()
    return {", ".join(word for word in words.split(", ") if word not in same): names for words, names in made.items()}


def made_with(compute: Compute) -> dict[str, object]:
    """The settings besides a step's inputs that its bytes depend on: packages, threads, device and batch size."""
    how = {"threads": _threads(), "device": compute.device.type, "batch_tokens": compute.batch_tokens}
    return {**package_versions(), **how}


def _threads() -> int:
    return torch.get_num_threads()


@cache
def _installed_versions() -> Mapping[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def read_manifest(folder: Path, *, force: bool = False) -> Manifest:
    """The manifest of a folder; an empty one if it has none."""
    path = folder / MANIFEST
    if not path.exists():
        return Manifest()
    try:
        return _parse(path, read_json(path, _REMEDY))
    except InputError as error:
        if force:
            return Manifest()
        raise ArtifactError(str(error)) from error


def _parse(path: Path, values: dict[str, Any]) -> Manifest:
    """The manifest of a JSON object; raises `InputError` if it is damaged, `ArtifactError` if of another release."""
    schema = values.pop("schema", None)
    if isinstance(schema, str) and schema != MANIFEST_SCHEMA:
        raise ArtifactError(
            f"{path}: manifest schema is {schema!r}, expected {MANIFEST_SCHEMA!r}: written by another release of "
            "seap-export; use that one, or export into another folder"
        )
    values.setdefault("makers", {})  # unknown to earlier releases
    if schema is None or not _is_manifest(values):
        raise InputError(f"{path}: it is no manifest of an export; {_REMEDY}")
    return Manifest(**values)


def _is_manifest(values: dict[str, Any]) -> bool:
    kinds = {item.name: bool if item.name == "complete" else dict for item in fields(Manifest)}
    if values.keys() != kinds.keys() or not all(isinstance(values[name], kind) for name, kind in kinds.items()):
        return False
    steps, files, source, makers = (values[name] for name in ("steps", "files", "source", "makers"))
    entries = [*values["tasks"].values(), *values["variants"].values(), *files.values()]
    return (
        all(map(is_path_inside, [*steps, *files]))  # chat templates beside the default one have any names
        and all(map(_NAME.fullmatch, [*values["tasks"], *values["variants"]]))
        and all(isinstance(key, str) for key in steps.values())
        and all(isinstance(made, list) and all(isinstance(step, str) for step in made) for made in makers.values())
        and all(isinstance(entry, dict) for entry in entries)
        and all(map(_is_file_entry, files.values()))
        and all(map(_is_variant, values["variants"].values()))
        and (not source or all(isinstance(source.get(key), str) for key in ("name", "sha256")))
    )


def _is_variant(entry: dict[str, Any]) -> bool:
    return (
        all(isinstance(entry.get(key), kind) for key, kind in _VARIANT.items())
        and HF in entry["bytes"]
        and all(isinstance(size, int) for size in entry["bytes"].values())
        and all(map(_NAME.fullmatch, [*entry["bytes"], *entry["precision"], *entry["parity"]]))
        and all(
            isinstance(parity, dict) and isinstance(parity.get("verdict"), str) for parity in entry["parity"].values()
        )
    )


def _is_file_entry(entry: dict[str, Any]) -> bool:
    return entry.keys() == {"bytes", "sha256"} and type(entry["bytes"]) is int and isinstance(entry["sha256"], str)
