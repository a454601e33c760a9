"""Checks of the output folder, the execution provider and disk space before anything is written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError
from seap_export.model.sources.source import Source
from seap_export.pipeline.folder.manifest import read_manifest
from seap_export.pipeline.folder.names import calibration_step
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.runtime.session import probe


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk.

    Attributes:
        kept: Bytes that stay in the output folder.
        unfinished: Peak bytes in the output folder that exist only while a step runs.
        temporary: Peak bytes in the temporary folder while a step runs.
    """

    kept: int = 0
    unfinished: int = 0
    temporary: int = 0


def claim_folder(
    workspace: Workspace, source: Source, keys: Mapping[str, str], replaced: Collection[str] = ()
) -> None:
    """Records the model in the manifest of a locked folder, unless `refuse_other_contents` refuses it."""
    refuse_other_contents(workspace, source, keys, replaced)
    if _is_other(workspace, source) or not workspace.manifest.source:
        workspace.manifest.source = _describe(source)


def refuse_other_contents(
    workspace: Workspace, source: Source, keys: Mapping[str, str], replaced: Collection[str] = ()
) -> None:
    """Refuses a folder whose contents would contradict what is to be made."""
    manifest = workspace.manifest
    kept = [name for name in manifest.variants if name not in replaced]
    if _is_other(workspace, source) and (kept or not workspace.force):
        remedy = f"; --force would not replace {kept[0]}, which this run does not make" if kept else ", or --force"
        raise UsageError(
            f"{workspace.folder} contains an export of another model ('{manifest.source.get('name')}'); "
            f"use another --out{remedy}"
        )
    for name in kept if workspace.force else ():
        recorded = {task: manifest.steps.get(calibration_step(task)) for task in manifest.variants[name]["weights"]}
        if any(keys.get(task, key) != key for task, key in recorded.items()):
            raise UsageError(
                f"--force would replace the statistics that {workspace.folder / name} was made from; "
                "make it again in the same 'export --force', or use another --out"
            )


def _is_other(workspace: Workspace, source: Source) -> bool:
    recorded = workspace.manifest.source
    return bool(recorded) and recorded.get("sha256") != source.digest


def recorded_model(model: str, folder: Path) -> str:
    """The model as `open_source` takes it, at the commit of the hub that an output folder was begun with.

    Args:
        model: The model as the user gives it; one with a revision stays as it is.
        folder: The output folder, which need not exist.
    """
    with suppress(ArtifactError):  # which is said where the folder is used
        hub = read_manifest(folder).source.get("hub")
        if isinstance(hub, str) and hub.partition("@")[0] == model and not os.path.exists(model):
            return hub
    return model


def _describe(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "sha256": source.digest,
        **({"hub": source.pinned_id} if source.pinned_id else {}),
        "family": source.spec.family.model_type,
        "bytes": sum(path.stat().st_size for path in source.files),
        "num_parameters": source.spec.num_parameters(),
        "prunable_weights": sum(map(source.spec.prunable_weights, range(len(source.spec.layers)))),
    }


def refuse_missing_provider(provider: str) -> None:
    """Fails early if the execution provider that the checks need does not work."""
    try:
        probe(provider)
    except EnvironmentFailure as error:
        by_hand = f"to write files without checking them, use 'seap-export convert --provider {provider}'"
        raise EnvironmentFailure(f"{error}; {by_hand}") from error


def refuse_full_disk(disk: Disk, out: Path) -> None:
    """Fails early if the artifacts, or what is needed while they are made, cannot be written or will not fit."""
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    scratch = Path(tempfile.gettempdir())
    in_folder = disk.kept + max(disk.unfinished, disk.temporary)
    if existing.stat().st_dev != scratch.stat().st_dev:
        in_folder = disk.kept + disk.unfinished
        _refuse(disk.temporary, scratch, scratch, "set TMPDIR (on Windows, TEMP) to another folder")
    if in_folder and existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
        raise EnvironmentFailure(f"{out}: {existing} is read-only, or you may not write there; use another --out")
    _refuse(in_folder, existing, out, "use another --out")


def _refuse(needed: int, path: Path, name: Path, remedy: str) -> None:
    usage = shutil.disk_usage(path)
    free = usage.free
    if not usage.total:
        raise EnvironmentFailure(f"{name}: {path} is not on a disk; {remedy}")
    if free < needed:
        raise EnvironmentFailure(
            f"{name}: about {needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; "
            f"free some space, or {remedy}"
        )
