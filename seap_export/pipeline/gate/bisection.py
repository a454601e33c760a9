"""Traces a failed parity check to the sublayer that diverges first."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seap_export.errors import ParityFailure
from seap_export.model.layers.compute import Compute
from seap_export.model.sources.weights import Difference
from seap_export.pipeline.folder.contents import FormatFolder, Variant
from seap_export.pipeline.folder.rounded import opened_model
from seap_export.pipeline.gate.parity import prompts_of
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.settings import ParitySettings
from validation.parity.bisect import Bisection, TapError, bisect
from validation.parity.run import plan_cases
from validation.parity.stage import StageResult


def bisect_variant(
    variant: Variant,
    folder: FormatFolder,
    settings: ParitySettings,
    prompt_file: Path | None,
    stages: Sequence[StageResult],
    weights: Sequence[str],
    progress: Progress,
    compute: Compute | None = None,
) -> Bisection | None:
    """Traces the cheapest failed stage that needs no filled cache, or the first case if no stage failed."""
    failed = [stage for stage in stages if stage.reasons and not stage.prompts.filled]
    # A single prompt in a single call is the cheapest to trace.
    worst = min(failed, key=lambda stage: (stage.rows > 1, stage.prompts.call_tokens is not None), default=None)
    name, stage = ("prompt 0", "prefill") if worst is None else (worst.case, worst.stage)
    prompts = prompts_of(variant, prompt_file, settings.prompts)
    progress.say(f"{variant.name}: bisecting {stage} of {name}")
    try:
        with opened_model(folder.path) as model:
            cases = plan_cases(model, prompts, decode_steps=settings.decode_steps, long_tokens=settings.long_tokens)
            bisection = bisect(
                model,
                folder.path,
                cases[0] if worst is None else worst.prompts,
                stage,
                0 if worst is None else _steps(worst, settings.decode_steps),
                in_float=(worst is not None and worst.run.in_float)
                or folder.format.arithmetic.quantization is not None,
                execution=settings.execution(compute),
            )
    except ParityFailure as error:
        progress.say(f"{variant.name}: cannot be bisected: {error}")
        return None
    stored = next((_tap(line.name) for line in weights if isinstance(line, Difference)), None)
    if stored is not None and (bisection.first is None or _depth(stored) < _depth(bisection.first)):
        return replace(bisection, first=stored)  # a wrong weight explains what diverges after it
    return bisection


def _depth(tap: TapError) -> float:
    if tap.layer is not None:
        return tap.layer
    return -1.0 if tap.sublayer.startswith("embed_tokens") else math.inf


def _tap(tensor: str) -> TapError:
    """The layer and sublayer to which the name of a tensor or node belongs, without a measured error."""
    name = tensor.removeprefix("model.")
    layer = re.match(r"layers\.(\d+)\.", name)
    sublayer = name[layer.end() :] if layer else name
    return TapError(name, int(layer[1]) if layer else None, sublayer, None)


def _steps(result: StageResult, most: int) -> int:
    """The decode steps up to the last logit that is wrong."""
    if result.stage == "prefill":
        return 0
    logits = [result.figures.worst, *(defect.logit for defect in result.figures.defects)]
    return min(most, max((logit.position for logit in logits if logit is not None), default=1) + 1)
