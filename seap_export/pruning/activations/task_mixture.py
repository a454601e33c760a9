"""Weighted statistics of several tasks, from which a variant for more than one task is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from seap_export.errors import InputError
from seap_export.model.families import Experts, ModelSpec
from seap_export.model.families.names import Projection
from seap_export.model.layers.sublayers.experts import routing_weights
from seap_export.pruning.activations.covariance import mirrored
from seap_export.pruning.activations.moments import Moments
from seap_export.pruning.activations.routing import RoutingSample
from seap_export.pruning.activations.statistics import Calibration, LayerMoments

#: The weight of a fresh token beside one of a calibration text, since models do not write quite as people do.
FRESH_WEIGHT = 0.3


@dataclass(frozen=True)
class ExpertStatistics:
    """Statistics of a layer's mixture of experts.

    Attributes:
        weights: The probability of each token of the sample, float64 [tokens].
        moment: The mean of c cᵀ over all tokens, float64 [neurons, neurons], with c the channels of an expert.
    """

    sample: RoutingSample
    weights: torch.Tensor
    moment: Callable[[int], torch.Tensor]

    def shares(self, experts: Experts) -> torch.Tensor:
        """The fraction of the tokens that reach each expert, float64 [experts]."""
        weights = routing_weights(self.sample.logits, experts, self.sample.selection_bias)
        return (weights > 0.0).double().T @ self.weights


class TaskMixture:
    """A distribution of tokens: each task's tokens together have the probability of its weight.

    Attributes:
        fresh: Token ids of further texts of each task, which no statistics were collected from.
        most: The most tokens of `token_ids`, of all tasks together; None: all.
    """

    def __init__(
        self,
        name: str,
        weights: Mapping[str, float],
        calibrations: Mapping[str, Calibration],
        fresh: Mapping[str, Sequence[list[int]]] = MappingProxyType({}),
        most: int | None = None,
    ) -> None:
        """Raises `InputError` if the statistics come from different models."""
        self.name, self.most = name, most
        self.weights = dict(weights)
        self.calibrations = {task: calibrations[task] for task in weights}
        self.fresh = {task: fresh.get(task, ()) for task in weights}
        digests = {calibration.record.source_sha256 for calibration in self.calibrations.values()}
        if len(digests) > 1:
            raise InputError(
                f"'{name}': the tasks were calibrated with different models; calibrate all of them with the same model"
            )
        self.source_sha256 = digests.pop()

    @property
    def is_plain(self) -> bool:
        """Whether no text was rendered by a chat template; the held-out ones tell, whose question stands apart."""
        samples = [sample for each in self.calibrations.values() for sample in each.record.held_out]
        return bool(samples) and not any("question" in sample for sample in samples)

    @property
    def probabilities(self) -> dict[str, float]:
        """The weights of the tasks, scaled to a sum of 1."""
        total = sum(self.weights.values())
        return {task: weight / total for task, weight in self.weights.items()}

    def with_fresh(self, fresh: Mapping[str, Sequence[list[int]]]) -> TaskMixture:
        """The same mixture with further texts of each task."""
        return TaskMixture(self.name, self.weights, self.calibrations, fresh)

    def of_first_tokens(self, most: int) -> TaskMixture:
        """The same mixture with the first texts of each task alone, of so many tokens at most in all."""
        return TaskMixture(self.name, self.weights, self.calibrations, most=most)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all texts of all tasks, calibration and fresh ones."""
        return sum(sum(self._sizes(task)) for task in self.calibrations)

    @property
    def effective_tokens(self) -> float:
        """Effective sample size: (sum of weights)² / sum of squared weights (Kish 1965)."""
        return 1.0 / sum(p**2 / self._effective(task) for task, p in self.probabilities.items())

    def _effective(self, task: str) -> float:
        known, fresh = self._sizes(task)
        return (known + FRESH_WEIGHT * fresh) ** 2 / (known + FRESH_WEIGHT**2 * fresh)

    def _sizes(self, task: str) -> tuple[int, int]:
        """Tokens of the calibration texts and of the fresh texts."""
        known = self.calibrations[task].record.num_tokens
        return min(known, self._most(task) or known), sum(map(len, self.fresh[task]))

    def _most(self, task: str) -> int | None:
        """The most tokens of a task's calibration texts, at least one; None: all."""
        return None if self.most is None else max(1, int(self.most * self.probabilities[task]))

    def _texts(self, task: str) -> list[list[int]]:
        """The calibration texts of a task as token ids; the last one is cut if there may be no more."""
        texts, left = self.calibrations[task].token_ids(), self._sizes(task)[0]
        first = []
        for ids in texts:
            if left <= 0:
                break
            first.append(ids[:left])
            left -= len(ids)
        return first

    def layer(self, index: int) -> LayerMoments:
        """Moments of the mixture: the mean of the means; the mean of the variances, and the variance of the means."""
        moments = {task: calibration.layer(index) for task, calibration in self.calibrations.items()}
        return {
            output: self._mixed([(p, moments[task][output]) for task, p in self.probabilities.items()])
            for output in next(iter(moments.values()))
        }

    def covariance(self, index: int, output: Projection) -> torch.Tensor:
        """Covariance of the mixture at the input of an output projection, float64 [channels, channels]."""
        means = {task: calibration.layer(index)[output].mean for task, calibration in self.calibrations.items()}
        mean = torch.stack([p * means[task] for task, p in self.probabilities.items()]).sum(0)
        total = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for task, probability in self.probabilities.items():
            self.calibrations[task].add_covariance(index, output, total, probability)
            total.addr_(means[task] - mean, means[task] - mean, alpha=probability)
        return mirrored(total)

    def experts(self, index: int, output: Projection) -> ExpertStatistics:
        """The samples of all tasks at a layer's mixture of experts, and the moments of its channels."""
        samples = {task: calibration.routing(index, output) for task, calibration in self.calibrations.items()}
        weights = [
            torch.full((len(samples[task].logits),), p / len(samples[task].logits), dtype=torch.float64)
            for task, p in self.probabilities.items()
        ]
        logits, products = (
            torch.cat([getattr(sample, part) for sample in samples.values()]) for part in ("logits", "products")
        )

        def moment(expert: int) -> torch.Tensor:
            parts = (
                self.calibrations[task].expert_moment(index, output, expert).mul_(p)
                for task, p in self.probabilities.items()
            )
            return functools.reduce(torch.Tensor.add_, parts)

        bias = next(iter(samples.values())).selection_bias
        return ExpertStatistics(RoutingSample(logits, products, bias), torch.cat(weights), moment)

    def scarce_experts(self, spec: ModelSpec) -> tuple[int, int]:
        """How many experts of a model get fewer tokens than they have neurons, and how many there are."""
        scarce = every = 0
        for index, layer in enumerate(spec.layers):
            for experts in (sublayer for sublayer in layer.sublayers if isinstance(sublayer, Experts)):
                tokens = self.num_tokens * self.experts(index, experts.output).shares(experts)
                scarce += int((tokens < experts.moe_intermediate_size).sum())
                every += experts.num_experts
        return scarce, every

    def sensitivity(self) -> torch.Tensor:
        """Mean of the tasks' sensitivities, float64 [layers, sublayers]."""
        parts = [self.calibrations[task].sensitivity() * p for task, p in self.probabilities.items()]
        return torch.stack(parts).sum(0)

    def token_ids(self) -> list[tuple[list[int], float]]:
        """The token ids of all texts, and the probability of each of their tokens."""
        texts = []
        for task, probability in self.probabilities.items():
            known, fresh = self._sizes(task)
            each = probability / (known + FRESH_WEIGHT * fresh)
            texts += [(ids, each) for ids in self._texts(task)]
            texts += [(ids, FRESH_WEIGHT * each) for ids in self.fresh[task]]
        return texts

    def _mixed(self, parts: Sequence[tuple[float, Moments]]) -> Moments:
        mean = torch.stack([p * moments.mean for p, moments in parts]).sum(0)
        variance = torch.stack([p * (moments.variance + (moments.mean - mean).square()) for p, moments in parts]).sum(
            0
        )
        return Moments(self.num_tokens, mean, variance)
