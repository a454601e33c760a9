"""`prune`: turns a plan into a smaller model."""

from __future__ import annotations

from seap_export.api.options import RunOptions
from seap_export.api.results import PrunedModel
from seap_export.common.options import option, options, takes
from seap_export.common.values import FilePath, FilePaths
from seap_export.pipeline.request.options import ComputeOptions, ModelOptions


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
    from seap_export.errors import refuse_missing
    from seap_export.model.layers.compute import torch_threads
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.prune import prune as write_model
    from seap_export.pruning.plan.plan import read_plan

    compute, said, target = compute_of(options), options.progress, options.out
    refuse_missing(options.plan)
    made_by, source = read_plan(options.plan), open_source(options.model)
    warn_of_memory(said, source, compute)
    with torch_threads(options.threads):
        write_model(source, made_by, options.calibration, target, said, force=options.force, compute=compute)
    return PrunedModel(target, made_by.shrunk_spec(source.spec).num_parameters())
