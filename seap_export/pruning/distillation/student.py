"""One training step of a shrunk model: forwards through its layers, and back with their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.head import Head
from seap_export.model.layers.hidden_states import HiddenStates, log_predictions, logits, output_stream
from seap_export.model.layers.kept import kept_tensors, path_of, write_tensors
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.streams import Streams
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.layers.working_memory import LOGIT_TOKENS
from seap_export.pruning.distillation.adam import Adam
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.texts import TrainingStep


@dataclass(frozen=True)
class OuterTensors:
    """The tensors outside the layers, which the dense and the shrunk model share."""

    embedding: Embedding
    norm: Norm
    head: Head


class Student:
    """A shrunk model that learns the dense model's predictions.

    The loss is KL(dense || shrunk), the mean over the tokens of a step, by their weights. All matrices of the layers
    are trained; norms, biases, embedding and LM head stay. Memory holds one layer and its gradients, besides what
    `layers` holds.
    """

    def __init__(
        self, spec: ModelSpec, outer: OuterTensors, layers: TrainedLayers, folder: Path, device: torch.device
    ) -> None:
        self._spec, self._outer, self._layers, self._folder, self._device = spec, outer, layers, folder, device

    def train(self, step: TrainingStep, targets: Streams, adam: Adam) -> float:
        """Changes all layers, and returns the mean KL before, in nats per token; if it is not finite, none changes."""
        with torch.no_grad():
            outputs = self._forwards(step)
        loss, gradients = 0.0, []
        for batch_index, stream, weights in zip(step.batch_indices, outputs, step.weights, strict=True):
            batch_loss, gradient = self._at_end(stream, targets[batch_index], weights)
            loss += batch_loss
            gradients.append(gradient)
        if not math.isfinite(loss):
            return loss
        for index in reversed(range(len(self._spec.layers))):
            gradients = self._backwards(index, step.batches, gradients, adam, loss)
        return loss

    def _before(self, index: int) -> Path:
        return path_of(self._folder, "before", index)

    def _forwards(self, step: TrainingStep) -> list[torch.Tensor]:
        """Keeps the stream before each layer, and returns that after the last, for each batch."""
        hidden = HiddenStates.embedded(self._spec, self._outer.embedding, step.batches)
        for index in range(len(self._spec.layers)):
            write_tensors(
                self._before(index), {str(batch_index): stream for batch_index, stream in enumerate(hidden.streams)}
            )
            tensors = self._layers[index]
            weights = {name: tensors[name] for name in self._spec.layer_tensors(index)}
            layer = DecoderLayer(self._spec, index, weights, self._device)
            for output in self._spec.layers[index].outputs:
                hidden.advance(layer, output)
        return list(hidden.streams)

    def _at_end(self, stream: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The weighted sum of KL over a batch, and its gradient with respect to the stream after the last layer.

        With u the logits before they are capped, the gradient at u is q - p, q the shrunk and p the dense prediction,
        times the cap's derivative.
        """
        spec, head, cap = self._spec, self._outer.head, self._spec.block.logits_softcap
        loss, rows = 0.0, []
        for block, wanted, weight in zip(
            *(values.split(LOGIT_TOKENS) for values in (stream, target, weights)), strict=True
        ):
            with torch.enable_grad():
                leaf = block.detach().requires_grad_(True)
                normed = output_stream(spec, self._outer.norm, leaf)
            capped, weight = logits(spec, head, normed.detach()), weight.to(block.device)
            log_q, log_p = capped.log_softmax(-1), log_predictions(spec, self._outer.norm, head, wanted)
            p = log_p.exp()
            loss += float((weight.double() * (p * (log_p - log_q)).sum(-1).double()).sum())
            at_logits = log_q.exp_().sub_(p).mul_(weight[:, None])
            if cap is not None:
                at_logits *= 1 - capped.div_(cap).square_()
            rows.append(torch.autograd.grad(normed, leaf, head.transposed(at_logits))[0])
        return loss, torch.cat(rows)

    def _backwards(
        self, index: int, batches: tuple[Batch, ...], gradients: list[torch.Tensor], adam: Adam, loss: float
    ) -> list[torch.Tensor]:
        """Changes one layer, given the gradients after it, and returns those before it."""
        tensors, before = self._layers[index], kept_tensors(self._before(index))
        stored = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        model = {name: stored[name] for name in self._spec.layer_tensors(index)}
        matrices = {name: one for name, one in model.items() if one.dim() == 2 and name.endswith(".weight")}
        trained = {name: weight.requires_grad_(True) for name, weight in matrices.items()}
        layer = DecoderLayer(self._spec, index, model, self._device)
        sums = {name: torch.zeros_like(weight) for name, weight in trained.items()}
        before_layer = []
        for batch_index, (batch, gradient) in enumerate(zip(batches, gradients, strict=True)):
            with torch.enable_grad():
                leaf = after = read = before[str(batch_index)].to(self._device).requires_grad_(True)
                for sublayer in self._spec.layers[index].sublayers:
                    read = read if sublayer.beside else after
                    _, product = layer.channels_and_product(sublayer.output, read, batch)
                    update = layer.update(sublayer.output, product, layer.held(sublayer.output, after))
                    total = layer.total(sublayer.output, after, update)
                    after = layer.after(sublayer.output, after, total, batch)
                at_before, *at_weights = torch.autograd.grad(after, (leaf, *trained.values()), gradient)
            for total, part in zip(sums.values(), at_weights, strict=True):
                total += part
            before_layer.append(at_before)
        for weight in trained.values():
            weight.requires_grad_(False)
        adam.update(stored, sums, loss)
        self._layers.change(index, {name: tensor.cpu() for name, tensor in stored.items()})
        return before_layer
