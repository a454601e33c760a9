"""The importance of each matrix to a model's predictions: how far errors of its outputs move them, and its inputs.

An error E of a matrix adds E x to its output y, which changes the predictions by about KL = 1/2 (E x)ᵀ G (E x), with
G = E[g gᵀ] the Fisher information of the prediction with respect to y: g is the gradient of log p(t) for a token t
drawn from the prediction (Kullback 1959, section 2.6). Of G, the diagonal is taken. G and x vary together: where
the first token of a text has an x that is a hundred times as large, its g is small. So in E[x xᵀ], a token counts by
|g|² (as in Kim et al. 2025, arXiv 2505.07004).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seap_export.model.families import names
from seap_export.model.families.names import Projection
from seap_export.model.layers.batches import Batch, length_buckets
from seap_export.model.layers.hidden_states import HiddenStates, logits, output_stream
from seap_export.model.layers.kept import kept_tensors, path_of, write_tensors
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.working_memory import LOGIT_TOKENS
from seap_export.model.sources.source import Source

#: Tokens whose gradients are taken, and positions of a batch.
INFORMATION_TOKENS, _BATCH_TOKENS = 2048, 512
#: The most of a further text that is taken to be new, since one text alone says nothing of others.
_MOST_NEW = 0.5


@dataclass(frozen=True)
class Information:
    """The importance of a matrix [out, in] to predictions.

    Attributes:
        rows: The diagonal of G, float64 [out]; of an embedding, E[|g|²] at each row times how often it is read.
        moment: E[|g|² x xᵀ] / E[|g|²], float64 [in, in]; the experts of a mixture, which have a part of the columns
            each, have one together. Of an embedding, whose rows are read and not multiplied, E[g gᵀ] / E[|g|²].
    """

    rows: torch.Tensor
    moment: torch.Tensor


@dataclass(frozen=True)
class _Product:
    projection: Projection
    x: torch.Tensor
    product: torch.Tensor
    rows: slice


class _Watched(DecoderLayer):
    """A layer that remembers its products, for gradients with respect to them."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.seen: list[_Product] = []

    def linear(
        self, projection: Projection, x: torch.Tensor, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        product = super().linear(projection, x, rows, columns)
        if torch.is_grad_enabled():
            self.seen.append(_Product(projection, x.detach(), product, rows or slice(None)))
        return product


class _Sums:
    """Sums over the tokens that a matrix sees."""

    def __init__(self, outputs: int, inputs: int, device: torch.device) -> None:
        self._rows = torch.zeros(outputs, dtype=torch.float64, device=device)
        self._moment = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)

    def add(self, rows: slice, gradient: torch.Tensor, x: torch.Tensor) -> None:
        squares, flat = gradient.flatten(0, -2).double().square(), x.flatten(0, -2)
        self._rows[rows] += squares.sum(0)
        weighted = flat * squares.sum(1, keepdim=True).sqrt().float()
        self._moment += (weighted.T @ weighted).double()

    def mean(self, tokens: int) -> Information:
        total = self._rows.sum().clamp_min(torch.finfo(torch.float64).tiny)
        return Information((self._rows / tokens).cpu(), (self._moment / total).cpu())


def information(
    source: Source, texts: Sequence[Sequence[int]], folder: Path, device: torch.device
) -> Iterator[dict[str, Information]]:
    """Yields the information of the matrices by their full names.

    That of the LM head comes first, then that of each layer, the last one first, and then that of the embedding. A
    table that is both comes twice, and what it means is the sum.

    Args:
        folder: An existing folder for the hidden states before each layer.
    """
    batches, spec = length_buckets(_some(texts), _BATCH_TOKENS, device), source.spec
    tokens = sum(batch.num_tokens for batch in batches)
    with torch.no_grad():
        hidden = _forwards(source, batches, folder, device)
    at_head = _AtHead(source, device)
    gradients = [at_head.gradient(stream) for stream in hidden.streams]
    frequencies = _frequencies(texts, at_head.predicted)
    yield at_head.information(tokens, frequencies)
    for index in reversed(range(len(spec.layers))):
        layer = _Watched(spec, index, source.read_layer(index), device)
        sums: dict[str, _Sums] = {}
        before = kept_tensors(path_of(folder, "before", index))
        for number, batch in enumerate(batches):
            gradients[number] = _backward(layer, batch, before[str(number)].to(device), gradients[number], sums)
        del layer
        yield {name: each.mean(tokens) for name, each in sums.items()}
        path_of(folder, "before", index).unlink()
    yield {names.tensor("embed_tokens"): _of_embedding(source, batches, gradients, frequencies)}


def _of_embedding(
    source: Source, batches: Sequence[Batch], gradients: Sequence[torch.Tensor], frequencies: torch.Tensor
) -> Information:
    """The importance of an embedding, whose rows are added to the stream and not multiplied with anything.

    Rare tokens have the larger gradients. So a token's own are averaged with one that is as large as those of tokens
    that come up once.
    """
    size, factor = source.spec.hidden_size, source.spec.block.embedding_multiplier
    moment = torch.zeros(size, size, dtype=torch.float64)
    squares, counts = torch.zeros_like(frequencies), torch.zeros_like(frequencies)
    for batch, gradient in zip(batches, gradients, strict=True):
        at_rows, ids = (gradient[:, :size] * factor).cpu(), batch.input_ids[batch.real].cpu()
        moment += (at_rows.T @ at_rows).double()
        squares.index_add_(0, ids, at_rows.square().sum(1, dtype=torch.float64))
        counts.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float64))
    rare = counts == 1 if (counts == 1).any() else counts > 0
    usual = squares[rare].sum() / counts[rare].sum()
    total = squares.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return Information(frequencies * (squares + usual) / (counts + 1), moment / total)


