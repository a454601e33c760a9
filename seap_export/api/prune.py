"""`prune`: turns a plan into a smaller model."""

from __future__ import annotations

from seap_export.api.arguments import FilePath, NameOrPath, Several, checked
from seap_export.api.progress import ProgressArgument
from seap_export.api.results import PrunedModel


def prune(
    model: NameOrPath,
    *,
    plan: FilePath,
    calibration: Several[FilePath],
    out: FilePath,
    device: str = "auto",
    memory: str | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressArgument = False,
) -> PrunedModel:
    """Shrinks a model by a plan: writes safetensors, config, tokenizer, and code if its layers differ in shape.

    Example:
        >>> from seap_export import prune
        >>> statistics = "pruned/calibration/maths"
        >>> model = prune("MODEL", plan="pruned/maths-0.2/plan.json", calibration=statistics, out="shrunk")
        >>> model.num_parameters

    Args:
        model: A Hugging Face folder, a .gguf file or a hub id.
        plan: A plan.json, of an export or of `seap-export plan`.
        calibration: The statistics that the plan was made from; several for a mixture.
        out: Folder for the shrunk model.
        device: Where torch computes: "auto", "cpu", "cuda" or "cuda:N".
        memory: Memory that hidden states and weights may take, such as "8GiB"; None: most of what is free.
        threads: Number of threads; None: all cores.
        force: Replace a pruned model at `out`.
        progress: Print on stderr what happens, as the command does. Otherwise warnings are those of `warnings`.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: The statistics are not those of the plan, or something would be replaced.
        InputError: The model cannot be used.
        ArtifactError: The plan or the statistics are missing or damaged.
        EnvironmentFailure: The device, memory or disk space is missing.
    """
    options = checked(prune, locals())

    from seap_export.api.memory import warn_of_memory
    from seap_export.api.settings import compute_of
    from seap_export.model.layers.compute import torch_threads
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.prune import prune as write_model
    from seap_export.pruning.plan.plan import read_plan

    compute, said, target = compute_of(options), options["progress"], options["out"]
    made_by, source = read_plan(options["plan"]), open_source(options["model"])
    warn_of_memory(said, source, compute)
    with torch_threads(options["threads"]):
        write_model(source, made_by, options["calibration"], target, said, force=force, compute=compute)
    return PrunedModel(target, made_by.shrunk_spec(source.spec).num_parameters())
