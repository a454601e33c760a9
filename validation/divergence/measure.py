"""Measures how far a variant's predictions are from the dense model's, on texts not used in calibration.

KL(dense || variant) = sum over the vocabulary of P * (log P - log Q), for the distribution after every token of a
text, in nats. If the variant lacks tokens, and P gives the others m together, P' = P / m is the nearest to P that it
could be, at KL(P' || P) = -log m, and the figure is KL(P' || Q) - log m. Perplexity is exp of the mean of -log P(next
token | tokens before it), over all tokens of all texts but the first of each. Both models get the same text, one at a
time; torch runs in float32.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError
from validation.divergence.dense import DenseReference, perplexity_of, text_loss
from validation.divergence.paired import (
    CutFigures,
    PairedText,
    PerByte,
    TokenIds,
    cut_figures,
    per_byte,
    same_cut,
)
from validation.estimate import Estimate, TokenEstimate
from validation.execution import Execution, Say
from validation.metrics import Defect, LogitComparison
from validation.runtimes.pytorch.torch_runner import Run, open_torch_runner
from validation.runtimes.table import REFERENCE, claim_runtime, open_runtime
from validation.session_memory import Calls

_EXECUTION = Execution()


def claim_texts(
    runtime: str,
    folder: Path,
    texts: Iterable[TokenIds],
    execution: Execution = _EXECUTION,
    say: Say = lambda line: None,
) -> None:
    """Claims the memory for a folder whose runtime runs texts one at a time, as `claim_runtime` does.

    To be called before the dense model runs, which takes long.
    """
    if runtime != REFERENCE:
        claim_runtime(runtime, folder, _calls(texts), execution, say)


def _calls(texts: Iterable[TokenIds]) -> list[Calls]:
    """The size of the calls of a runtime that runs texts one at a time."""
    longest = max(map(len, texts))
    return [Calls(1, longest, longest)]


@dataclass(frozen=True)
class DivergenceFigures:
    """How far a variant's predictions are from the dense model's.

    Attributes:
        kl: KL(dense || variant), nats per token of the dense model, with what dropped tokens lose.
        top1_agreement: Share of tokens, 0 to 1, after which both models predict the same most likely token.
        top1_stderr: Standard error of `top1_agreement` over the texts; None for a single text.
        loss: By how much -log P(next token) of the variant exceeds that of the dense model, nats per token; None: they
            cut a text into different numbers of tokens.
        per_byte: Figures that do not depend on the tokens; None: the lengths of the texts were not given.
        cut: The cost of a cut vocabulary; None: the variant has all tokens.
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


def measure_divergence(
    reference: DenseReference,
    folder: Path,
    runtime: str = REFERENCE,
    *,
    texts: Sequence[PairedText] | None = None,
    kept: NDArray[np.int64] | None = None,
    execution: Execution = _EXECUTION,
    on_progress: Say | None = None,
) -> DivergenceFigures:
    """Runs a variant on the reference's texts and compares its predictions.

    Args:
        reference: The dense model's predictions.
        folder: The variant's `hf` folder, or one of another format.
        runtime: Name of the runtime that runs it.
        texts: The reference's texts as the tokens of both models; None: the variant gets the reference's tokens.
        kept: The dense model's ids of the tokens that the variant has; None: all.
        execution: Provider, threads and memory of the run.
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
    on_progress: Say | None = None,
) -> tuple[DivergenceFigures, ...]:
    """Measures the divergence on several sets of texts, as `measure_divergence` does; each distinct text runs once.

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
            for comparison in compared.values():
                if (defect := comparison.add(ids, logits)) is not None:
                    raise ArtifactError(f"{folder}: {defect} for text {index}; export the variant again")
            say(f"{runtime}: text {index + 1} of {len(texts)}")
    return tuple(comparison.figures() for comparison in by_set)


def _key(pairs: Sequence[PairedText]) -> tuple[tuple[TokenIds, TokenIds], ...]:
    return tuple((pair.dense, pair.variant) for pair in pairs)


class _Compared:
    """Compares a variant's logits with the dense model's on one set of texts."""

    def __init__(self, reference: DenseReference, pairs: Sequence[PairedText], kept: NDArray[np.int64] | None) -> None:
        self._reference, self._pairs, self._kept = reference, tuple(pairs), kept
        self._comparison = LogitComparison(kept)
        self._losses: dict[int, float] = {}

    def add(self, ids: TokenIds, logits: NDArray[np.floating]) -> str | None:
        """Adds the variant's logits [T, V] of a text as often as the set has it; returns what is wrong with them."""
        rows = [row for row, pair in enumerate(self._pairs) if pair.variant == ids]
        for row in rows:
            self._add(row, logits)
        if defects := self._comparison.defects:
            return _in_words(defects[0])
        return None if all(math.isfinite(self._losses[row]) for row in rows) else "NaN or infinite logits"

    def _add(self, row: int, logits: NDArray[np.floating]) -> None:
        pair, dense, variant = self._pairs[row], self._reference.logits(row), logits
        if self._kept is not None:
            dense = dense[pair.positions[:, 0]]
            variant = logits[pair.positions[:, 1]] if len(logits) == len(pair.variant) else logits
        self._comparison.update(dense, variant, row=row)
        self._losses[row] = text_loss(logits, pair.variant)

    def figures(self) -> DivergenceFigures:
        """Computes the divergence over all texts of the set."""
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
            perplexity=perplexity_of(loss, predicted),
            dense_perplexity=self._reference.perplexity,
            loss=self._more_loss(losses),
            per_byte=per_byte(self._pairs, kl.mean * kl.tokens, loss, math.fsum(dense)),
            cut=None
            if kept is None
            else cut_figures(self._pairs, len(kept), figures.lost_mass, figures.lost_kl, kl.mean),
        )

    def _more_loss(self, losses: Sequence[float]) -> Estimate | None:
        """The variant's loss less the dense model's, nats per token, paired by text; None: the cuts differ."""
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
    """Opens a variant in a runtime and gives an iterator over its logits [T, V] of each text."""
    if runtime == REFERENCE:
        with open_torch_runner(folder, execution) as torch_runner:
            yield torch_runner.run([Run([ids], len(ids)) for ids in texts])
        return
    with closing(open_runtime(runtime, folder, execution, "scored", _calls(texts))) as runner:
        yield (runner.prefill(np.asarray([ids], np.int64), [len(ids)])[0] for ids in texts)


def _in_words(defect: Defect) -> str:
    return defect.detail or f"{'NaN' if defect.kind == 'nan' else 'infinite'} logits"
