"""Traces a failed parity check to the sublayer that diverges first."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.onnx.form import read_form
from seap_export.errors import ParityFailure
from seap_export.layers.compute import Compute
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.rounded import opened_model
from seap_export.pipeline.gate.parity import prompts_of
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.settings import ParitySettings
from validation.parity.bisect import Bisection, TapError, bisect
from validation.parity.profiles import IN_FLOAT
from validation.parity.run import plan_cases

__all__ = ["bisect_variant"]


def bisect_variant(
    variant: Variant,
    settings: ParitySettings,
    prompt_file: Path | None,
    parity: Mapping[str, Any] | None,
    reasons: Sequence[str],
    progress: Progress,
    compute: Compute | None = None,
) -> Bisection | None:
    """Traces the cheapest failed stage, or the first case if no stage failed.

    Args:
        variant: The variant.
        settings: How it was compared.
        prompt_file: On which prompts; None: the held-out texts of the export.
        parity: The report of the comparison; None: there is none.
        reasons: Why parity failed; the first weight that they name is the place if no value diverges before it.
        progress: Reports what happens.
        compute: Where torch runs.

    Returns:
        None if the graph does not run with intermediate values as outputs.
    """
    failed = [case for case in (parity or {}).get("cases", ()) if case["verdict"] == "failed"]
    # A single prompt in a single call is the cheapest to trace.
    failed.sort(key=lambda case: (case["rows"] > 1, case["case"].startswith("long")))
    stage: Mapping[str, Any] = failed[0] if failed else {"case": "prompt 0", "stage": "prefill", "worst": None}
    name, _, label = stage["case"].partition(", ")
    prompts = prompts_of(variant, prompt_file, settings.prompts)
    progress.say(f"{variant.name}: bisecting {stage['stage']} of {stage['case']}")
    try:
        with opened_model(variant.onnx) as model:
            cases = plan_cases(model, prompts, decode_steps=settings.decode_steps, long_tokens=settings.long_tokens)
            case = next(case for case in cases if case.name == name)
            steps = 0 if stage["stage"] == "prefill" else min(settings.decode_steps, _step(stage) + 1)
            found = bisect(
                model,
                variant.onnx,
                case,
                stage["stage"],
                steps,
                in_float=label == IN_FLOAT or _is_quantized(variant.onnx),
                provider=settings.provider,
                threads=settings.threads,
                compute=compute,
            )
    except ParityFailure as error:
        progress.say(f"{variant.name}: cannot be bisected: {error}")
        return None
    stored = _stored_wrongly(reasons)
    if stored is not None and (found.first is None or _depth(stored) < _depth(found.first)):
        return replace(found, first=stored)  # a wrong weight explains what diverges after it
    return found


def _depth(place: TapError) -> float:
    if place.layer is not None:
        return place.layer
    return -1.0 if place.sublayer.startswith("embed_tokens") else math.inf


def _stored_wrongly(reasons: Sequence[str]) -> TapError | None:
    """The first tensor or node named by the comparison of weights."""
    names = (re.match(r"weights: (?:node )?'(?:model\.)?([^']+)'", reason) for reason in reasons)
    name = next((found[1] for found in names if found), None)
    if name is None:
        return None
    layer = re.match(r"layers\.(\d+)\.", name)
    sublayer = name[layer.end() :] if layer else name
    return TapError(name, int(layer[1]) if layer else None, sublayer, None)


def _step(stage: Mapping[str, Any]) -> int:
    places = [stage["worst"], *(defect["place"] for defect in stage.get("defects", ()))]
    return max((place["position"] for place in places if place is not None), default=1)


def _is_quantized(onnx_folder: Path) -> bool:
    return read_form(onnx_folder / "model.onnx").precision.quantization is not None
