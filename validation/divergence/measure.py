"""Measures how far a variant's predictions are from the dense model's, on texts not used in calibration.

KL(dense || variant) = sum over the vocabulary of P * (log P - log Q), for the distribution after every token of a
text, in nats. Perplexity is exp of the mean of -log P(next token | tokens before it), over all tokens of all texts
but the first of each. Both models get the same tokens, one text at a time; torch runs in float32.

The dense model runs first, a layer at a time, and is released. Its logits are kept in a temporary file for any number
of variants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, InputError
from validation.array_store import ArrayStore, StoredArray
from validation.divergence.paired import CutFigures, PairedText, PerByte, cut_figures, lost_mass, per_byte, same_cut
from validation.estimate import Estimate, TokenEstimate
from validation.execution import Execution
from validation.metrics import Defect, LogitComparison
from validation.runtimes.pytorch.torch_runner import Run, TorchRunner, open_torch_runner
from validation.runtimes.table import REFERENCE, open_runtime
from validation.session_memory import Calls, claim_memory

__all__ = [
    "DenseAnswers",
    "DenseReference",
    "DivergenceFigures",
    "claim_texts",
    "continue_prompt",
    "measure_divergence",
    "measure_divergences",
]

TokenIds = tuple[int, ...]
Alternatives = tuple[TokenIds, ...]
Progress = Callable[[str], object]
#: Number of logits held in float64 at once.
_CHUNK_ELEMENTS = 2**20
#: Tokens that make an answer.
_LEAST_ANSWER = 3
_EXECUTION = Execution()


def claim_texts(
    folder: Path,
    texts: Iterable[TokenIds],
    execution: Execution = _EXECUTION,
    say: Progress = lambda line: None,
) -> bool:
    """Claims the memory for an `onnx` folder that runs texts one at a time, as `claim_memory` does.

    To be called before the dense model runs, which takes long.
    """
    return claim_memory(folder / "model.onnx", _calls(texts), execution, say)


def _calls(texts: Iterable[TokenIds]) -> list[Calls]:
    """What a runtime is asked for that runs texts one at a time."""
    longest = max(map(len, texts))
    return [Calls(1, longest, longest)]


@dataclass(frozen=True)
class DivergenceFigures:
    """How far a variant's predictions are from the dense model's.

    Attributes:
        kl: KL(dense || variant), nats per token.
        top1_agreement: Share of tokens, 0 to 1, after which both models predict the same most likely token.
        top1_stderr: Its standard error over the texts; None: of one text there is none.
        perplexity: Perplexity of the variant.
        dense_perplexity: Perplexity of the dense model.
        loss: By how much -log P(next token) of the variant exceeds that of the dense model, nats per token; None: they
            cut a text into different numbers of tokens.
        per_byte: Figures that do not depend on the tokens; None: the lengths of the texts were not given.
        cut: What a cut vocabulary costs; None: the variant has all tokens.
    """

    kl: TokenEstimate
    top1_agreement: float
    perplexity: float
    dense_perplexity: float
    loss: Estimate | None = None
    top1_stderr: float | None = None
    per_byte: PerByte | None = None
    cut: CutFigures | None = None

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ValueError("a divergence needs at least two tokens")
        if not min(self.kl.mean, self.kl.max) >= 0.0 or not 0.0 <= self.top1_agreement <= 1.0:
            raise ValueError("a divergence must be at least 0, an agreement from 0 to 1")
        if not self.perplexity >= 1.0 or not self.dense_perplexity >= 1.0:
            raise ValueError("a perplexity must be at least 1")

    @property
    def tokens(self) -> int:
        """Number of tokens after which the distributions were compared."""
        return self.kl.tokens


@dataclass(frozen=True)
class DenseReference:
    """What the dense model predicts for some texts; valid while its `DenseAnswers` are open.

    Attributes:
        token_ids: The tokens of each text.
        perplexity: The dense model's perplexity on them.
        losses: Of each text the sum of its -log P(next token), nats.
    """

    token_ids: tuple[TokenIds, ...]
    perplexity: float
    losses: tuple[float, ...]
    _store: ArrayStore
    _stored: tuple[StoredArray, ...]

    def logits(self, index: int) -> NDArray[np.float32]:
        """The dense model's logits after each of a text's T tokens, float32 [T, V]."""
        return self._store.get(self._stored[index])


@dataclass(frozen=True)
class _Answer:
    """The dense model's logits of one text, and the sum of -log P(next token) over it, nats."""

    logits: StoredArray
    loss: float


