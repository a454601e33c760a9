"""The channels of a mixture of experts, and their product: each token is computed by its experts only."""

from __future__ import annotations

import torch

from seap_export.model.families.sublayers import Experts, Gates
from seap_export.model.layers.sublayers.mlp import ACTIVATIONS
from seap_export.model.layers.sublayers.norm import rms_norm
from seap_export.model.layers.sublayers.operands import CHANNELS, PRODUCT, Operands, stream_of


def chosen_experts(
    logits: torch.Tensor, experts: Experts, selection_bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts that compute each token, int64 [tokens, experts_per_token], and their weights before them.

    Args:
        logits: The router's product, [tokens, experts].
        selection_bias: The bias that the choice goes by, [experts]; None: there is none.
    """
    indices = preferences(logits, experts, selection_bias).topk(experts.experts_per_token, -1).indices
    return weights_of(logits, experts, indices), indices


def preferences(logits: torch.Tensor, experts: Experts, selection_bias: torch.Tensor | None) -> torch.Tensor:
    """The scores by which experts are chosen, [tokens, experts], with the bias of the choice; see `chosen_experts`."""
    scores = _scores(logits, experts)
    return scores if selection_bias is None else scores + selection_bias


def weights_of(logits: torch.Tensor, experts: Experts, indices: torch.Tensor) -> torch.Tensor:
    """The weights of chosen experts, whose indices are int64 [tokens, experts_per_token]."""
    if experts.scores == "sparsemixer":
        return _mixed(logits, indices, experts.tolerance)
    weights = _scores(logits, experts).gather(-1, indices)
    weights = weights / weights.sum(-1, keepdim=True) if experts.is_normalised else weights
    return weights if experts.scaling == 1.0 else weights * experts.scaling


def _scores(logits: torch.Tensor, experts: Experts) -> torch.Tensor:
    """The scores of all experts, [tokens, experts]; in `sparsemixer`, the logits themselves."""
    if experts.scores == "sparsemixer":
        return logits
    return logits.softmax(-1) if experts.scores == "softmax" else logits.sigmoid()


def _mixed(logits: torch.Tensor, indices: torch.Tensor, tolerance: float) -> torch.Tensor:
    """The weights of the chosen experts in `sparsemixer`, in the order of `indices`."""
    weights, left = [], logits
    for index in indices.split(1, -1):
        best = logits.gather(-1, index)
        is_worse = _distances(logits, best) > 2 * tolerance
        weights.append(left.masked_fill(is_worse, -torch.inf).softmax(-1).gather(-1, index))
        left = left.scatter(-1, index, -torch.inf)
    return torch.cat(weights, -1)


def _distances(logits: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    return (best - logits) / logits.abs().maximum(best)


def routing_weights(
    logits: torch.Tensor, experts: Experts, selection_bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The weight of each expert for each token, float32 [tokens, experts], 0 where it does not compute the token.

    Args:
        logits: The router's product, float32 [tokens, experts].
        selection_bias: See `chosen_experts`.
    """
    weights, indices = chosen_experts(logits, experts, selection_bias)
    return torch.zeros_like(logits).scatter(-1, indices, weights)


def router_logits(operands: Operands, experts: Experts, stream: torch.Tensor) -> torch.Tensor:
    """The router's product, float32 [tokens, experts], given the hidden states."""
    gain = operands.tensor("router_norm")
    if gain is None:
        return operands.linear("router", operands.read(experts.output, stream))
    normed = rms_norm(stream_of(stream, operands.hidden_size), gain, operands.epsilon)
    operands.see("router's norm", lambda: normed)
    return operands.linear("router", normed)


def router_weights(operands: Operands, experts: Experts, stream: torch.Tensor) -> torch.Tensor:
    """The router's weights for hidden states; see `routing_weights`."""
    return routing_weights(router_logits(operands, experts, stream), experts, operands.tensor("selection_bias"))


def routing_margins(operands: Operands, experts: Experts, stream: torch.Tensor) -> torch.Tensor:
    """By how much the router prefers the last expert of each token to the next one, float32 [tokens]."""
    logits, bias = router_logits(operands, experts, stream), operands.tensor("selection_bias")
    if experts.experts_per_token == experts.num_experts:
        return torch.full_like(logits[:, 0], torch.inf)
    preferred = logits if bias is None else preferences(logits, experts, bias)
    best = preferred.topk(experts.experts_per_token + 1, -1).values
    margins = best[:, -2] - best[:, -1]
    if experts.scores == "sparsemixer":  # nor may an expert be hardly near or hardly too far
        distances = [_distances(logits, one) - 2 * experts.tolerance for one in best[:, :-1].split(1, -1)]
        margins = torch.stack([margins, *(distance.abs().amin(-1) for distance in distances)]).amin(0)
    return margins


def experts_pass(
    operands: Operands, experts: Experts, stream: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """The `expert_channels` of each expert for the tokens that reach it, and the sum of what all experts write.

    The sum, [tokens, hidden_size], has the biases of experts, weighted as their channels are.
    """
    weights, biases = router_weights(operands, experts, stream), operands.tensor("experts_output_bias")
    x, channels = operands.read(experts.output, stream), list[torch.Tensor]()
    total = stream.new_zeros(len(stream), operands.hidden_size) if biases is None else weights @ biases
    for expert in range(experts.num_experts):
        tokens, weight = _reached(weights, expert)
        channels.append(_neurons(operands, experts, expert, x.index_select(0, tokens)) * weight)
        total.index_add_(0, tokens, _written(operands, experts, expert, channels[-1]))
    return tuple(channels), total


def expert_channels(
    operands: Operands, experts: Experts, stream: torch.Tensor, weights: torch.Tensor, expert: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that reach an expert, int64, and its channels for them, given the `router_weights` of the stream.

    The channels, float32 [tokens, neurons], are the activations of its neurons times the router's weights.
    """
    tokens, weight = _reached(weights, expert)
    x = operands.read(experts.output, stream.index_select(0, tokens))
    return tokens, _neurons(operands, experts, expert, x) * weight


def _reached(weights: torch.Tensor, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that reach an expert, int64, and its weight for each, [tokens, 1], given the `routing_weights`."""
    weight = weights[:, expert, None]
    tokens = torch.nonzero(weight.detach())[:, 0]
    return tokens, weight.index_select(0, tokens)


def _neurons(operands: Operands, experts: Experts, expert: int, x: torch.Tensor) -> torch.Tensor:
    """The activations of one expert's neurons, times its scale if it has one, [tokens, neurons], given its input."""
    neurons, scales = _activations(operands, experts, expert, x), operands.tensor("expert_scale")
    operands.see(CHANNELS, lambda: neurons)
    operands.see(PRODUCT, lambda: _biased(operands, expert, _written(operands, experts, expert, neurons)))
    return neurons if scales is None else neurons * scales[expert]


def _activations(operands: Operands, experts: Experts, expert: int, x: torch.Tensor) -> torch.Tensor:
    rows, gates = experts.of_expert(expert), experts.gates
    gate, up = (operands.linear(projection, x, rows) for projection in ("experts_gate_proj", "experts_up_proj"))
    if gates == Gates():
        return ACTIVATIONS[experts.activation](gate) * up
    if gates.limit is not None:
        gate, up = gate.clamp(max=gates.limit), up.clamp(-gates.limit, gates.limit)
    return gate * (gates.alpha * gate).sigmoid() * (up + gates.offset)


def expert_outputs(operands: Operands, experts: Experts, x: torch.Tensor) -> torch.Tensor:
    """The output of every expert for every token, [tokens, experts, hidden_size], given their input x."""
    written = x.new_empty(len(x), experts.num_experts, operands.hidden_size)
    for expert in range(experts.num_experts):
        neurons = _neurons(operands, experts, expert, x)
        written[:, expert] = _biased(operands, expert, _written(operands, experts, expert, neurons))
    return written


def _biased(operands: Operands, expert: int, written: torch.Tensor) -> torch.Tensor:
    """An expert's output plus its bias, if experts have biases."""
    biases = operands.tensor("experts_output_bias")
    return written if biases is None else written + biases[expert]


def _written(operands: Operands, experts: Experts, expert: int, neurons: torch.Tensor) -> torch.Tensor:
    """The product of one expert's output projection with its neurons [tokens, neurons], [tokens, hidden_size]."""
    return operands.linear(experts.output, neurons, columns=experts.of_expert(expert))
