"""The distance between a candidate's logits and a reference's, token by token.

Differences, probabilities and sums are computed in float64 on a few tokens at a time. The blocks fit into a core's
cache, which makes the comparison several times as fast and keeps memory independent of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ParityFailure
from validation.estimate import Estimate, TokenEstimate
from validation.likelihood import log_sums

Floats = NDArray[np.floating]
Logits = NDArray[np.float64]
Tokens = NDArray[np.float64]
Side = Literal["reference", "candidate"]
_SIDES: tuple[Side, ...] = ("reference", "candidate")
#: A token's choice is clear if its largest logit leads by this many nats, or by more if noise requires it.
CLEAR_MARGIN = 0.1
#: Logits in a block; each block takes four float64 temporaries of this size.
_CHUNK_ELEMENTS = 2**16


@dataclass(frozen=True)
class LogitIndex:
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
        logit: Place of the first affected logit.
        tokens: Number of affected tokens.
        detail: For a wrong shape, both shapes.
    """

    kind: Literal["nan", "inf", "shape"]
    side: Literal["reference", "candidate"]
    logit: LogitIndex
    tokens: int
    detail: str = ""


@dataclass(frozen=True)
class LogitFigures:
    """The result of a `LogitComparison`, over the tokens whose logits are all finite; None if there are none.

    Attributes:
        tokens: Tokens compared, those with NaN or infinities included.
        max_abs: Largest |reference - candidate| of any logit.
        mean_abs: Mean of |reference - candidate| over all logits.
        worst: The place of the logit with `max_abs`.
        kl: KL(reference || candidate), nats per token; its texts are the batch rows. If the candidate lacks tokens,
            it is KL over the others, plus -log of the probability that the reference gives to these together.
        top1_agreement: Share of tokens, 0 to 1, for which both have the same largest logit; a tie agrees
            if either's choice is among the other's largest.
        top1_stderr: Standard error of `top1_agreement` over the rows; None if there is only one row.
        clear_top1_agreement: `top1_agreement` over the tokens whose largest logit in the reference leads by the
            comparison's margin or more; None if there are none.
        perplexity_ratio: exp of the candidate's mean negative log-likelihood of the tokens that follow, less the
            reference's; None: no token that follows is known.
        defects: NaN, infinities and wrong shapes.
        lost_kl: The part of the mean KL that stands for tokens which the candidate lacks.
        lost_mass: The mean probability that the reference gives to them.
    """

    tokens: int
    max_abs: float | None
    mean_abs: float | None
    worst: LogitIndex | None
    kl: TokenEstimate | None
    top1_agreement: float | None
    top1_stderr: float | None = None
    clear_top1_agreement: float | None = None
    perplexity_ratio: float | None = None
    defects: tuple[Defect, ...] = ()
    lost_kl: float = 0.0
    lost_mass: float = 0.0

    def __post_init__(self) -> None:
        if self.tokens < 1 and not self.defects:
            raise ValueError("figures of no tokens")
        if (self.max_abs is None) != (self.worst is None):
            raise ValueError("max_abs and its place belong together")

    @property
    def mean_kl(self) -> float | None:
        """Mean KL(reference || candidate), nats per token; None if no token is finite."""
        return None if self.kl is None else self.kl.mean


