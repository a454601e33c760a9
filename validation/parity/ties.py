"""Routers that are nearly tied: rounding may send a token to either of two experts, which changes its output.

What such a choice does to logits is measured as other noise of torch is: it runs once more, and every choice that is
nearly a tie is made the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from converters.onnx.precision import PrecisionName
from seap_export.model.families import Experts, ModelSpec
from seap_export.model.layers.sublayers.experts import preferences, weights_of

#: How little a router may prefer the last expert of a token to the next one, over the standard deviation of what it
#: prefers experts by, for rounding in this arithmetic to decide.
NEARLY_TIED: Mapping[PrecisionName, float] = {
    "fp32": 1e-5,
    "fp16": 1.2e-2,
    "bf16": 3e-2,
    "int8": 3e-2,
    "int4": 3e-2,
    "w8a8": 3e-2,
    "w4a8": 3e-2,
}
#: The largest share of choices that may be nearly tied. Beyond it, such a run says nothing of rounding.
_MOST = 0.05


@dataclass
class Ties:
    """Counts the choices of routers that were made the other way (`tied`), and all choices (`every`)."""

    tied: int = 0
    every: int = 0

    @property
    def are_few(self) -> bool:
        """Whether there are some, and few enough for their noise to count."""
        return 0 < self.tied <= _MOST * self.every


@contextmanager
def other_choices(model: Any, spec: ModelSpec, rate: float) -> Iterator[Ties]:
    """While it is open, each choice of a model that is nearly tied takes the next expert in place of the last.

    For `rate`, see `NEARLY_TIED`.
    """
    ties, rules = Ties(), spec.family.experts
    with ExitStack() as hooks:
        for index, layer in enumerate(spec.layers):
            for experts in (sublayer for sublayer in layer.sublayers if isinstance(sublayer, Experts)):
                if rules is None or experts.experts_per_token == experts.num_experts:
                    continue
                module = model.get_submodule(spec.family.names["layer"].format(layer=index).rstrip("."))
                paths = {**spec.family.names, **spec.family.modules}
                hook = _Hook(experts, module, paths, rate, ties, gives_probabilities=rules.gives_probabilities)
                router = module.get_submodule(rules.path(rules.router.partition(".")[0]))
                hooks.callback(router.register_forward_hook(hook).remove)
        yield ties


@dataclass
class _Hook:
    """Changes what a router gives: logits or their softmax, and the weights and indices of each token's experts."""

    experts: Experts
    layer: Any
    paths: Mapping[str, str]
    rate: float
    ties: Ties
    gives_probabilities: bool = False

    def __call__(
        self, router: Any, inputs: Any, given: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first, weights, indices = given
        logits = first.log() if self.gives_probabilities else first
        bias = self._tensor("selection_bias").flatten() if self.experts.has_selection_bias else None
        preferred = logits if bias is None else preferences(logits, self.experts, bias)
        best = preferred.topk(self.experts.experts_per_token + 1, -1)
        is_tied = best.values[:, -2] - best.values[:, -1] < self.rate * preferred.std(-1)
        others = torch.cat([best.indices[:, :-2], best.indices[:, -1:]], 1)
        self.ties.tied += int(is_tied.sum())
        self.ties.every += len(is_tied)
        other_weights = weights_of(logits, self.experts, others)
        if self.experts.has_expert_scale:
            other_weights = other_weights * self._tensor("expert_scale")[others]
        other_weights, changed = other_weights.to(weights.dtype), is_tied[:, None]
        return first, torch.where(changed, other_weights, weights), torch.where(changed, others, indices)

    def _tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = attrgetter(self.paths[name])(self.layer)
        return tensor
