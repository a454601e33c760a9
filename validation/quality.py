"""How far a variant's predictions are from the dense model's, on texts that neither was calibrated on.

KL(dense || variant) = sum over the vocabulary of P * (log P - log Q), of the distribution after every token of a
text, in nats. Perplexity is exp of the mean -log P(next token | tokens before it), over all tokens of all texts
but the first of each. Both models are given the same tokens, one text at a time, in float32 on the CPU.

The dense model runs first and is released; its logits wait in a temporary file, so that two models are never in
memory at once, and serve any number of variants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.session import available_threads, open_session
from validation.array_store import ArrayStore, StoredArray
from validation.metrics import Defect, LogitComparison
from validation.onnx_runner import OnnxRunner
from validation.torch_runner import open_torch_runner

__all__ = ["FORMS", "DenseReference", "DivergenceFigures", "Form", "dense_reference", "measure_divergence"]

#: A variant's two artifacts: `hf`, run by torch, and `onnx`, run by ONNX Runtime.
Form = Literal["hf", "onnx"]
FORMS: tuple[Form, ...] = get_args(Form)
TokenIds = Sequence[int]
Progress = Callable[[str], None]
_Run = Callable[[TokenIds], NDArray[np.floating]]
#: Logits held in float64 at once.
_CHUNK_ELEMENTS = 2**20


@dataclass(frozen=True)
class DivergenceFigures:
    """How far one artifact of a variant is from the dense model.

    Attributes:
        mean_kl: Mean KL(dense || variant) of a token, nats.
        max_kl: The largest KL(dense || variant) of any token, nats.
        top1_agreement: Share of tokens, 0 to 1, after which both find the same next token most likely.
        perplexity: Of the variant.
        dense_perplexity: Of the dense model.
        tokens: Tokens after which the distributions were compared.
    """

    mean_kl: float
    max_kl: float
    top1_agreement: float
    perplexity: float
    dense_perplexity: float
    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ValueError("a divergence needs at least two tokens")
        if not min(self.mean_kl, self.max_kl) >= 0.0 or not 0.0 <= self.top1_agreement <= 1.0:
            raise ValueError("a divergence is at least 0, an agreement from 0 to 1")
        if not self.perplexity >= 1.0 or not self.dense_perplexity >= 1.0:
            raise ValueError("a perplexity is at least 1")


@dataclass(frozen=True)
class DenseReference:
    """What the dense model predicts for some texts; valid while `dense_reference` is open.

    Attributes:
        token_ids: The tokens of each text.
        perplexity: Of the dense model on them.
    """

    token_ids: tuple[tuple[int, ...], ...]
    perplexity: float
    _store: ArrayStore
    _stored: tuple[StoredArray, ...]

    def logits(self, index: int) -> NDArray[np.float32]:
        """float32 [T, V], the dense model's logits after each of a text's T tokens."""
        return self._store.get(self._stored[index])


@contextmanager
def dense_reference(
    folder: Path, token_ids: Sequence[TokenIds], *, threads: int | None = None, on_progress: Progress | None = None
) -> Iterator[DenseReference]:
    """Runs the dense model over every text and keeps its logits, 4 bytes each, in the temporary folder.

    Args:
        folder: config.json and safetensors files of the dense model.
        token_ids: The tokens of each text, at least one; some text needs a second.
        threads: Threads of torch; None: all cores this process may use.
        on_progress: Called with a line about each text before it runs.

    Raises:
        InputError: No text has a token to predict, or the dense model gives NaN or infinite logits.
        ArtifactError: The folder cannot be loaded.
        EnvironmentFailure: The temporary folder is full.
    """
    texts = tuple(tuple(ids) for ids in token_ids)
    if not all(texts) or not any(len(ids) > 1 for ids in texts):
        raise InputError("the evaluated texts have no token to predict; give longer texts")
    say = on_progress or (lambda line: None)
    loss, stored = _Loss(), []
    with ArrayStore() as store:
        with open_torch_runner(folder, threads or available_threads()) as runner:
            for index, ids in enumerate(texts):
                say(f"dense: text {index + 1} of {len(texts)}")
                logits = runner.run([ids], len(ids)).logits
                if not np.isfinite(logits).all():
                    raise InputError(f"the dense model gives NaN or infinite logits for text {index}")
                loss.add(logits, ids)
                stored.append(store.put(logits))
        yield DenseReference(texts, loss.perplexity, store, tuple(stored))


def measure_divergence(
    reference: DenseReference,
    folder: Path,
    form: Form = "hf",
    *,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> DivergenceFigures:
    """Runs a variant over the reference's texts and compares what it predicts.

    Args:
        reference: The dense model's predictions.
        folder: The variant's `hf` or `onnx` folder.
        form: Which of the two it is.
        threads: Threads of torch or of ONNX Runtime; None: all cores this process may use.
        on_progress: Called with a line about each text before it runs.

    Raises:
        ArtifactError: The folder cannot be loaded, or the variant's logits are NaN, infinite or of another shape.
        ParityFailure: The ONNX graph does not run.
    """
    say = on_progress or (lambda line: None)
    comparison, loss = LogitComparison(), _Loss()
    with _open_runner(folder, form, threads or available_threads()) as run:
        for index, ids in enumerate(reference.token_ids):
            say(f"{form}: text {index + 1} of {len(reference.token_ids)}")
            logits = run(ids)
            comparison.update(reference.logits(index), logits, row=index)
            defects = comparison.figures().defects
            if defects:
                raise ArtifactError(f"{folder}: {_in_words(defects[0])} for text {index}; make the variant again")
            loss.add(logits, ids)
    figures = comparison.figures()
    if figures.mean_kl is None or figures.max_kl is None or figures.top1_agreement is None:
        raise ValueError("figures without a finite token, but without a defect")
    return DivergenceFigures(
        mean_kl=figures.mean_kl,
        max_kl=figures.max_kl,
        top1_agreement=figures.top1_agreement,
        perplexity=loss.perplexity,
        dense_perplexity=reference.perplexity,
        tokens=figures.tokens,
    )


@contextmanager
def _open_runner(folder: Path, form: Form, threads: int) -> Iterator[_Run]:
    """A function from a text's tokens [T] to logits [T, V]."""
    if form == "hf":
        with open_torch_runner(folder, threads) as torch_runner:
            yield lambda ids: torch_runner.run([ids], len(ids)).logits
    else:
        onnx_runner = OnnxRunner(open_session(folder / "model.onnx", "cpu", threads))
        yield lambda ids: onnx_runner.prefill(np.asarray([ids], np.int64), [len(ids)])[0]


def _in_words(defect: Defect) -> str:
    return defect.detail or f"{'NaN' if defect.kind == 'nan' else 'infinite'} logits"


class _Loss:
    """Gathers -log P(next token), nats, in float64."""

    def __init__(self) -> None:
        self._sum, self._tokens = 0.0, 0

    def add(self, logits: NDArray[np.floating], ids: TokenIds) -> None:
        """Adds a text of T tokens with its logits [T, V]; those after the last token predict nothing known."""
        step = max(1, _CHUNK_ELEMENTS // logits.shape[1])
        for start in range(0, len(ids) - 1, step):
            targets = np.asarray(ids[start + 1 : start + 1 + step])
            block = np.asarray(logits[start : start + len(targets)], np.float64)
            largest = block.max(axis=1)
            log_sum = largest + np.log(np.exp(block - largest[:, None]).sum(axis=1))
            self._sum += float((log_sum - block[np.arange(len(targets)), targets]).sum())
            self._tokens += len(targets)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of a token, which is taken as 700 where exp would leave the floats."""
        return math.exp(min(self._sum / self._tokens, 700.0))
