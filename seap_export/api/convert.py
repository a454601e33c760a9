"""`convert`: from a model folder to another format."""

from __future__ import annotations

from converters.form_options import FormOptions
from converters.formats import WRITTEN
from seap_export.api.options import RunOptions
from seap_export.api.results import ConvertedModel
from seap_export.common.options import option, options, part, takes
from seap_export.common.providers import OWN_FORMAT, WrittenFor
from seap_export.common.toml_file import either
from seap_export.common.values import FilePath, FilePaths, Weights
from seap_export.errors import UsageError
from seap_export.pipeline.request.options import ComputeOptions


@options
class ConvertOptions(RunOptions, ComputeOptions, FormOptions):
    """All options of `convert`."""

    folder: FilePath = option("The model folder, pruned by this tool or dense.", kw_only=False)
    out: FilePath = option(
        "Folder for the files of the format, such as model.onnx, its data, tokenizer and genai_config.json."
    )
    format: str = option(
        f"Format to write: {either(WRITTEN)} (docs/runtimes.md).",
        default=OWN_FORMAT,
        metavar="NAME[:PRECISION]",
    )
    provider: WrittenFor = option("Execution provider of ONNX Runtime that the graph is written for.", default="cpu")
    calibration: FilePaths = option(
        "Statistics of a task, OUT/calibration/TASK of `calibrate` or `export`; its texts are used for rounding. "
        "Repeatable.",
        default=(),
        unset="those of the variant, if its export kept them; else each weight gets the nearest level",
        python="Statistics of tasks, OUT/calibration/TASK of an export, that 4-bit weights are rounded with; none: "
        "those of the variant, if its export kept them, and else each to the nearest level.",
    )
    weight: Weights = option(
        "Weight of a task among several. Repeatable.",
        default=(),
        unset="1",
        python='The weights of these tasks, such as {"maths": 2}; 1 by default.',
        metavar="TASK=W",
    )


@takes(ConvertOptions)
def convert(options: ConvertOptions) -> ConvertedModel:
    """Writes a model folder, pruned by this tool or dense, in another format, by default for ONNX Runtime.

    Example:
        >>> from seap_export import convert
        >>> model = convert("pruned/maths-0.2/hf", format="onnx:int4", out="maths-int4")
        >>> model.bytes

    Args:
        The fields of `ConvertOptions`.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: Arguments contradict each other or have no effect, or something would be replaced.
        InputError: The model cannot be used, or not be written so.
        ArtifactError: The statistics are missing or damaged.
        EnvironmentFailure: A package, the device, memory or disk space is missing.
    """
    from seap_export.api.settings import compute_of
    from seap_export.model.layers.compute import torch_threads
    from seap_export.pipeline.convert import convert as write_model
    from seap_export.pipeline.request.formats import formats_of
    from seap_export.pipeline.request.mixtures import open_mixture

    folders, weights, said = options.calibration, options.weight, options.progress
    if weights and not folders:
        raise UsageError("--weight has no effect without --calibration; give that of each task")
    (chosen,) = formats_of([options.format], part(FormOptions, options))
    compute = compute_of(options)
    statistics = open_mixture(folders, weights) if folders else None
    with torch_threads(options.threads):
        size = write_model(
            options.folder, chosen, options.out, said, force=options.force, statistics=statistics, compute=compute
        )
    return ConvertedModel(options.out, size)
