"""How a variant is chosen and made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from seap_export.common.providers import PROVIDERS
from seap_export.pruning.plan.keys import SettingError, check, key
from seap_export.pruning.plan.sparsity import EVEN, Sparsity
from seap_export.pruning.scores import CHANNEL_SCORES, Score

Compensation = Literal["sequential", "one-shot", "bias", "none"]
COMPENSATIONS: tuple[Compensation, ...] = get_args(Compensation)
Balance = Literal["loss", "alike"]
BALANCES: tuple[Balance, ...] = get_args(Balance)
Biases = Literal["added", "none"]
Layout = Literal["per-layer", "uniform"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ScoreMix = Literal["scaled", "plain"]
#: The kinds of sparsity that decide between heads and neurons themselves.
_SELF_BALANCED = ("adaptive", "global")


def _is_not_refitted(settings: PlanSettings) -> str | bool:
    return not settings.is_refitted and f'compensation = "{settings.compensation}"'


def _has_no_refit(settings: PlanSettings) -> str | bool:
    return settings.compensation in ("bias", "none") and f'compensation = "{settings.compensation}"'


def _is_not_tried(settings: PlanSettings) -> str | bool:
    kind = settings.sparsity.kind
    return _is_not_refitted(settings) or (kind != "adaptive" and f'kind = "{kind}"')


def _scores_nothing(settings: PlanSettings) -> str | bool:
    return settings.eliminates and 'score = "elimination"'


def _solves_nothing(settings: PlanSettings) -> str | bool:
    cause = _has_no_refit(settings)
    return not settings.eliminates and cause and f'score = "{settings.score}" and {cause}'


@dataclass(frozen=True)
class PlanSettings:
    """How heads and neurons are chosen and how their removal is compensated.

    A recipe file holds these fields, except `layout`.

    Attributes:
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
        learning: Passes over the right answers of tasks that are learnt. Plans know nothing of it.
        fresh_tokens: Tokens of each task to refit and distil on: the dense model writes as many as the calibration
            texts lack.
        group_tolerance: By how much, as a fraction, the loss may rise for groups of heads that CUDA's attention
            prefers; 0: such groups are not looked for.
        trials: How many plans are tried at most; 0: the predicted losses alone decide.
        mix: Whether the scores of several tasks are brought to one scale before they are added.
        layout: `per-layer`: each layer has its own shape. `uniform`: all have the same, with biases only where the
            family's transformers class can have them.
    """

    score: Score = key("elimination")
    sparsity: Sparsity = Sparsity("adaptive")
    align: int = key(PROVIDERS["cpu"].align, least=1, is_free=True)
    balance: Balance = key("loss")
    compensation: Compensation = key("sequential")
    ridge: float = key(5.0, is_positive=True, is_free=True, idle=_solves_nothing)
    calibration_tokens: int | None = key(None, least=1, is_free=True)
    distillation: float = key(1.0, least=0, idle=_is_not_refitted)
    min_tokens: int = key(16_384, least=0, is_free=True, idle=_is_not_refitted)
    learning: int = key(4, least=0, is_free=True, idle=_is_not_refitted)
    fresh_tokens: int = key(0, least=0, is_free=True, idle=_is_not_refitted)
    trials: int = key(0, least=0, is_free=True, idle=_is_not_tried)
    mix: ScoreMix = key("scaled", is_free=True, idle=_scores_nothing)
    layout: Layout = "per-layer"
    group_tolerance: float = key(0.0, least=0, is_free=True)
    biases: Biases = key("added", is_free=True, idle=_has_no_refit)

    def __post_init__(self) -> None:
        check(self)
        if self.layout == "uniform" and self.sparsity != EVEN:
            raise SettingError("sparsity", "the uniform layout prunes all layers alike and protects none")
        if self.sparsity.kind == "global" and self.score not in CHANNEL_SCORES:
            raise SettingError("sparsity.kind", "'global' ranks scores; use it with the score wifv or wifn")
        if self.sparsity.kind in _SELF_BALANCED and self.balance == "alike":
            problem = f"{self.sparsity.kind} sparsity weighs heads against neurons itself; remove this key"
            raise SettingError("balance", problem)

    @property
    def eliminates(self) -> bool:
        """Whether neurons are ranked by elimination rather than by scores."""
        return self.score == "elimination"

    @property
    def is_refitted(self) -> bool:
        """Whether layers are refitted one after another, which distillation, fresh texts and trials go with."""
        return self.compensation == "sequential"

    @property
    def passes(self) -> float:
        """`distillation`, if it has an effect."""
        return self.distillation if self.is_refitted else 0.0

    @property
    def tried(self) -> int:
        """`trials`, if they have an effect."""
        return 0 if _is_not_tried(self) else self.trials

    @property
    def fresh(self) -> int:
        """`fresh_tokens`, if they have an effect."""
        return self.fresh_tokens if self.is_refitted else 0

    @property
    def learned(self) -> int:
        """`learning`, if it has an effect."""
        return self.learning if self.is_refitted else 0

    def passes_over(self, num_tokens: int) -> float:
        """`passes`, of which there are none over too few tokens, calibration and fresh ones together."""
        return self.passes if max(num_tokens, self.fresh) >= self.min_tokens else 0.0

    def effective(self, num_tokens: int) -> PlanSettings:
        """The same settings, 0 for what has no effect with this compensation, sparsity and number of tokens."""
        passes = self.passes_over(num_tokens)
        return replace(
            self,
            calibration_tokens=None,
            distillation=passes,
            learning=PlanSettings.learning,
            fresh_tokens=self.fresh,
            trials=self.tried,
        )

    @property
    def square_heads(self) -> bool:
        """FLAP squares the scores of a head's channels before it averages them, for its global ranking."""
        return self.sparsity.kind == "global"

    def resolved(self, num_hidden_layers: int) -> PlanSettings:
        """The same settings with the protection spelled out for a model of this depth."""
        return replace(self, sparsity=self.sparsity.resolved(num_hidden_layers))
