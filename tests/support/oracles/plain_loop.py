"""The sequential refit as a plain loop over the dense model, each projection fitted by numpy's least squares."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from support.models import projection_paths, transformers_model
from torch import nn
from transformers import PreTrainedModel

from seap_export.model.families.names import Projection
from seap_export.model.sources.source import Source
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.layer import kept_channels

#: Projections that have no bias in a family's own class, whatever its config says.
WITHOUT_BIAS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "ernie4_5", "granite", "seed_oss", "smollm3"), ()),
    **dict.fromkeys(("qwen3", "gemma2", "gemma3_text", "granitemoehybrid", "hunyuan_v1_dense"), ("down_proj",)),
    **dict.fromkeys(("mistral", "qwen2", "exaone4", "glm4", "ministral3", "phi3"), ("o_proj", "down_proj")),
}


@torch.no_grad()
def around_sublayer(
    model: PreTrainedModel, index: int, name: Projection, texts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The stream before a sublayer, its output projection's input, and the stream after; float64 [tokens, ...]."""
    layer = model.model.layers[index]
    seen: list[list[torch.Tensor]] = [[], [], []]
    before, inputs, outputs = seen
    norm = layer.input_layernorm if name == "o_proj" else layer.post_attention_layernorm
    projection = layer.get_submodule(projection_paths(model)[name])
    hooks = [
        norm.register_forward_pre_hook(lambda _, args: before.append(args[0][0].double())),
        projection.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0].double())),
        projection.register_forward_hook(lambda _, args, output: outputs.append(output[0].double())),
    ]
    for ids in texts:
        model(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    stream = torch.cat(before)
    return stream, torch.cat(inputs), stream + torch.cat(outputs)


def ridge_fit(
    x: torch.Tensor,
    y: torch.Tensor,
    weights: torch.Tensor,
    original: torch.Tensor,
    strength: float,
    *,
    intercept: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """min E|y - W' x - b'|^2 + strength |W' - W|^2, tokens counted by their weights, by numpy's least squares.

    Without an intercept the column of b' is 0, so that b' is 0 too.
    """
    root = (weights / weights.sum()).sqrt().unsqueeze(1).numpy()
    tokens, kept = x.shape
    ridge = np.hstack([np.sqrt(strength) * np.eye(kept), np.zeros((kept, 1))])
    rows = np.vstack([root * np.hstack([x.numpy(), np.full((tokens, 1), float(intercept))]), ridge])
    wanted = np.vstack([root * y.numpy(), np.sqrt(strength) * original.numpy().T])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return torch.from_numpy(solution[:-1].T.copy()), torch.from_numpy(solution[-1].copy())


def plain_loop(
    folder: Path, source: Source, plan: Plan, tasks: Mapping[str, Sequence[Sequence[int]]]
) -> PreTrainedModel:
    """The dense model in which what the plan removes has weights of 0, each projection fitted in turn."""
    dense = transformers_model(folder)
    model = copy.deepcopy(dense)
    texts = [ids for rows in tasks.values() for ids in rows]
    tokens = {task: sum(map(len, rows)) for task, rows in tasks.items()}
    weights = torch.cat(
        [torch.full((tokens[task],), plan.weights[task] / tokens[task], dtype=torch.float64) for task in tasks]
    )
    cut_before = False
    for index, layer in enumerate(plan.layers):
        for name in source.spec.layers[index].outputs:
            linear: nn.Linear = model.model.layers[index].get_submodule(projection_paths(model)[name])
            kept = kept_channels(layer, source.spec.layers[index], name)
            cut_before = cut_before or len(kept) < linear.in_features
            if not cut_before:
                continue
            target = around_sublayer(dense, index, name, texts)[2]
            before, inputs, _ = around_sublayer(model, index, name, texts)
            x, y = inputs[:, kept], target - before
            counted = weights / target.norm(dim=1)  # an error counts less where the dense stream is long
            p = (counted / counted.sum()).unsqueeze(1)
            intercept = plan.settings.layout == "per-layer" or name not in WITHOUT_BIAS[source.spec.family.model_type]
            spread = float((p * (x - (p * x).sum(0) * intercept).square()).sum())
            original = linear.weight.detach()[:, kept].double()
            strength = plan.settings.ridge * spread * float((weights / weights.sum()).square().sum())
            weight, bias = ridge_fit(x, y, counted, original, strength, intercept=intercept)
            whole = torch.zeros(linear.weight.shape)
            whole[:, kept] = weight.float()
            linear.weight = nn.Parameter(whole)
            linear.register_parameter("bias", nn.Parameter(bias.float()) if intercept else None)
    return model