class DenseAnswers:
    """What the dense model says about texts and prompts. Each is computed once, for any number of variants.

    Logits wait in the temporary folder, 4 bytes each; layers are in memory only while `run` is running.

    Args:
        folder: config.json and safetensors files of the dense model.
        execution: Where torch runs.
    """

    def __init__(self, folder: Path, execution: Execution = _EXECUTION) -> None:
        self._folder, self._execution = folder, execution
        self._store = ArrayStore()
        self._texts: dict[TokenIds, _Answer] = {}
        self._answered: dict[Alternatives, tuple[TokenIds, TokenIds]] = {}

    def __enter__(self) -> DenseAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.__exit__(kind, error, trace)

    def run(
        self,
        texts: Sequence[TokenIds] = (),
        prompts: Sequence[Alternatives] = (),
        steps: int = 0,
        stops: Collection[int] = (),
        on_progress: Progress | None = None,
    ) -> None:
        """Runs the dense model over what it has not seen yet.

        Args:
            texts: The tokens of each text, for `reference`.
            prompts: For `answer`, the tokens of alternative prompts, of which the first is taken that the model has
                something to say to.
            steps: The most tokens that follow a prompt, greedily.
            stops: Tokens that end an answer.
            on_progress: Called with a line about each text when it is done.

        Raises:
            InputError: The dense model gives NaN or infinite logits.
            ArtifactError: The folder cannot be loaded.
            EnvironmentFailure: The temporary folder is full.
        """
        say = on_progress or (lambda line: None)
        new_texts = [ids for ids in dict.fromkeys(texts) if ids not in self._texts]
        new_prompts = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._answered]
        if not new_texts and not new_prompts:
            return
        with open_torch_runner(self._folder, self._execution) as runner:
            runs = runner.run([Run([ids], len(ids)) for ids in new_texts])
            for index, (ids, logits) in enumerate(zip(new_texts, runs, strict=True)):
                if not np.isfinite(logits).all():
                    raise InputError(
                        f"the dense model gives NaN or infinite logits for text {index}; use another model or corpus"
                    )
                loss = _text_loss(logits, ids)
                self._texts[ids] = _Answer(self._store.put(logits), loss)
                say(f"dense: text {index + 1} of {len(new_texts)}")
            self._continue(runner, new_prompts, steps, stops)

    def _continue(
        self, runner: TorchRunner, prompts: Sequence[Alternatives], steps: int, stops: Collection[int]
    ) -> None:
        """Continues the first alternative of all prompts together, then the second of those without an answer."""
        open_prompts = list(prompts)
        for number in range(max(map(len, prompts), default=0)):
            open_prompts = [alternatives for alternatives in open_prompts if number < len(alternatives)]
            following = runner.continuations([alternatives[number] for alternatives in open_prompts], steps, stops)
            for alternatives, tokens in zip(open_prompts, following, strict=True):
                self._answered[alternatives] = alternatives[number], tokens
            open_prompts = [
                alternatives for alternatives in open_prompts if len(self._answered[alternatives][1]) < _LEAST_ANSWER
            ]

    def reference(self, texts: Sequence[TokenIds]) -> DenseReference:
        """The answers for texts that were run.

        Raises:
            InputError: No text has a token to predict.
        """
        token_ids = tuple(texts)
        predicted = sum(len(ids) - 1 for ids in token_ids)
        if not all(token_ids) or not predicted:
            raise InputError("the evaluated texts have no token to predict; give longer texts")
        answers = [self._texts[ids] for ids in token_ids]
        losses = tuple(answer.loss for answer in answers)
        stored = tuple(answer.logits for answer in answers)
        return DenseReference(token_ids, _perplexity(math.fsum(losses), predicted), losses, self._store, stored)

    def answer(self, prompts: Alternatives) -> tuple[TokenIds, TokenIds]:
        """The prompt taken of some alternatives that were run, and the tokens with which the model continues it."""
        return self._answered[prompts]


