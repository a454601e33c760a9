"""Checks that run before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from converters.precision import Precision
from seap_export.errors import EnvironmentFailure, UsageError
from seap_export.pipeline.settings import calibration_step
from seap_export.pipeline.sizes import weight_bytes
from seap_export.pipeline.workspace import Workspace
from seap_export.runtime.session import probe
from seap_export.sources.source import Source

__all__ = ["claim_folder", "refuse_full_disk", "refuse_missing_provider", "variant_bytes"]


def claim_folder(
    workspace: Workspace, source: Source, keys: Mapping[str, str], replaced: Collection[str] = ()
) -> None:
    """Records the model in the manifest, unless something in the folder would contradict it.

    Args:
        workspace: The folder, locked.
        source: The dense model.
        keys: For each requested task, the key of its statistics.
        replaced: The variants that this run makes.

    Raises:
        UsageError: The folder holds variants of another model, or --force would replace the statistics that
            others of its variants were made from.
    """
    manifest = workspace.manifest
    is_other = bool(manifest.source) and manifest.source.get("sha256") != source.digest
    if is_other and not workspace.force:
        raise UsageError(
            f"{workspace.folder} contains an export of another model ('{manifest.source.get('name')}'); "
            "use another --out, or --force"
        )
    for name, variant in manifest.variants.items() if workspace.force else ():
        recorded = {task: manifest.steps.get(calibration_step(task)) for task in variant.get("weights", {})}
        changed = any(keys.get(task, key) != key for task, key in recorded.items())
        if name not in replaced and (is_other or changed):
            raise UsageError(
                f"--force would replace the statistics that {workspace.folder / name} was made from; "
                "export it again too, or use another --out"
            )
    if is_other or not manifest.source:
        manifest.source = _describe(source)


def _describe(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "sha256": source.digest,
        "family": source.spec.family.model_type,
        "num_parameters": source.spec.num_parameters(),
        "prunable_weights": _prunable_weights(source),
    }


def _prunable_weights(source: Source) -> int:
    return sum(source.spec.prunable_weights(layer) for layer in range(len(source.spec.layers)))


def variant_bytes(source: Source, ratio: float, precision: Precision) -> int:
    """About how many bytes a variant takes, if the requested ratio is the achieved one."""
    removed = ratio * _prunable_weights(source)
    return sum(weight_bytes(source.spec, source.reader.dtype, precision, removed).values())


def refuse_missing_provider(provider: str) -> None:
    """Fails early if the execution provider that the checks need does not work.

    Raises:
        EnvironmentFailure: No session runs on the provider on this machine.
    """
    try:
        probe(provider)
    except EnvironmentFailure as error:
        by_hand = f"to write ONNX files without checking them, use 'seap-export convert --provider {provider}'"
        raise EnvironmentFailure(f"{error}; {by_hand}") from error


def refuse_full_disk(needed: int, out: Path) -> None:
    """Fails early if the artifacts will not fit on the disk.

    Raises:
        EnvironmentFailure: There is less free space than needed.
    """
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise EnvironmentFailure(
            f"{out}: about {needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; "
            "free some space, or use another --out"
        )
