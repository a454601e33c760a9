"""How a variant is chosen and made: the settings, and the named recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from seap_export.errors import UsageError
from seap_export.plan.plan import (
    BALANCES,
    COMPENSATIONS,
    LAYOUTS,
    SCORE_MIXES,
    Balance,
    Compensation,
    Layout,
    ScoreMix,
)
from seap_export.plan.sparsity import EVEN, Sparsity
from seap_export.scores import SCORES, Score

__all__ = ["ALIGN", "CUSTOM", "DEFAULT_METHOD", "METHODS", "PlanSettings", "recipe"]

DEFAULT_METHOD = "reconstruct"
#: The name of settings that are no recipe's.
CUSTOM = "custom"
#: What neuron counts are multiples of, by the execution provider that a variant is made for. On the CPU: measured, see
#: docs/measurements.md. For CUDA: 128 bytes of float16, which NVIDIA's "Matrix Multiplication Background User's Guide"
#: advises for the A100; not measured.
ALIGN: Mapping[str, int] = MappingProxyType({"cpu": 16, "cuda": 64})
#: The kinds of sparsity that decide between heads and neurons themselves.
_SELF_BALANCED = ("adaptive", "global")


@dataclass(frozen=True)
class PlanSettings:
    """How what is kept is chosen, and what makes up for what is not; see `Plan` for the fields."""

    score: Score = "elimination"
    sparsity: Sparsity = Sparsity("adaptive")
    align: int = ALIGN["cpu"]
    balance: Balance = "loss"
    compensation: Compensation = "sequential"
    ridge: float = 5.0
    mix: ScoreMix = "scaled"
    layout: Layout = "per-layer"

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "score": SCORES,
            "balance": BALANCES,
            "compensation": COMPENSATIONS,
            "mix": SCORE_MIXES,
            "layout": LAYOUTS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} '{getattr(self, name)}' is not known; known: {', '.join(known)}")
        if self.layout == "uniform" and self.sparsity != EVEN:
            raise UsageError(
                "--layout uniform shrinks all layers alike; use it with --sparsity uniform, none protected"
            )
        if not 0.0 < self.ridge < math.inf:
            raise UsageError(f"--ridge {self.ridge:g} is out of range; give a positive number")
        if self.sparsity.kind == "global" and self.score == "elimination":
            raise UsageError("--sparsity global ranks scores; use it with --score wifv or wifn")
        if self.sparsity.kind in _SELF_BALANCED and self.balance == "alike":
            raise UsageError(
                f"--sparsity {self.sparsity.kind} weighs heads against neurons itself; leave --balance alike out"
            )

    @property
    def square_heads(self) -> bool:
        """FLAP squares the scores of a head's channels before it averages them, for its global ranking."""
        return self.sparsity.kind == "global"

    def resolved(self, num_hidden_layers: int) -> PlanSettings:
        """The same settings with the protection spelled out for a model of this depth."""
        return replace(self, sparsity=self.sparsity.resolved(num_hidden_layers))

    def in_layout(self, layout: Layout) -> PlanSettings:
        """The same settings in a layout; the uniform one has its own sparsity, the same in every layer."""
        return replace(self, layout=layout, sparsity=EVEN if layout == "uniform" else self.sparsity)

    def method(self, num_hidden_layers: int) -> str:
        """The name of the recipe with these settings, whatever the alignment, the ridge and the mix; or `custom`.

        In the uniform layout it is the recipe whose other settings are these, since sparsity is not free there.

        Args:
            num_hidden_layers: Of the model, on which the default protection depends.
        """
        own = self.resolved(num_hidden_layers)
        for name, settings in METHODS.items():
            known = settings.in_layout(self.layout).resolved(num_hidden_layers)
            if replace(own, align=known.align, ridge=known.ridge, mix=known.mix) == known:
                return name
        return CUSTOM


#: The recipes: ours, the paper's (arXiv 2503.07605), and the two that it compares itself with.
METHODS: Mapping[str, PlanSettings] = MappingProxyType(
    {
        "reconstruct": PlanSettings(),
        "seap": PlanSettings("wifv", Sparsity("logistic"), balance="alike", compensation="bias"),
        "wanda-sp": PlanSettings(
            "wifn", Sparsity("uniform", protect_first=0, protect_last=0), balance="alike", compensation="none"
        ),
        "flap": PlanSettings("wifv", Sparsity("global"), compensation="bias"),
    }
)


def recipe(method: str, sparsity: Mapping[str, Any], **changes: Any) -> PlanSettings:
    """A recipe with some settings changed.

    Args:
        method: Name of the recipe.
        sparsity: Fields of its sparsity setting to change.
        **changes: Other fields to change.

    Raises:
        UsageError: There is no such recipe, or a value is out of range.
    """
    if method not in METHODS:
        raise UsageError(f"method '{method}' is not known; known: {', '.join(METHODS)}")
    base = METHODS[method].in_layout(changes.get("layout", "per-layer"))
    if base.layout == "uniform":
        _refuse_uneven(sparsity)
    if "kind" in sparsity and sparsity["kind"] != base.sparsity.kind:
        own = Sparsity(**sparsity)  # another kind has another default protection
        if own.kind in _SELF_BALANCED:
            changes = {"balance": "loss", **changes}
    else:
        own = replace(base.sparsity, **sparsity)
    settings = replace(base, sparsity=own, **changes)
    _refuse_idle(settings, {*sparsity, *changes})
    return settings


#: The options that the uniform layout leaves no choice of.
_OF_DEPTH = {"kind": "--sparsity", "budget": "--budget", "context": "--context", "k": "--k", "x0": "--x0"}
_OF_DEPTH |= {"protect_first": "--protect-first", "protect_last": "--protect-last"}


def _refuse_uneven(sparsity: Mapping[str, Any]) -> None:
    """Refuses a sparsity setting that would not shrink all layers alike."""
    idle = [name for name in ("k", "x0", "context") if name in sparsity]
    uneven = [name for name, value in sparsity.items() if name not in idle and value != getattr(EVEN, name)]
    if idle or uneven:
        options = " and ".join(option for name, option in _OF_DEPTH.items() if name in (*idle, *uneven))
        raise UsageError(f"--layout uniform shrinks all layers alike, and counts weights; leave out {options}")


def _refuse_idle(settings: PlanSettings, given: set[str]) -> None:
    """Refuses what was asked for but would change nothing."""
    if settings.sparsity.kind != "logistic" and given & {"k", "x0"}:
        raise UsageError("--k and --x0 shape the logistic curve; use them with --sparsity logistic, or leave them out")
    if settings.sparsity.budget == "weights" and "context" in given:
        raise UsageError("--context counts for other budgets than weights; give --budget macs or bytes, too")
    if settings.score == "elimination" and "mix" in given:
        raise UsageError("--mix-scores is about scores; use it with --score wifv or wifn, or leave it out")
    if settings.compensation in ("bias", "none") and "ridge" in given and settings.score != "elimination":
        raise UsageError("--ridge is of the refit; use it with --compensate reconstruct, or leave it out")
