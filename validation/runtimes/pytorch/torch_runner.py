"""The reference: what the torch model of a folder computes for each prompt alone, without padding.

It runs in float32 with transformers' "eager" attention. That is as exact as "sdpa" (on SmolLM2-135M the logits of both
are within 6e-5 of float64's, 7e-6 on average) and does not choose a kernel by shape and mask.

All sequences go through a layer before the next one is read, so that the model may be larger than memory.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.format import StoredWeights
from seap_export.errors import EnvironmentFailure
from seap_export.model.families import Attention
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.stock_pass import BatchPass
from validation.checkpoint import Change, Checkpoint
from validation.execution import Execution
from validation.runtimes.runner import States

TokenIds = Sequence[int]
#: Called with the place of a sequence and its states in the next layer that has any.
TakeCache = Callable[[int, States], None]
_DEFAULT = Compute()


@dataclass(frozen=True)
class Run:
    """A sequence to run.

    Attributes:
        parts: Token ids, which run one part after the other with a cache. Eager attention materialises [heads, tokens
            of the part, tokens so far], so long sequences take less memory and time in several parts.
        kept: How many tokens at the end to give logits for, at least 1.
        fill: Gives the keys and values of these tokens in the layer of an index.
    """

    parts: Sequence[TokenIds]
    kept: int
    filled: int = 0
    fill: Callable[[int], States] | None = None


class TorchRunner:
    """A torch model that runs sequences without holding more of its weights than there is room for.

    Args:
        attention: transformers' attention implementation; None: the fastest that computes the model.

    Attributes:
        model: A transformers causal language model without weights; hooks on its modules see every sequence.
    """

    def __init__(self, folder: Path, compute: Compute = _DEFAULT, attention: str | None = "eager") -> None:
        self.checkpoint = Checkpoint(folder)
        self.spec = self.checkpoint.spec
        # sdpa knows no soft cap and no sinks, and 4.57 leaves a cap out without a word
        self._fastest = None if self.spec.first(Attention).is_usual_softmax else "eager"
        self._stock = self.checkpoint.stock(attention or self._fastest, compute.device)
        self.model = self._stock.model
        self._number = len(self.spec.layers)
        self._limit = compute.memory if compute.is_cpu else compute.device_memory
        largest = max(map(self.checkpoint.bytes_of, range(self._number)))
        self._room = max(0, self._limit - self.checkpoint.outer_bytes - 2 * largest)  # one is read, another computes
        self._loaded: dict[int, int] = {}

    def run(self, runs: Sequence[Run], take_cache: TakeCache | None = None) -> Iterator[NDArray[np.float32]]:
        """The logits of each sequence, float32 [kept, vocab_size], after all have passed all layers.

        A layer's states are shown and released before the next layer is read: in each layer the first sequence's, the
        second's and so on. Sequences whose hidden states do not fit together take several passes.
        """
        for block in self.blocks([self.passing_bytes(sum(map(len, run.parts))) for run in runs]):
            parts = [[torch.tensor([list(part)]) for part in runs[number].parts] for number in block]
            passages = self.start(parts, empty=[self._begun(runs[number]) for number in block])

            def show(number: int, index: int, passages: Sequence[BatchPass] = passages, first: int = block[0]) -> None:
                states = passages[number].take(index)
                if take_cache is not None:
                    take_cache(first + number, {state: _float32(array[0]) for state, array in states.items()})

            self.pass_layers(passages, show, keep=block.stop < len(runs))
            with self.head():
                for number, passage in zip(block, passages, strict=True):
                    yield self._kept_logits(passage, runs[number])

    def _begun(self, run: Run) -> BatchPass:
        """A sequence without tokens of its own, behind those of its cache."""
        passage, fill = self._stock.empty(), run.fill
        if run.filled and fill is not None:
            passage.length = run.filled
            passage.fill = lambda index: [torch.from_numpy(array)[None] for array in fill(index).values()]
        return passage

    def start(
        self,
        batches: Sequence[Sequence[torch.Tensor]],
        *,
        cached: bool = True,
        empty: Sequence[BatchPass] | None = None,
    ) -> list[BatchPass]:
        """Embeds sequences, whose parts are int64 [batch, tokens] each, behind a cache; None: there is none."""
        passages = [self._stock.empty() for _ in batches] if empty is None else list(empty)
        self._append(passages, batches, cached)
        return passages

    def pass_layers(
        self, passages: Sequence[BatchPass], show: Callable[[int, int], None] | None = None, *, keep: bool = False
    ) -> None:
        """Passes sequences through all layers.

        Args:
            show: Called with the place of a sequence and the index of a layer that it has passed.
        """
        for index in range(self._number):
            if index not in self._loaded:
                self._stock.load(index, self.checkpoint.layer(index))
                self._loaded[index] = self.checkpoint.bytes_of(index)
            for number, passage in enumerate(passages):
                self._stock.advance(index, passage)
                if show is not None:
                    show(number, index)
            if not keep or sum(self._loaded.values()) > self._room // 2:
                self._release(index)

    @contextlib.contextmanager
    def head(self) -> Iterator[None]:
        """Keeps the last norm and the LM head loaded while the context lasts; `logits` needs them."""
        for name in self.checkpoint.after_layers:
            self._stock.load_outer(name, self.checkpoint.outer(name))
        try:
            yield
        finally:
            for name in self.checkpoint.after_layers:
                self._stock.load_outer(name, None)

    def logits(self, hidden: torch.Tensor) -> NDArray[np.float32]:
        """Computes logits, float32 [batch, tokens, vocab_size], from hidden states after the last layer."""
        return _float32(self._stock.logits(hidden))

    def continuations(
        self, prompts: Sequence[TokenIds], steps: int, stops: Collection[int] = ()
    ) -> list[tuple[int, ...]]:
        """Up to `steps` tokens that follow each prompt, each the most likely one, as far as the first of `stops`.

        All prompts take a step together, because the layers may have to be read for it.
        """
        following: list[list[int]] = [[] for _ in prompts]
        passages = self.start([[torch.tensor([list(prompt)])] for prompt in prompts])
        going = list(range(len(prompts)))
        with self.head():
            while going:
                self.pass_layers([passages[number] for number in going], keep=True)
                last = [self.logits(self._stock.finish(passages[number])[-1][:, -1:]) for number in going]
                for number, logits in zip(list(going), last, strict=True):
                    token = int(logits.argmax())
                    if token in stops or len(following[number]) == steps:
                        going.remove(number)
                    else:
                        following[number].append(token)
                new = [[torch.tensor([[following[number][-1]]])] for number in going]
                self._append([passages[number] for number in going], new, cached=True)
        return [tuple(tokens) for tokens in following]

    def extend(self, passage: BatchPass, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Appends tokens to sequences, with their cache, and passes them through all layers.

        Layers stay loaded as far as there is room; `head` must be open for the logits.

        Args:
            input_ids: int64 [batch, tokens].
            mask: int64 [batch, tokens so far and new ones], 0 for padding on the left; None: there is none.

        Returns:
            The hidden states after the last layer, [batch, tokens, hidden_size].
        """
        self._append([passage], [[input_ids]], cached=True, mask=mask)
        self.pass_layers([passage], keep=True)
        return self._stock.finish(passage)[-1]

    def use_attention(self, name: str) -> None:
        """Switches to an attention implementation of transformers', if the class has it and it computes the model."""
        with contextlib.suppress(ValueError):  # a class may refuse it; Gemma 2's does even without a soft cap
            self.model.set_attn_implementation(self._fastest or name)

    def change_weights(self, change: Change) -> None:
        for index in list(self._loaded):
            self._release(index)
        self.checkpoint.change(change)

    def whole_model(self) -> Any:
        """The model with all of its weights, to be timed."""
        needed = 4 * self.spec.num_parameters()
        if needed > self._limit:
            raise EnvironmentFailure(
                f"{self.checkpoint.folder}: torch needs {needed / 1e9:.1f} GB for the whole model in float32, and "
                f"{self._limit / 1e9:.1f} GB are free; use a machine with more memory, or measure ONNX Runtime alone"
            )
        for index in range(self._number):
            self._stock.load(index, self.checkpoint.layer(index))
            self._loaded[index] = self.checkpoint.bytes_of(index)
        for name in (*self.checkpoint.after_layers, *self.spec.embedding_names[1:]):
            self._stock.load_outer(name, self.checkpoint.outer(name))
        if self._stock.is_tied:
            self._stock.load_outer("embed_tokens", self.model.get_output_embeddings().weight)
        else:
            self._stock.load_outer("embed_tokens", self.checkpoint.outer("embed_tokens"))
        return self.model

    def _release(self, index: int) -> None:
        self._stock.release(index)
        del self._loaded[index]

    def _append(
        self,
        passages: Sequence[BatchPass],
        batches: Sequence[Sequence[torch.Tensor]],
        cached: bool,
        mask: torch.Tensor | None = None,
    ) -> None:
        """Embeds parts behind the sequences so far; of token tables, only the rows of their tokens are read."""
        if not batches:
            return
        vocabulary = torch.cat([part.flatten() for parts in batches for part in parts]).unique()
        for name in self.spec.token_tables:
            self._stock.load_outer(name, self.checkpoint.rows(name, vocabulary))
        for name in set(self.spec.embedding_names) - set(self.spec.token_tables):
            self._stock.load_outer(name, self.checkpoint.outer(name))
        for passage, parts in zip(passages, batches, strict=True):
            for part in parts:
                self._stock.append(passage, torch.searchsorted(vocabulary, part), cached=cached, mask=mask)
        for name in self.spec.token_tables:
            self._stock.load_outer(name, None)

    def _kept_logits(self, passage: BatchPass, run: Run) -> NDArray[np.float32]:
        behind, logits = sum(map(len, run.parts)), []
        for part, hidden in zip(run.parts, self._stock.finish(passage), strict=True):
            behind -= len(part)
            wanted = min(len(part), run.kept - behind)
            if wanted > 0:
                logits.append(self.logits(hidden[:, -wanted:])[0])
        return np.concatenate(logits)

    def blocks(self, sizes: Sequence[int]) -> Iterator[range]:
        """Sequences that fit together, given the bytes that each takes on its way."""
        start, taken = 0, 0
        for number, size in enumerate(sizes):
            if taken + size > self._room // 2 and number > start:
                yield range(start, number)
                start, taken = number, 0
            taken += size
        if sizes:
            yield range(start, len(sizes))

    def passing_bytes(self, tokens: int) -> int:
        """About what a sequence takes on its way: hidden states, rotations, and masks for all and within windows."""
        return 4 * tokens * (2 * self.spec.hidden_size + 4 * self.spec.head_dim + 2 * tokens)


def _float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


@contextlib.contextmanager
def open_torch_runner(
    folder: Path,
    execution: Execution = Execution(),  # noqa: B008 - frozen
    *,
    change: Change | None = None,
    stored: StoredWeights | None = None,
    attention: str | None = "eager",
) -> Iterator[TorchRunner]:
    """Opens a model folder; frees what is in memory when the context ends.

    Args:
        change: The change that is made to the weights; None: none.
        stored: The weights of a written file, which are read in place of the folder's; None: the folder's.
        attention: transformers' attention implementation; None: the fastest that computes the model.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(execution.thread_count)
    try:
        runner = TorchRunner(folder, execution.torch_compute, attention)
        if stored is not None:
            runner.checkpoint.read_from(stored)
        if change is not None:
            runner.change_weights(change)
        yield runner
        del runner
    finally:
        gc.collect()
        torch.set_num_threads(before)
