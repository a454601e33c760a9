"""`convert`: from a model folder to another format."""

from __future__ import annotations

from typing import Literal

from seap_export.api.arguments import FilePath, Provider, Several, Weights, checked
from seap_export.api.progress import ProgressArgument
from seap_export.api.results import ConvertedModel
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError


def convert(
    folder: FilePath,
    *,
    out: FilePath,
    format: str = OWN_FORMAT,
    provider: Provider = "cpu",
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] | None = None,
    activations: Literal["fp32", "fp16", "bf16"] | None = None,
    block_size: Literal[32, 64, 128] | None = None,
    asymmetric: bool = False,
    float_embeddings: bool = False,
    dialect: Literal["fused", "standard"] | None = None,
    logits: Literal["all", "last"] | None = None,
    calibration: Several[FilePath] = (),
    weight: Weights = (),
    device: str = "auto",
    memory: str | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressArgument = False,
) -> ConvertedModel:
    """Writes a model folder, pruned by this tool or dense, in another format, by default for ONNX Runtime.

    Example:
        >>> from seap_export import convert
        >>> model = convert("pruned/maths-0.2/hf", format="onnx:int4", out="maths-int4")
        >>> model.bytes

    Args:
        folder: The model folder.
        out: Folder for the files of the format.
        format: The format, as NAME or NAME:PRECISION.
        provider: Execution provider that an ONNX graph is made for: "cpu" or "cuda".
        precision: Precision of the ONNX weights; None: int8 on the CPU, fp16 on CUDA.
        activations: For int8 and int4: dtype of activations and caches; None: the first that the provider computes in.
        block_size: For int8 and int4: number of weights that share a scale; None: 32.
        asymmetric: For int8 and int4: store a zero point for each block.
        float_embeddings: For int8 and int4: do not quantise the embedding and the LM head.
        dialect: "fused": ONNX Runtime's operators. "standard": those of the ONNX standard. None: fused.
        logits: Logits of all positions, or of each prompt's last token; None: the last.
        calibration: Statistics of tasks, OUT/calibration/TASK of an export, that 4-bit weights are rounded with; none:
            each to the nearest level.
        weight: The weights of these tasks, such as {"maths": 2}; 1 by default.
        device: Where torch rounds: "auto", "cpu", "cuda" or "cuda:N".
        memory: Memory that it may take, such as "8GiB"; None: most of what is free.
        threads: Number of threads; None: all cores.
        force: Replace a folder of the same format.
        progress: Print on stderr what happens, as the command does. Otherwise warnings are those of `warnings`.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: Arguments contradict each other or have no effect, or something would be replaced.
        InputError: The model cannot be used, or not be written so.
        ArtifactError: The statistics are missing or damaged.
        EnvironmentFailure: A package, the device, memory or disk space is missing.
    """
    options = checked(convert, locals())

    from seap_export.api.formats import formats_of
    from seap_export.api.settings import compute_of
    from seap_export.model.layers.compute import torch_threads
    from seap_export.pipeline.convert import convert as write_model
    from seap_export.pipeline.request.mixtures import open_mixture

    folders, weights, target = options["calibration"], options["weight"], options["out"]
    if weights and not folders:
        raise UsageError("--weight has no effect without --calibration; give that of each task")
    (chosen,) = formats_of([options["format"]], options)
    compute = compute_of(options)
    statistics = open_mixture(folders, weights) if folders else None
    with torch_threads(options["threads"]):
        size = write_model(
            options["folder"], chosen, target, options["progress"], force=force, statistics=statistics, compute=compute
        )
    return ConvertedModel(target, size)
