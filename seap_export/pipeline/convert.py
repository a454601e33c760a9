"""The conversion step: a model folder becomes a folder of another format."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from converters.accepted import accepted_model
from converters.format import Format
from converters.formats import row_of
from converters.hf.format import HfFormat
from seap_export.common.checksums import shipped_bytes, write_checksums
from seap_export.common.extras import require_extra
from seap_export.errors import InputError, UsageError
from seap_export.model.families import ModelSpec
from seap_export.model.layers.compute import Compute
from seap_export.pipeline.cost.checks import Disk, refuse_full_disk
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.folder.rounded import write_format
from seap_export.pipeline.progress import Progress
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.rounding.write import write_rounded_model

_WITHOUT_TEXTS = (
    "{0} is rounded without texts, so that KL becomes several times larger than with them; give --calibration "
    "OUT/calibration/TASK, or use 'seap-export export {2} --task NAME=FILE --ratio 0 --format {1}:{0}'"
)


def convert(
    model_folder: Path,
    format: Format,
    out: Path,
    progress: Progress,
    *,
    force: bool = False,
    statistics: TaskMixture | None = None,
    compute: Compute | None = None,
) -> int:
    """Writes a model folder, dense or pruned, in a format.

    Args:
        model_folder: config.json, safetensors files and tokenizer.
        out: The folder to make.
        progress: Reports what happens.
        force: Replace a folder of the same format.
        statistics: The calibration texts that 4-bit weights are rounded with; None: those of the variant, if its
            export kept them, and else no texts, which is said.
        compute: Where they are rounded; None: on the CPU.

    Returns:
        The bytes of all files.

    Raises:
        UsageError: `out` must not be replaced, other settings of the format are needed, or it has no use for the
            calibration texts.
        InputError: The model cannot be used, or not be written so.
        EnvironmentFailure: A package or disk space is missing.
    """
    row = row_of(format)
    _refuse_other_folder(model_folder)
    spec = writable_spec(format, model_folder)
    grid = format.grid(spec)
    if grid is not None and statistics is None:
        statistics = _of_variant(model_folder, progress)
    if statistics is not None and grid is None:
        raise UsageError(
            f"--calibration has no effect on {format.name}:{format.precision}, which needs no texts; leave it out"
        )
    if statistics is None and format.average is not None:
        raise UsageError(
            f"{format.name}:{format.precision} chooses the bits of each matrix with calibration texts; give "
            "--calibration"
        )
    if grid is not None and statistics is None:
        progress.warn(_WITHOUT_TEXTS.format(format.precision, format.name, model_folder))
    rounded = 0 if statistics is None else HfFormat("fp32").size(spec)
    refuse_full_disk(Disk(kept=format.size(spec), temporary=rounded), out)
    if (remark := format.remark(spec)) is not None:
        progress.warn(remark)
    with write_whole(out, marker=row.marker, force=force) as target, TemporaryDirectory() as scratch:
        if statistics is not None and grid is not None:
            with progress.step("rounding", len(spec.layers)) as advance:
                kept = Variant(model_folder.absolute().parent).vocabulary  # a variant may keep some tokens only
                write_rounded_model(
                    model_folder, statistics, grid, Path(scratch), advance, compute=compute, vocabulary=kept
                )
            model_folder = Path(scratch)
        with progress.step(f"writing {row.title}", len(spec.layers)) as advance:
            write_format(format, model_folder, target, advance)
        write_checksums(target)
    return shipped_bytes(out)


def _of_variant(model_folder: Path, progress: Progress) -> TaskMixture | None:
    """The calibration texts of the variant whose model folder it is, which is said; None: there are none."""
    variant = Variant(model_folder.absolute().parent)
    if model_folder.absolute() == variant.hf and variant.plan_file.is_file() and variant.records is not None:
        plan = variant.plan
        progress.say(f"rounding with the calibration texts of {', '.join(plan.weights)}, which the export kept")
        return TaskMixture(plan.task, plan.weights, dict(zip(plan.weights, variant.calibrations(), strict=True)))
    return None


def _refuse_other_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        inner = Variant(folder).hf
        if folder.is_file():
            export = f"use 'seap-export export {folder} --task NAME=FILE --ratio 0', which rounds it"
            remedy = export if folder.suffix.lower() == ".gguf" else "give one"
            raise InputError(f"{folder} is a file, and convert takes a model folder; {remedy}")
        remedy = (
            f"give {inner}" if (inner / "config.json").is_file() else "give a model folder, such as OUT/TASK-0.2/hf"
        )
        raise InputError(f"{folder}: no config.json; {remedy}")


def writable_spec(format: Format, model_folder: Path) -> ModelSpec:
    """The shapes of a model that can be written in a format on this machine; see `accepted_model`."""
    _, spec = accepted_model(format, model_folder)
    require_extra(format.extra, f"the format {format.name}")
    return spec