def measure_divergence(
    reference: DenseReference,
    folder: Path,
    runtime: str = REFERENCE,
    *,
    texts: Sequence[PairedText] | None = None,
    kept: NDArray[np.int64] | None = None,
    execution: Execution = _EXECUTION,
    on_progress: Progress | None = None,
) -> DivergenceFigures:
    """Runs a variant on the reference's texts and compares its predictions.

    Args:
        reference: The dense model's predictions.
        folder: The variant's `hf` folder, or one of another format.
        runtime: What runs it.
        texts: The same texts as the tokens of both; None: the variant gets the tokens of the reference.
        kept: The dense model's ids of the tokens that the variant has; None: all. Its distributions are then
            restricted to these tokens.
        execution: Where it runs.
        on_progress: Called with a line about each text when it is done.

    Raises:
        ArtifactError: The folder cannot be loaded, or the variant's logits are NaN, infinite or of the wrong shape.
        ParityFailure: The ONNX graph does not run.
    """
    pairs = tuple(texts or map(same_cut, reference.token_ids))
    options: Any = {"kept": kept, "execution": execution, "on_progress": on_progress}
    return measure_divergences([(reference, pairs)], folder, runtime, **options)[0]


def measure_divergences(
    sets: Sequence[tuple[DenseReference, Sequence[PairedText]]],
    folder: Path,
    runtime: str = REFERENCE,
    *,
    kept: NDArray[np.int64] | None = None,
    execution: Execution = _EXECUTION,
    on_progress: Progress | None = None,
) -> tuple[DivergenceFigures, ...]:
    """The same for several sets of texts, in which each distinct text runs once.

    Args:
        sets: The dense model's predictions for each set, and its texts as the tokens of both.

    The other arguments, and what is raised, are those of `measure_divergence`.
    """
    say = on_progress or (lambda line: None)
    compared: dict[tuple[tuple[TokenIds, TokenIds], ...], _Compared] = {}
    by_set = [compared.setdefault(_key(pairs), _Compared(reference, pairs, kept)) for reference, pairs in sets]
    texts = tuple(dict.fromkeys(pair.variant for _, pairs in sets for pair in pairs))
    with _logits(texts, folder, runtime, execution) as all_logits:
        for index, (ids, logits) in enumerate(zip(texts, all_logits, strict=True)):
            for one in compared.values():
                if (defect := one.add(ids, logits)) is not None:
                    raise ArtifactError(f"{folder}: {defect} for text {index}; export the variant again")
            say(f"{runtime}: text {index + 1} of {len(texts)}")
    return tuple(one.figures() for one in by_set)


def _key(pairs: Sequence[PairedText]) -> tuple[tuple[TokenIds, TokenIds], ...]:
    return tuple((pair.dense, pair.variant) for pair in pairs)


