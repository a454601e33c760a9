"""How far the logits of a candidate are from those of a reference, token by token.

Differences, probabilities and their sums are computed in float64, a few tokens at a time, so that a large
vocabulary costs no more memory than a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ParityFailure

__all__ = ["CLEAR_MARGIN", "Defect", "LogitComparison", "LogitFigures", "Place", "kl_divergence"]

Floats = NDArray[np.floating]
#: Nats by which a token's largest logit must lead for its choice to be clear, where no noise asks for more.
CLEAR_MARGIN = 0.1
#: Logits held in float64 at once; a handful of temporaries of 8 bytes each.
_CHUNK_ELEMENTS = 2**20


@dataclass(frozen=True)
class Place:
    """One logit: batch row, position within the stage and vocabulary index, all counted from 0."""

    row: int
    position: int
    token_id: int


@dataclass(frozen=True)
class Defect:
    """Something that no tolerance excuses.

    Attributes:
        kind: NaN, an infinity, or logits whose shape is not the reference's.
        side: Which of the two has it; a wrong shape is always the candidate's.
        place: The first one found.
        tokens: How many tokens are concerned.
        detail: For a wrong shape, both shapes.
    """

    kind: Literal["nan", "inf", "shape"]
    side: Literal["reference", "candidate"]
    place: Place
    tokens: int
    detail: str = ""


@dataclass(frozen=True)
class LogitFigures:
    """What a `LogitComparison` has found. Figures cover tokens whose logits are all finite, or are None.

    Attributes:
        tokens: Tokens compared, those with NaN or infinities included.
        max_abs: Largest |reference - candidate| of any logit.
        mean_abs: Mean of |reference - candidate| over all logits.
        worst: Where `max_abs` is.
        mean_kl: Mean KL(reference || candidate), nats a token.
        p999_kl: 99.9th percentile of KL(reference || candidate) over the tokens, nats.
        max_kl: Largest KL(reference || candidate) of any token, nats.
        top1_agreement: Share of tokens, 0 to 1, for which both have the same largest logit; a tie agrees
            if either's choice is among the other's largest.
        clear_top1_agreement: The same over tokens whose largest logit in the reference leads by the comparison's
            margin or more; None: there are none.
        perplexity_ratio: exp of the candidate's mean negative log-likelihood of the tokens that follow, less the
            reference's; None: no token that follows is known.
        defects: NaN, infinities and wrong shapes.
    """

    tokens: int
    max_abs: float | None
    mean_abs: float | None
    worst: Place | None
    mean_kl: float | None
    max_kl: float | None
    top1_agreement: float | None
    p999_kl: float | None = None
    clear_top1_agreement: float | None = None
    perplexity_ratio: float | None = None
    defects: tuple[Defect, ...] = ()

    def __post_init__(self) -> None:
        if self.tokens < 1 and not self.defects:
            raise ValueError("figures of no tokens")
        if (self.max_abs is None) != (self.worst is None):
            raise ValueError("max_abs and its place belong together")


def kl_divergence(reference: Floats, candidate: Floats) -> NDArray[np.float64]:
    """KL(P || Q) of each token in nats, P = softmax(reference), Q = softmax(candidate).

    sum over the vocabulary of P * (log P - log Q), in float64. Rounding can leave about -1e-16 for equal
    distributions; that is returned as 0.

    Args:
        reference: Finite logits [T, V], the distribution P that the divergence is weighted with.
        candidate: Finite logits [T, V], the distribution Q.

    Returns:
        [T], float64.
    """
    log_p, log_q = _log_softmax(reference), _log_softmax(candidate)
    return np.maximum(np.einsum("tv,tv->t", np.exp(log_p), log_p - log_q), 0.0)


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _is_clear(logits: NDArray[np.float64], margin: float) -> NDArray[np.bool_]:
    """Whether each token's largest logit leads by the margin or more; [T]."""
    if logits.shape[1] < 2:
        return np.ones(len(logits), np.bool_)
    two = np.partition(logits, -2, axis=1)[:, -2:]
    clear: NDArray[np.bool_] = two[:, 1] - two[:, 0] >= margin
    return clear


