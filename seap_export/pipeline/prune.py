"""`seap-export prune`: a plan becomes a smaller model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seap_export.common.checksums import write_checksums
from seap_export.common.json_file import read_json
from seap_export.model.families import is_pruned
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import UNFINISHED
from seap_export.model.sources.source import Source
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.mixtures import open_mixture_of
from seap_export.pruning.distillation.write import variant_units, write_variant
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.write import MODELING_FILES
from validation.generation.fresh import PARTS, with_fresh_texts


def prune(
    source: Source,
    plan: Plan,
    calibrations: Sequence[Path],
    out: Path,
    progress: Progress,
    *,
    force: bool = False,
    compute: Compute,
) -> None:
    """Writes the model folder that a plan describes.

    Args:
        source: The dense model.
        plan: The plan, which says what each layer keeps.
        calibrations: The folders of the statistics that the plan was made from.
        out: The folder to make.
        progress: Reports what happens.
        force: Replace a pruned model.
        compute: Where layers are refitted.

    Raises:
        UsageError: The statistics are not those of the plan, or `out` must not be replaced.
        InputError: The model cannot be used.
        ArtifactError: The statistics are missing or damaged.
    """
    statistics = open_mixture_of(plan, calibrations)
    number = plan.settings.fresh if plan.requested_ratio else 0
    units = variant_units(len(plan.layers), plan.settings.distillation, plan.requested_ratio)
    units += PARTS * len(statistics.calibrations) if number else 0
    progress.say(f"hashing {source.name}")
    with (
        write_whole(out, marker=_marker(out), force=force) as folder,
        progress.step("shrinking", units, "parts") as advance,
    ):
        if number:
            texts = folder / UNFINISHED / "fresh"
            texts.mkdir(parents=True)
            with dense_folder(source) as dense:
                statistics = with_fresh_texts(dense, statistics, number, texts, compute=compute, on_part=advance)
        write_variant(source, plan, statistics, folder, advance, compute=compute)
        write_checksums(folder)


def _marker(out: Path) -> str:
    """The file at `out` by which --force recognises a pruned model, and nothing else."""
    config = out / "config.json"
    return config.name if config.is_file() and is_pruned(read_json(config)) else MODELING_FILES[0]