def _frequencies(texts: Sequence[Sequence[int]], predicted: torch.Tensor) -> torch.Tensor:
    """How often each token comes up in other texts of the task, of all tokens, float64 [vocab_size].

    A further text has as many tokens that the others lack as one of these has that are in no other of them (Good 1953,
    by texts, since a rare token of a text often comes up in it again). They are shared out among the tokens of no text
    by the square roots of the probabilities that the model gives them: by these themselves, the rarest get a fifth of
    what texts have of them (docs/research/method.md).

    Args:
        predicted: The probabilities up to a factor, float64 [vocab_size].
    """
    counts, alone = torch.zeros_like(predicted), torch.full_like(predicted, -1.0)
    for number, text in enumerate(texts):
        ids, times = torch.tensor(text, dtype=torch.int64).unique(return_counts=True)
        alone[ids] = torch.where(counts[ids] == 0, float(number), -1.0).to(alone)
        counts[ids] += times
    new = (counts[alone >= 0].sum() / counts.sum()).clamp_max(_MOST_NEW)
    unseen = torch.where(counts == 0, predicted.sqrt(), 0.0)
    seen = counts / counts.sum()
    return (1 - new) * seen + new * unseen / unseen.sum() if unseen.any() else seen


def _some(texts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The first texts, cut to batches, that have as many tokens as are used."""
    some, left = list[Sequence[int]](), INFORMATION_TOKENS
    for text in texts:
        if left <= 0:
            break
        some.append(text[: min(left, _BATCH_TOKENS)])
        left -= len(some[-1])
    return some


def _forwards(source: Source, batches: Sequence[Batch], folder: Path, device: torch.device) -> HiddenStates:
    """The hidden states behind the last layer; those before each layer are kept in the folder."""
    spec = source.spec
    hidden = HiddenStates.embedded(spec, source.read_embedding(), batches)
    for index in range(len(spec.layers)):
        write_tensors(path_of(folder, "before", index), {str(i): hidden.streams[i] for i in range(len(batches))})
        layer = DecoderLayer(spec, index, source.read_layer(index), device)
        for output in spec.layers[index].outputs:
            hidden.advance(layer, output)
    return hidden


class _AtHead:
    """The gradients at the LM head and before it, and the head's importance."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self._spec, self._norm, self._head, self._device = source.spec, source.read_norm(), source.read_head(), device
        self._generator = torch.Generator().manual_seed(0)
        self._sums = _Sums(self._spec.vocab_size, self._spec.hidden_size, device)
        #: The sums of the probabilities of each token, float64 [vocab_size].
        self.predicted = torch.zeros(self._spec.vocab_size, dtype=torch.float64)

    def gradient(self, hidden: torch.Tensor) -> torch.Tensor:
        """The gradient of log p(t) with respect to the hidden states behind the last layer."""
        rows = []
        for block in hidden.split(LOGIT_TOKENS):
            with torch.enable_grad():
                stream = block.detach().clone().requires_grad_(True)
                normed = output_stream(self._spec, self._norm, stream)
            capped, cap = logits(self._spec, self._head, normed.detach()), self._spec.block.logits_softcap
            p = capped.softmax(-1)
            self.predicted += p.sum(0, dtype=torch.float64).cpu()
            drawn = torch.multinomial(p.cpu(), 1, generator=self._generator).to(p.device)
            # E[g²] over all draws is p (1 - p) at the logits; what goes back is that of one draw
            slope = 1.0 if cap is None else 1 - capped.div_(cap).square_()
            expected = (p * (1 - p)).sqrt_().mul_(slope)
            self._sums.add(slice(None), expected, normed.detach())
            at_logits = p.neg_().scatter_add_(1, drawn, torch.ones_like(drawn, dtype=p.dtype)).mul_(slope)
            rows.append(torch.autograd.grad(normed, stream, self._head.transposed(at_logits))[0])
        return torch.cat(rows)

    def information(self, tokens: int, frequencies: torch.Tensor) -> dict[str, Information]:
        """Of the table that is the LM head, with tokens as frequent as they are in other texts."""
        name = "embed_tokens" if self._spec.tie_word_embeddings else "lm_head"
        mean = self._sums.mean(tokens)
        often = tokens * frequencies / self.predicted.clamp_min(torch.finfo(torch.float64).tiny)
        return {names.tensor(name): Information(mean.rows * often, mean.moment)}


def _backward(
    layer: _Watched, batch: Batch, hidden: torch.Tensor, gradient: torch.Tensor, sums: dict[str, _Sums]
) -> torch.Tensor:
    """Adds what a batch tells of a layer's matrices, and returns the gradient before the layer."""
    layer.seen = []
    with torch.enable_grad():
        leaf = read = after = hidden.clone().requires_grad_(True)
        for sublayer in layer.spec.sublayers:
            read = read if sublayer.beside else after
            _, product = layer.channels_and_product(sublayer.output, read, batch)
            update = layer.update(sublayer.output, product, layer.held(sublayer.output, after))
            after = layer.after(sublayer.output, after, layer.total(sublayer.output, after, update), batch)
        products = [each.product for each in layer.seen]
        before, *at_products = torch.autograd.grad(after, (leaf, *products), gradient, allow_unused=True)
    for each, at_product in zip(layer.seen, at_products, strict=True):
        if at_product is not None:
            name = names.weight(each.projection, layer.index)
            if name not in sums:
                sums[name] = _Sums(len(layer.tensors[name]), each.x.shape[-1], batch.device)
            factor = layer.spec.factor(each.projection)
            sums[name].add(each.rows, at_product * factor, each.x)
    return before
