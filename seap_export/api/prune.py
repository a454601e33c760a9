"""`prune`: turns a plan into a smaller model."""

from __future__ import annotations

from pathlib import Path

from seap_export.api.options import ComputeOptions, ModelOptions, RunOptions
from seap_export.api.results import PrunedModel
from seap_export.common.options import option, options, takes
from seap_export.common.values import FilePath, FilePaths


@options
class PruneOptions(RunOptions, ComputeOptions, ModelOptions):
    """All options of `prune`."""

    plan: FilePath = option("A plan.json of `plan` or `export`.")
    calibration: FilePaths = option("The statistics that the plan was made from. Repeatable, for a mixture.")
    out: FilePath = option("Folder for the shrunk model.")


@takes(PruneOptions)
def prune(options: PruneOptions) -> PrunedModel:
    """Shrinks a model by a plan: writes safetensors, config, tokenizer, and code if its layers differ in shape.

    Example:
        >>> from seap_export import prune
        >>> statistics = "pruned/calibration/maths"
        >>> model = prune("MODEL", plan="pruned/maths-0.2/plan.json", calibration=statistics, out="shrunk")
        >>> model.num_parameters

    Args:
        The fields of `PruneOptions`.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: The statistics are not those of the plan, or something would be replaced.
        InputError: The model cannot be used.
        ArtifactError: The plan or the statistics are missing or damaged.
        EnvironmentFailure: The device, memory or disk space is missing.
    """
    from seap_export.api.memory import warn_of_memory
    from seap_export.api.settings import compute_of
    from seap_export.common.checksums import write_checksums
    from seap_export.model.layers.compute import torch_threads
    from seap_export.model.layers.kept import UNFINISHED
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.folder.dense_folder import dense_folder
    from seap_export.pipeline.folder.outputs import write_whole
    from seap_export.pipeline.request.mixtures import open_mixture_of
    from seap_export.pruning.distillation.write import variant_units, write_variant
    from seap_export.pruning.plan.plan import read_plan
    from validation.generation.fresh import PARTS, with_fresh_texts

    compute, said, target = compute_of(options), options.progress, options.out
    made_by, source = read_plan(options.plan), open_source(options.model)
    warn_of_memory(said, source, compute)
    statistics = open_mixture_of(made_by, options.calibration)
    settings, ratio = made_by.settings, made_by.requested_ratio
    number = settings.fresh if ratio else 0
    units = variant_units(len(made_by.layers), settings.distillation, ratio)
    units += PARTS * len(statistics.calibrations) if number else 0
    said.say(f"hashing {source.name}")
    with (
        torch_threads(options.threads),
        write_whole(target, marker=_marker(target), force=options.force) as folder,
        said.step("shrinking", units, "parts") as advance,
    ):
        if number:
            texts = folder / UNFINISHED / "fresh"
            texts.mkdir(parents=True)
            with dense_folder(source) as dense:
                statistics = with_fresh_texts(dense, statistics, number, texts, compute=compute, on_part=advance)
        write_variant(source, made_by, statistics, folder, advance, compute=compute)
        write_checksums(folder)
    return PrunedModel(target, made_by.shrunk_spec(source.spec).num_parameters())


def _marker(out: Path) -> str:
    """The file at `out` by which --force recognises a pruned model, and nothing else."""
    from seap_export.common.json_file import read_json
    from seap_export.model.families import is_pruned
    from seap_export.pruning.shrink.write import MODELING_FILES

    config = out / "config.json"
    return config.name if config.is_file() and is_pruned(read_json(config)) else MODELING_FILES[0]