def _agrees(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> NDArray[Any]:
    """Whether each token's largest logit is at the same place, ties counted as agreement."""
    token = np.arange(len(reference))
    chosen_by_candidate = reference[token, candidate.argmax(axis=1)] == reference.max(axis=1)
    chosen_by_reference = candidate[token, reference.argmax(axis=1)] == candidate.max(axis=1)
    return np.logical_or(chosen_by_candidate, chosen_by_reference)


class LogitComparison:
    """Gathers figures over many blocks of logits; ask for `figures()` at the end."""

    def __init__(self, clear_margin: float = CLEAR_MARGIN) -> None:
        """`clear_margin`: nats by which a token's largest logit must lead for its choice to be clear."""
        self._clear_margin = clear_margin
        self._tokens = self._finite_tokens = self._elements = self._agreeing = 0
        self._clear = self._clear_agreeing = self._followed = 0
        self._sum_abs = self._sum_log_ratio = 0.0
        self._kl: list[NDArray[np.float64]] = []  # a number a token
        self._max_abs: float | None = None
        self._worst: Place | None = None
        self._defects: dict[tuple[str, str], Defect] = {}

    def update(
        self,
        reference: Floats,
        candidate: Floats,
        *,
        row: int = 0,
        first_position: int = 0,
        following: Sequence[int] = (),
    ) -> None:
        """Adds the logits [T, V] of T tokens of one batch row, the first of them at `first_position`.

        `following` are the tokens that come after each of them, as far as they are known. Logits of another shape
        than the reference's are recorded as a defect, not raised.
        """
        if reference.ndim != 2 or reference.shape != candidate.shape:
            detail = f"logits of shape {list(candidate.shape)}, expected {list(reference.shape)}"
            self._note(Defect("shape", "candidate", Place(row, first_position, 0), len(reference), detail))
            return
        step = max(1, _CHUNK_ELEMENTS // max(1, reference.shape[1]))
        for start in range(0, len(reference), step):
            block = slice(start, start + step)
            self._add(
                np.asarray(reference[block], np.float64),
                np.asarray(candidate[block], np.float64),
                row,
                first_position + start,
                following[block],
            )

    def figures(self) -> LogitFigures:
        """The figures so far.

        Raises:
            ParityFailure: Nothing was compared, which proves nothing.
        """
        if not self._tokens and not self._defects:
            raise ParityFailure("nothing was compared: no logits were given to the parity gate")
        finite, divergence = self._finite_tokens, np.concatenate(self._kl) if self._kl else np.zeros(1)
        return LogitFigures(
            tokens=self._tokens,
            max_abs=self._max_abs,
            mean_abs=self._sum_abs / self._elements if finite else None,
            worst=self._worst,
            mean_kl=float(divergence.mean()) if finite else None,
            p999_kl=float(np.quantile(divergence, 0.999)) if finite else None,
            max_kl=float(divergence.max()) if finite else None,
            top1_agreement=self._agreeing / finite if finite else None,
            clear_top1_agreement=self._clear_agreeing / self._clear if self._clear else None,
            perplexity_ratio=float(np.exp(self._sum_log_ratio / self._followed)) if self._followed else None,
            defects=tuple(self._defects.values()),
        )

    def _add(
        self,
        reference: NDArray[np.float64],
        candidate: NDArray[np.float64],
        row: int,
        first: int,
        following: Sequence[int],
    ) -> None:
        self._tokens += len(reference)
        self._note_non_finite("reference", reference, row, first)
        self._note_non_finite("candidate", candidate, row, first)
        finite = np.logical_and(np.isfinite(reference).all(axis=1), np.isfinite(candidate).all(axis=1))
        if not finite.any() or not reference.shape[1]:
            return
        positions = first + np.flatnonzero(finite)
        self._add_finite(reference[finite], candidate[finite], row, positions)
        followed = np.flatnonzero(finite[: len(following)])
        self._add_following(reference[followed], candidate[followed], np.asarray(following, np.int64)[followed])

    def _add_finite(
        self, reference: NDArray[np.float64], candidate: NDArray[np.float64], row: int, positions: NDArray[np.intp]
    ) -> None:
        difference = np.abs(reference - candidate)
        index, token_id = np.unravel_index(int(difference.argmax()), difference.shape)
        if self._max_abs is None or difference[index, token_id] > self._max_abs:
            self._max_abs = float(difference[index, token_id])
            self._worst = Place(row, int(positions[index]), int(token_id))
        divergence = kl_divergence(reference, candidate)
        self._finite_tokens += len(reference)
        self._elements += difference.size
        self._sum_abs += float(difference.sum())
        self._kl.append(divergence)
        agreeing, clear = _agrees(reference, candidate), _is_clear(reference, self._clear_margin)
        self._agreeing += int(agreeing.sum())
        self._clear += int(clear.sum())
        self._clear_agreeing += int((agreeing & clear).sum())

    def _add_following(
        self, reference: NDArray[np.float64], candidate: NDArray[np.float64], following: NDArray[np.int64]
    ) -> None:
        if not len(following):
            return
        token = np.arange(len(following))
        log_p, log_q = _log_softmax(reference)[token, following], _log_softmax(candidate)[token, following]
        self._followed += len(following)
        self._sum_log_ratio += float((log_p - log_q).sum())

    def _note_non_finite(
        self, side: Literal["reference", "candidate"], logits: NDArray[np.float64], row: int, first: int
    ) -> None:
        kinds: tuple[tuple[Literal["nan", "inf"], NDArray[np.bool_]], ...] = (
            ("nan", np.isnan(logits)),
            ("inf", np.isinf(logits)),
        )
        for kind, found in kinds:
            if found.any():
                token, token_id = np.argwhere(found)[0]
                place = Place(row, first + int(token), int(token_id))
                self._note(Defect(kind, side, place, int(found.any(axis=1).sum())))

    def _note(self, defect: Defect) -> None:
        """Keeps the first defect of each kind and side, with the number of tokens that share it."""
        known = self._defects.get((defect.kind, defect.side))
        tokens = defect.tokens + (known.tokens if known else 0)
        first = known or defect
        self._defects[defect.kind, defect.side] = Defect(first.kind, first.side, first.place, tokens, first.detail)
