"""The options of `export` for variants, sizes, formats and measurements."""

from __future__ import annotations

from typing import Literal

from converters.formats import WRITTEN
from seap_export.common.options import option, options
from seap_export.common.providers import OWN_FORMAT
from seap_export.common.toml_file import either
from seap_export.common.values import (
    FilePathOrNone,
    Fractions,
    NameOrPath,
    Several,
    ShareOrNone,
    Weights,
)
from seap_export.pipeline.request.options import TaskOptions
from seap_export.pipeline.request.tasks import SupportOrNone, TokensKept


@options
class MainOptions(TaskOptions):
    """The options of `export` for variants, sizes, formats and measurements."""

    general: bool = option("Also make a variant for all tasks together.", default=False, title="Model and tasks")
    support: SupportOrNone = option(
        "General text to calibrate every variant on as well; SHARE is its weight beside the task's.  [default "
        "share: 0.3]",
        default=None,
        python="General text that every variant is made from as well, as SOURCE or SOURCE:SHARE; None: there is none.",
        title="Model and tasks",
        rare=True,
        metavar="SOURCE[:SHARE]",
    )
    weight: Weights = option(
        "Weight of a task among several. Repeatable.",
        default=(),
        unset="1",
        python='The weights of tasks in the variant for all, such as {"maths": 2}; 1 by default.',
        metavar="TASK=W",
    )
    mix: Weights = option(
        "Also make a variant for some of the tasks, such as mix.both = { maths = 2, chat = 1 }.",
        default=(),
        python='Further variants for some of the tasks, such as {"both": {"maths": 2, "wiki": 1}}.',
        metavar="NAME=TASK:W,...",
    )

    ratio: Fractions = option(
        "Fraction of the attention and MLP weights to remove, such as 0.2 or 20%. Repeatable. A target replaces it.",
        default=(),
        unset="0.5 and 0.8, in int4, if right answers are learnt",
        python="Fraction of all attention and MLP weights to remove; one or several. A target replaces it.",
        title="Size",
        metavar="R",
    )
    target_size: str | None = option(
        "Target: largest size of the written folder, such as 60MB. Ratio and precision are chosen.",
        default=None,
        title="Size",
        metavar="SIZE",
    )
    target_decode_speedup: float | None = option(
        "Target: smallest speed-up of a decode step over the dense model in the usual precision. Ratio and "
        "precision are chosen.",
        default=None,
        title="Size",
        rare=True,
        metavar="X",
    )
    target_first_token: str | None = option(
        "Target: longest time to the first token of a prompt on this machine, such as 512:250ms, or, as 512:2x, its "
        "smallest speed-up.",
        default=None,
        unset="no target",
        metavar="TOKENS:TIME, such as 512:250ms",
    )
    max_kl: float | None = option(
        "Target: largest mean KL divergence from the dense model on held-out texts. The smallest variant is chosen.",
        default=None,
        python="Target: largest mean KL divergence from the dense model on held-out texts, in nats per token. The "
        "smallest variant is chosen. The mean decides; a reason or a warning says if it is too close to tell.",
        title="Size",
        metavar="NATS",
    )
    recipe: NameOrPath = option(
        "How heads and neurons are chosen and compensated: a name that `seap-export recipes` lists, or a TOML file.",
        default="reconstruct",
        title="Size",
        rare=True,
        metavar="NAME|FILE",
    )
    layout: Literal["per-layer", "uniform"] = option(
        "Give each layer a shape of its own, or all the same, which some runtimes need.",
        default="per-layer",
        title="Size",
        rare=True,
    )
    vocabulary: TokensKept = option(
        "Number of tokens to keep; auto: those that the tasks' texts use (docs/fit.md).",
        default="all",
        title="Size",
        rare=True,
        metavar="N|auto|all",
    )
    out: FilePathOrNone = option(
        "Folder for the artifacts; a second run continues where the first one stopped.",
        default=None,
        unset="one here, named after MODEL",
        title="Output",
        metavar="FOLDER",
    )
    format: Several[str] = option(
        f"Format to write beside the model folder hf/: {either(WRITTEN)} (docs/runtimes.md). Repeatable; with a "
        "target, one is chosen for each variant.",
        default=OWN_FORMAT,
        python='What to write beside the model folder, such as "onnx", "gguf:q4_0" or "hf" for nothing; one or '
        "several. With a target, one is chosen for each variant.",
        title="Output",
        metavar="NAME[:PRECISION]",
    )
    router: bool = option("Make a router if there are several tasks.", default=True, unset="true")
    threshold: ShareOrNone = option("Confidence that the router needs to choose a task.", default=None, unset="0.7")
    quality: bool | None = option(
        "Compare each variant with the dense model.",
        default=None,
        unset="quality",
        python="Compare each variant with the dense model; None: if a format is written beside `hf`.",
        title="Checks",
        rare=True,
    )
    speed: bool | None = option(
        "Time each variant beside the dense model.",
        default=None,
        unset="speed",
        python="Time each variant beside the dense model; None: if a format is written beside `hf`.",
        title="Checks",
        rare=True,
    )
    dry_run: bool = option(
        "Check the inputs, show the sizes, time one layer, and write nothing.",
        default=False,
        title="Checks",
        of_a_run=True,
    )