class LogitComparison:
    """Collects figures over many blocks of logits; `figures()` returns them.

    Args:
        kept: The reference's tokens that the candidate has; None: all.
    """

    def __init__(self, kept: NDArray[np.int64] | None = None) -> None:
        self._kept = kept
        self._tokens = self._finite_tokens = self._elements = self._followed = 0
        self._sum_abs = self._sum_log_ratio = self._lost_kl = self._lost_mass = 0.0
        # one value per finite token, KL by row
        self._kl: dict[int, list[Tokens]] = {}
        self._lead: list[Tokens] = []
        self._agrees: list[NDArray[np.bool_]] = []
        # of each row the tokens that agree, and all
        self._top1: dict[int, tuple[int, int]] = {}
        self._max_abs: float | None = None
        self._worst: LogitIndex | None = None
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

        `following` holds the tokens that come after each of them, as far as they are known. A candidate of another
        shape than expected is recorded as a defect, not raised.
        """
        expected = reference.shape if self._kept is None else (len(reference), len(self._kept))
        if reference.ndim != 2 or candidate.shape != expected:
            detail = f"logits of shape {list(candidate.shape)}, expected {list(expected)}"
            self._note(Defect("shape", "candidate", LogitIndex(row, first_position, 0), len(reference), detail))
            return
        step = max(1, _CHUNK_ELEMENTS // max(1, reference.shape[1]))
        for start in range(0, len(reference), step):
            block = slice(start, start + step)
            p, q = np.array(reference[block], np.float64), np.array(candidate[block], np.float64)
            self._add(p, q, row, first_position + start, following[block])

    def figures(self, clear_margin: float = CLEAR_MARGIN) -> LogitFigures:
        """Computes the figures of all logits that were added.

        Args:
            clear_margin: Nats by which a token's largest logit must lead for its choice to be clear.

        Raises:
            ParityFailure: No logits were compared, which proves nothing.
        """
        if not self._tokens and not self._defects:
            raise ParityFailure("nothing was compared: no logits were given to the parity gate")
        if not self._finite_tokens:
            return LogitFigures(self._tokens, None, None, None, None, None, defects=self.defects)
        agrees, top1 = np.concatenate(self._agrees), Estimate.of_sums(*zip(*self._top1.values(), strict=True))
        clear = np.concatenate(self._lead) >= clear_margin
        return LogitFigures(
            tokens=self._tokens,
            max_abs=self._max_abs,
            mean_abs=self._sum_abs / self._elements,
            worst=self._worst,
            kl=TokenEstimate.of_texts(np.concatenate(row) for row in self._kl.values()),
            top1_agreement=top1.mean,
            top1_stderr=top1.stderr,
            clear_top1_agreement=int((agrees & clear).sum()) / int(clear.sum()) if clear.any() else None,
            perplexity_ratio=float(np.exp(self._sum_log_ratio / self._followed)) if self._followed else None,
            defects=self.defects,
            lost_kl=self._lost_kl / self._finite_tokens,
            lost_mass=self._lost_mass / self._finite_tokens,
        )

    @property
    def defects(self) -> tuple[Defect, ...]:
        """The first defect of each kind and side so far, with the number of tokens that have it."""
        return tuple(self._defects.values())

    def divergences(self) -> NDArray[np.float64]:
        """The KL of each finite token."""
        return np.concatenate([kl for row in self._kl.values() for kl in row] or [np.zeros(0)])

    def _add(self, reference: Logits, candidate: Logits, row: int, first: int, following: Sequence[int]) -> None:
        self._tokens += len(reference)
        if not reference.size:
            return
        is_finite = [_finite_rows(logits) for logits in (reference, candidate)]
        for side, logits, finite in zip(_SIDES, (reference, candidate), is_finite, strict=True):
            if not finite.all():
                self._note_non_finite(side, logits, row, first)
        both = is_finite[0] & is_finite[1]
        if not both.all():
            reference, candidate = reference[both], candidate[both]
        if both.any():
            followed = np.asarray(following, np.int64)[both[: len(following)]]
            self._add_finite(reference, candidate, row, first + np.flatnonzero(both), followed)

    def _add_finite(
        self, p: Logits, q: Logits, row: int, positions: NDArray[np.intp], following: NDArray[np.int64]
    ) -> None:
        """Adds finite logits, which are overwritten; `following` are the tokens that come after the first of them."""
        token, lost, can_agree = np.arange(len(p)), np.zeros(len(p)), np.ones(len(p), np.bool_)
        if self._kept is not None:
            whole, p = p, p[:, self._kept]
            lost = np.maximum(log_sums(whole) - log_sums(p), 0.0)
            can_agree = p.max(axis=1) == whole.max(axis=1)
            self._lost_kl += float(lost.sum())
            self._lost_mass -= float(np.expm1(-lost).sum())
        chosen, chosen_by_candidate = p.argmax(axis=1), q.argmax(axis=1)
        difference = p - q
        self._add_difference(np.abs(difference, out=difference), row, positions)
        # A tie agrees if either's choice is among the other's largest logits.
        p -= p[token, chosen][:, None]
        q -= q[token, chosen_by_candidate][:, None]
        agrees = (p[token, chosen_by_candidate] == 0.0) | (q[token, chosen] == 0.0)
        self._agrees.append(agrees & can_agree)
        agreeing, tokens = self._top1.get(row, (0, 0))
        self._top1[row] = agreeing + int(self._agrees[-1].sum()), tokens + len(token)
        p[token, chosen] = -np.inf
        self._lead.append(-p.max(axis=1))
        p[token, chosen] = 0.0
        # KL(P || Q) = sum of P * (log P - log Q), where log P = p - log sum(exp(p)).
        np.subtract(p, q, out=difference)
        followed = token[: len(following)]
        log_ratio = difference[followed, following]
        sum_p, sum_q = np.exp(p, out=p).sum(axis=1), np.exp(q, out=q).sum(axis=1)
        log_rest = np.log(sum_p) - np.log(sum_q)
        divergence = np.einsum("tv,tv->t", p, difference) / sum_p - log_rest
        # rounding leaves about -1e-16 for equal distributions
        self._kl.setdefault(row, []).append(np.maximum(divergence, 0.0) + lost)
        self._finite_tokens += len(token)
        self._followed += len(following)
        self._sum_log_ratio += float((log_ratio - log_rest[followed]).sum())

    def _add_difference(self, difference: NDArray[np.float64], row: int, positions: NDArray[np.intp]) -> None:
        index, token_id = np.unravel_index(int(difference.argmax()), difference.shape)
        if self._max_abs is None or difference[index, token_id] > self._max_abs:
            self._max_abs = float(difference[index, token_id])
            self._worst = LogitIndex(row, int(positions[index]), int(token_id))
        self._elements += difference.size
        self._sum_abs += float(difference.sum())

    def _note_non_finite(self, side: Side, logits: Logits, row: int, first: int) -> None:
        kinds: tuple[tuple[Literal["nan", "inf"], NDArray[np.bool_]], ...] = (
            ("nan", np.isnan(logits)),
            ("inf", np.isinf(logits)),
        )
        for kind, is_wrong in kinds:
            if is_wrong.any():
                token, token_id = np.argwhere(is_wrong)[0]
                logit = LogitIndex(row, first + int(token), int(token_id))
                self._note(Defect(kind, side, logit, int(is_wrong.any(axis=1).sum())))

    def _note(self, defect: Defect) -> None:
        """Keeps the first defect of each kind and side, with the number of tokens that share it."""
        known = self._defects.get((defect.kind, defect.side))
        tokens = defect.tokens + (known.tokens if known else 0)
        first = known or defect
        self._defects[defect.kind, defect.side] = Defect(first.kind, first.side, first.logit, tokens, first.detail)


def _finite_rows(logits: Logits) -> NDArray[np.bool_]:
    """Whether all logits of each token are finite; [T]. NaN and infinities show in the extremes."""
    finite: NDArray[np.bool_] = np.isfinite(logits.max(axis=1)) & np.isfinite(logits.min(axis=1))
    return finite