class _Compared:
    """The comparison on one set of texts."""

    def __init__(self, reference: DenseReference, pairs: Sequence[PairedText], kept: NDArray[np.int64] | None) -> None:
        self._reference, self._pairs, self._kept = reference, tuple(pairs), kept
        self._comparison, self._lost = LogitComparison(), 0.0
        self._losses: dict[int, float] = {}

    def add(self, ids: TokenIds, logits: NDArray[np.floating]) -> str | None:
        """Adds the variant's logits [T, V] of a text as often as the set has it; what is wrong with them, in words."""
        rows = [row for row, pair in enumerate(self._pairs) if pair.variant == ids]
        for row in rows:
            self._add(row, logits)
        if defects := self._comparison.defects:
            return _in_words(defects[0])
        return None if all(math.isfinite(self._losses[row]) for row in rows) else "NaN or infinite logits"

    def _add(self, row: int, logits: NDArray[np.floating]) -> None:
        pair, dense, variant = self._pairs[row], self._reference.logits(row), logits
        if self._kept is not None:
            self._lost += lost_mass(dense[pair.positions[:, 0]], self._kept)
            dense = dense[pair.positions[:, 0]][:, self._kept]
            variant = logits[pair.positions[:, 1]] if len(logits) == len(pair.variant) else logits
        self._comparison.update(dense, variant, row=row)
        self._losses[row] = _text_loss(logits, pair.variant)

    def figures(self) -> DivergenceFigures:
        """The figures of all texts."""
        figures, kept = self._comparison.figures(), self._kept
        kl, top1 = figures.kl, figures.top1_agreement
        if kl is None or top1 is None:
            raise ValueError("no finite token although no defect was found")
        dense, losses = self._reference.losses, [self._losses[row] for row in range(len(self._pairs))]
        loss, predicted = math.fsum(losses), sum(len(pair.variant) - 1 for pair in self._pairs)
        return DivergenceFigures(
            kl=kl,
            top1_agreement=top1,
            top1_stderr=figures.top1_stderr,
            perplexity=_perplexity(loss, predicted),
            dense_perplexity=self._reference.perplexity,
            loss=self._more_loss(losses),
            per_byte=per_byte(self._pairs, kl.mean * kl.tokens, loss, math.fsum(dense)),
            cut=None if kept is None else cut_figures(self._pairs, len(kept), self._lost / kl.tokens),
        )

    def _more_loss(self, losses: Sequence[float]) -> Estimate | None:
        """What the variant loses more than the dense model, text by text."""
        if any(len(pair.variant) != len(pair.dense) for pair in self._pairs):
            return None
        more = [one - dense for one, dense in zip(losses, self._reference.losses, strict=True)]
        return Estimate.of_sums(more, [len(pair.variant) - 1 for pair in self._pairs])


def continue_prompt(
    folder: Path,
    runtime: str,
    prompt: TokenIds,
    steps: int,
    stops: Collection[int] = (),
    *,
    execution: Execution = _EXECUTION,
) -> TokenIds:
    """Up to `steps` tokens with which a variant continues a prompt, the most likely ones, before the first of `stops`.

    Args:
        folder: The variant's folder.
        runtime: What runs it.
        prompt: Token ids.
        steps: The most tokens that follow.
        stops: Tokens that end an answer.
        execution: Where it runs.

    Raises:
        ArtifactError: The folder cannot be loaded.
        EnvironmentFailure: The runtime, or memory, is missing.
        ParityFailure: The model does not run.
    """
    tokens = len(prompt)
    calls = [Calls(1, tokens, tokens + steps)]
    following: list[int] = []
    with closing(open_runtime(runtime, folder, execution, calls=calls)) as runner:
        last = runner.prefill(np.asarray([prompt], np.int64), [tokens], steps)[0, -1]
        while len(following) < steps and (token := int(last.argmax())) not in stops:
            following.append(token)
            last = runner.step([token])[0]
    return tuple(following)


@contextmanager
def _logits(
    texts: Sequence[TokenIds], folder: Path, runtime: str, execution: Execution
) -> Iterator[Iterator[NDArray[np.floating]]]:
    """The logits [T, V] of each text."""
    if runtime == REFERENCE:
        with open_torch_runner(folder, execution) as torch_runner:
            yield torch_runner.run([Run([ids], len(ids)) for ids in texts])
        return
    with closing(open_runtime(runtime, folder, execution, "scored", _calls(texts))) as runner:
        yield (runner.prefill(np.asarray([ids], np.int64), [len(ids)])[0] for ids in texts)


def _in_words(defect: Defect) -> str:
    return defect.detail or f"{'NaN' if defect.kind == 'nan' else 'infinite'} logits"


def _text_loss(logits: NDArray[np.floating], ids: TokenIds) -> float:
    """The sum of -log P(next token) of a text of T tokens with its logits [T, V], nats, in float64."""
    step = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    losses = []
    for start in range(0, len(ids) - 1, step):
        targets = np.asarray(ids[start + 1 : start + 1 + step])
        block = np.asarray(logits[start : start + len(targets)], np.float64)
        largest = block.max(axis=1)
        log_sum = largest + np.log(np.exp(block - largest[:, None]).sum(axis=1))
        losses += (log_sum - block[np.arange(len(targets)), targets]).tolist()
    return math.fsum(losses)


def _perplexity(loss: float, tokens: int) -> float:
    """exp of the mean loss of a token, which is capped at 700 so that exp stays finite."""
    return math.exp(min(loss / tokens, 700.0))
