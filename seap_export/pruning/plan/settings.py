"""How a variant is chosen and made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from seap_export.common.providers import PROVIDERS
from seap_export.common.toml_file import either
from seap_export.pruning.plan.sparsity import EVEN, SettingError, Sparsity
from seap_export.pruning.scores import CHANNEL_SCORES, SCORES, Score

Compensation = Literal["sequential", "one-shot", "bias", "none"]
COMPENSATIONS: tuple[Compensation, ...] = get_args(Compensation)
Balance = Literal["loss", "alike"]
BALANCES: tuple[Balance, ...] = get_args(Balance)
Biases = Literal["added", "none"]
BIASES: tuple[Biases, ...] = get_args(Biases)
Layout = Literal["per-layer", "uniform"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ScoreMix = Literal["scaled", "plain"]
SCORE_MIXES: tuple[ScoreMix, ...] = get_args(ScoreMix)
#: The kinds of sparsity that decide between heads and neurons themselves.
_SELF_BALANCED = ("adaptive", "global")


@dataclass(frozen=True)
class PlanSettings:
    """How heads and neurons are chosen and how their removal is compensated.

    A recipe file holds these fields, except `layout`.

    Attributes:
        score: Importance score.
        sparsity: How the ratio is spread over the layers.
        align: Neuron counts are multiples of this, where a layer is cut.
        balance: How heads and neurons of a layer are weighed against each other.
        compensation: What makes up for what is removed: output projections refitted one layer after another
            (`sequential`) or from the dense statistics (`one-shot`), a `bias`, or `none`.
        biases: Whether a refit may add biases to output projections, which some formats lack.
        ridge: Strength of the refit's ridge.
        distillation: Passes over the calibration texts in which the shrunk model learns the dense one's predictions.
        calibration_tokens: Calibration tokens of each task at most, unless a user says how many; None: the usual
            number. Plans know nothing of it.
        min_tokens: Tokens to learn from, calibration and fresh ones, below which distillation is left out.
        fresh_tokens: Tokens of each task to refit and distil on: the dense model writes as many as the calibration
            texts lack.
        trials: How many plans are tried at most; 0: the predicted losses alone decide.
        mix: Whether the scores of several tasks are brought to one scale before they are added.
        layout: `per-layer`: each layer has its own shape. `uniform`: all have the same, with biases only where the
            family's transformers class can have them.
        group_tolerance: By how much, as a fraction, the loss may rise for groups of heads that CUDA's attention
            prefers; 0: such groups are not looked for.
    """

    score: Score = "elimination"
    sparsity: Sparsity = Sparsity("adaptive")
    align: int = PROVIDERS["cpu"].align
    balance: Balance = "loss"
    compensation: Compensation = "sequential"
    ridge: float = 5.0
    calibration_tokens: int | None = None
    distillation: float = 1.0
    min_tokens: int = 16_384
    fresh_tokens: int = 0
    trials: int = 0
    mix: ScoreMix = "scaled"
    layout: Layout = "per-layer"
    group_tolerance: float = 0.0
    biases: Biases = "added"

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "score": SCORES,
            "balance": BALANCES,
            "compensation": COMPENSATIONS,
            "mix": SCORE_MIXES,
            "layout": LAYOUTS,
            "biases": BIASES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingError(name, f"'{getattr(self, name)}' is not known; use {either(allowed)}")
        if self.layout == "uniform" and self.sparsity != EVEN:
            raise SettingError("sparsity", "the uniform layout prunes all layers alike and protects none")
        if self.align < 1:
            raise SettingError("align", f"{self.align} is out of range; give at least 1")
        if not 0.0 < self.ridge < math.inf:
            raise SettingError("ridge", f"{self.ridge:g} is out of range; give a positive number")
        if not 0.0 <= self.distillation < math.inf:
            raise SettingError("distillation", f"{self.distillation:g} is out of range; give at least 0")
        if self.calibration_tokens is not None and self.calibration_tokens < 1:
            raise SettingError("calibration_tokens", f"{self.calibration_tokens} is out of range; give at least 1")
        if self.min_tokens < 0:
            raise SettingError("min_tokens", f"{self.min_tokens} is out of range; give at least 0")
        if self.fresh_tokens < 0:
            raise SettingError("fresh_tokens", f"{self.fresh_tokens} is out of range; give at least 0")
        if self.trials < 0:
            raise SettingError("trials", f"{self.trials} is out of range; give at least 0")
        if not 0.0 <= self.group_tolerance < math.inf:
            raise SettingError("group_tolerance", f"{self.group_tolerance:g} is out of range; give at least 0")
        if self.sparsity.kind == "global" and self.score not in CHANNEL_SCORES:
            raise SettingError("sparsity.kind", "'global' ranks scores; use it with the score wifv or wifn")
        if self.sparsity.kind in _SELF_BALANCED and self.balance == "alike":
            problem = f"{self.sparsity.kind} sparsity weighs heads against neurons itself; remove this key"
            raise SettingError("balance", problem)

    @property
    def passes(self) -> float:
        """`distillation`, which goes with the sequential compensation alone."""
        return self.distillation if self.compensation == "sequential" else 0.0

    @property
    def tried(self) -> int:
        """`trials`, which go with the sequential compensation and adaptive sparsity alone."""
        return self.trials if self.compensation == "sequential" and self.sparsity.kind == "adaptive" else 0

    @property
    def fresh(self) -> int:
        """`fresh_tokens`, which go with the sequential compensation alone."""
        return self.fresh_tokens if self.compensation == "sequential" else 0

    def passes_over(self, num_tokens: int) -> float:
        """`passes`, of which there are none over too few tokens, calibration and fresh ones together."""
        return self.passes if max(num_tokens, self.fresh) >= self.min_tokens else 0.0

    def effective(self, num_tokens: int) -> PlanSettings:
        """The same settings, 0 for what has no effect with this compensation, sparsity and number of tokens."""
        passes = self.passes_over(num_tokens)
        return replace(self, calibration_tokens=None, distillation=passes, fresh_tokens=self.fresh, trials=self.tried)

    @property
    def square_heads(self) -> bool:
        """FLAP squares the scores of a head's channels before it averages them, for its global ranking."""
        return self.sparsity.kind == "global"

    def resolved(self, num_hidden_layers: int) -> PlanSettings:
        """The same settings with the protection spelled out for a model of this depth."""
        return replace(self, sparsity=self.sparsity.resolved(num_hidden_layers))
