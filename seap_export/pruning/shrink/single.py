"""Shrinks layers one by one, each compensated from the dense model's statistics alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from seap_export.model.families import names
from seap_export.model.families.names import Projection
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.layer import kept_channels, shrink_layer, with_all_biases
from seap_export.pruning.shrink.refit import OutputFit, mean_fit, refit_from_dense

_CPU = torch.device("cpu")


def single_layers(
    source: Source, plan: Plan, statistics: TaskMixture, first: int = 0, device: torch.device = _CPU
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the tensors of every shrunk layer in turn, by full name."""
    spec, compensated = plan.shrunk_spec(source.spec), plan.compensated(source.spec)
    for index in range(first, len(compensated)):
        yield with_all_biases(_layer(source, plan, statistics, index, compensated[index], device), spec, index)


def _layer(
    source: Source,
    plan: Plan,
    statistics: TaskMixture,
    index: int,
    compensated: frozenset[Projection],
    device: torch.device,
) -> dict[str, torch.Tensor]:
    tensors = source.read_layer(index)
    shrunk = shrink_layer(tensors, source.spec, index, plan.layers[index])
    moments, dense = statistics.layer(index), source.spec.layers[index]
    for output in dense.outputs:
        if output not in compensated:
            continue
        weight, bias = tensors[names.weight(output, index)].to(device), tensors.get(names.bias(output, index))
        bias = None if bias is None else bias.to(device)
        kept = kept_channels(plan.layers[index], dense, output).to(device)
        mean = moments[output].mean.to(device)
        fit: OutputFit
        if plan.settings.compensation == "bias":
            fit = mean_fit(weight, bias, mean, kept)
        else:
            covariance = statistics.covariance(index, output).to(device)
            fit = refit_from_dense(
                weight,
                bias,
                mean,
                covariance,
                kept,
                ridge=plan.settings.ridge,
                tokens=statistics.effective_tokens,
                intercept=plan.has_intercept(output, source.spec.family),
            )
        shrunk[names.weight(output, index)] = fit.weight.cpu()
        if fit.bias is not None:
            shrunk[names.bias(output, index)] = fit.bias.cpu()
    return shrunk
