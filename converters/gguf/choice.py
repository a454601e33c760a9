"""The architecture that a model is written in, and why there may be none."""

from __future__ import annotations

import math

from converters.gguf.architectures import ARCHITECTURES, Architecture, differ_in_shape, why_not
from converters.gguf.folding import Folding
from seap_export.errors import InputError
from seap_export.families import Attention, ModelSpec
from seap_export.families.names import PROJECTIONS

__all__ = ["choose_architecture", "keeps_levels", "refusal"]


def choose_architecture(spec: ModelSpec) -> Architecture:
    """The architecture of the model's family if it computes the model, or the first one that does.

    Raises:
        InputError: There is none.
    """
    chosen = next((candidate for candidate in _candidates(spec) if why_not(candidate, spec) is None), None)
    if chosen is None:
        raise InputError(str(refusal(spec)))
    return chosen


def refusal(spec: ModelSpec) -> str | None:
    """Why llama.cpp cannot compute this model, on one line with what to do; None: it can."""
    candidates = _candidates(spec)
    if any(why_not(candidate, spec) is None for candidate in candidates):
        return None
    if differ_in_shape(spec):
        named = _for_any_shapes(spec)
        remedy = "use --layout uniform, or another format"
    else:
        kinds = set(map(type, spec.sublayers))
        named = [one for one in candidates if kinds <= one.kinds][:1] or candidates[:1]
        remedy = "use another format"
    reasons = "; ".join(f"'{architecture.name}' {why_not(architecture, spec)}" for architecture in named)
    if "no biases" in reasons:
        remedy = f'set biases = "none" in a recipe if the refit added them, or {remedy}'
    return f"llama.cpp cannot run this {spec.family.model_type} model: its architecture {reasons}; {remedy}"


def keeps_levels(spec: ModelSpec) -> bool:
    """Whether the projections of a model, and of a pruned one, are stored as they are but for powers of two.

    What an architecture lacks is multiplied into them, and their scales are then rounded to float16.
    """
    chosen = [architecture for architecture in _candidates(spec) if why_not(architecture, spec) is None][:1]
    factors = (
        Folding.of(architecture, spec).factor(projection)
        for architecture in (*chosen, *_for_any_shapes(spec))
        for projection in PROJECTIONS
    )
    return all(math.frexp(factor)[0] == 0.5 for factor in factors)


def _for_any_shapes(spec: ModelSpec) -> list[Architecture]:
    """The architectures that may compute the model if its layers differ in shape."""
    has_norms = spec.first(Attention).qk_norm is not None
    return [one for one in _candidates(spec) if one.varies and (one.qk_norm is not None) == has_norms]


def _candidates(spec: ModelSpec) -> list[Architecture]:
    form = spec.family.gguf
    of_family = [
        architecture for architecture in ARCHITECTURES if form is not None and architecture.name == form.architecture
    ]
    return [*of_family, *(architecture for architecture in ARCHITECTURES if architecture not in of_family)]
