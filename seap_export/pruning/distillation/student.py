"""One training step of a shrunk model: forwards through its layers, and back with their gradients."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.hidden_states import HiddenStates
from seap_export.model.layers.kept import kept_tensors, path_of, write_tensors
from seap_export.model.layers.layer import DecoderLayer
from seap_export.pruning.distillation.adam import Adam
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.objectives import Objective
from seap_export.pruning.distillation.texts import TrainingStep


class Student:
    """A model that is trained.

    All matrices of the layers are trained; norms, biases, embedding and LM head stay. Memory holds one layer and its
    gradients, besides what `layers` holds.
    """

    def __init__(
        self, spec: ModelSpec, embedding: Embedding, layers: TrainedLayers, folder: Path, device: torch.device
    ) -> None:
        self._spec, self._embedding, self._layers, self._folder, self._device = spec, embedding, layers, folder, device

    def train(self, step: TrainingStep, objective: Objective, adam: Adam) -> float:
        """Changes all layers, and returns the mean loss before, in nats per token, by the tokens' weights.

        If it is not finite, none changes.
        """
        loss, gradients = 0.0, []
        for batch_index, stream, weights in zip(step.batch_indices, self.outputs(step), step.weights, strict=True):
            batch_loss, gradient = objective.at_end(batch_index, stream, weights)
            loss += batch_loss
            gradients.append(gradient)
        if not math.isfinite(loss):
            return loss
        for index in reversed(range(len(self._spec.layers))):
            gradients = self._backwards(index, step.batches, gradients, adam, loss)
        return loss

    def _before(self, index: int) -> Path:
        return path_of(self._folder, "before", index)

    @torch.no_grad()
    def outputs(self, step: TrainingStep) -> list[torch.Tensor]:
        """The stream after the last layer, for each batch; keeps those before each layer for the way back."""
        hidden = HiddenStates.embedded(self._spec, self._embedding, step.batches)
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
