"""The conversion step: a model folder becomes a folder of another format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.format import Format
from converters.formats import row_of
from seap_export.errors import InputError
from seap_export.extras import require_extra
from seap_export.families import ModelSpec, model_spec
from seap_export.pipeline.checks import refuse_full_disk
from seap_export.pipeline.disk import Disk
from seap_export.pipeline.outputs import write_whole
from seap_export.pipeline.progress import Progress
from seap_export.sources.config import read_json

__all__ = ["convert", "refuse_unwritable"]


def convert(model_folder: Path, own: Format, out: Path, progress: Progress, *, force: bool = False) -> int:
    """Writes a model folder, dense or pruned, in a format.

    Args:
        model_folder: config.json, safetensors files and tokenizer.
        own: The format.
        out: The folder to make.
        progress: Reports what happens.
        force: Replace a folder of the same format.

    Returns:
        The bytes of all files.

    Raises:
        UsageError: `out` must not be replaced, or other settings of the format are needed.
        InputError: The model cannot be used, or not be written so.
        EnvironmentFailure: A package or disk space is missing.
    """
    row = row_of(own)
    config = read_json(model_folder / "config.json")
    spec = model_spec(config)
    refuse_unwritable(own, spec, config, _generation(model_folder))
    refuse_full_disk(Disk(kept=own.size(spec)), out)
    if (remark := own.remark(spec)) is not None:
        progress.warn(remark)
    with (
        write_whole(out, marker=row.marker, force=force) as target,
        progress.step(f"writing {row.title}", len(spec.layers)) as advance,
    ):
        own.write(model_folder, target, advance)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def refuse_unwritable(
    own: Format, spec: ModelSpec, config: Mapping[str, Any], generation: Mapping[str, Any] | None
) -> None:
    """Fails early if a model cannot be written in a format, or not on this machine.

    Args:
        own: The format.
        spec: The model's shapes.
        config: Its config.json.
        generation: Its generation_config.json, if any.

    Raises:
        UsageError: Other settings of the format would do.
        InputError: The format does not take the model.
        EnvironmentFailure: A package is missing.
    """
    special = {key: value for key, value in (generation or {}).items() if value is not None}
    reason = own.refusal(spec, {**config, **special})
    if reason is not None:
        raise InputError(reason)
    require_extra(own.extra, f"the format {own.name}")


def _generation(folder: Path) -> dict[str, Any] | None:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else None
