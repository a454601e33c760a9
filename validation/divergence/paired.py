"""Texts as the tokens of two models, which may cut them differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Bytes:
    """Bytes of a text, UTF-8.

    Attributes:
        all: Bytes of the whole text.
        dense: Bytes that the dense model predicts: all but those of its first token.
        variant: Bytes that the variant predicts: all but those of its first token.
    """

    all: int
    dense: int
    variant: int


@dataclass(frozen=True)
class PairedText:
    """A text as the tokens of the dense model and of a variant.

    Attributes:
        dense: The dense model's tokens.
        positions: int64 [P, 2]: tokens, one of each, after which both models have seen the same part of the text.
        split: Share of the text, 0 to 1 in bytes, that is in dense tokens which the variant cuts otherwise.
        bytes: The bytes of the text; None: not known.
    """

    dense: TokenIds
    variant: TokenIds
    positions: NDArray[np.int64]
    split: float = 0.0
    bytes: Bytes | None = None


@dataclass(frozen=True)
class PerByte:
    """Figures per byte, which do not depend on how texts are cut into tokens.

    Attributes:
        kl: The sum of the divergences over the shared positions / bytes of the texts, nats.
        bits: -log2 P(text) of the variant / bytes that it predicts.
        dense_bits: -log2 P(text) of the dense model / bytes that it predicts.
        bytes: Bytes of the texts.
    """

    kl: float
    bits: float
    dense_bits: float
    bytes: int


@dataclass(frozen=True)
class CutFigures:
    """The cost of a cut vocabulary on some texts.

    Attributes:
        split_bytes: Share of the bytes, 0 to 1, that are in dense tokens which the variant cuts into smaller pieces.
    """

    tokens: int
    lost_mass: float
    lost_kl_nats: float
    kept_kl_nats: float
    split_bytes: float
    more_tokens: float


def per_byte(texts: Sequence[PairedText], kl: float, loss: float, dense_loss: float) -> PerByte | None:
    """The figures per byte, given sums over the texts, in nats; None: the lengths of the texts are not known."""
    sizes = [text.bytes for text in texts if text.bytes is not None]
    dense, variant = sum(size.dense for size in sizes), sum(size.variant for size in sizes)
    if len(sizes) < len(texts) or not min(dense, variant):
        return None
    whole = sum(size.all for size in sizes)
    return PerByte(kl / whole, loss / variant / math.log(2), dense_loss / dense / math.log(2), whole)


def cut_figures(texts: Sequence[PairedText], tokens: int, mass: float, lost: float, kl: float) -> CutFigures:
    """The cost of a vocabulary of `tokens` tokens on some texts, with a mean KL of which it has lost a part."""
    lengths = [1 if text.bytes is None else text.bytes.all for text in texts]
    split = sum(text.split * length for text, length in zip(texts, lengths, strict=True)) / sum(lengths)
    more = sum(len(text.variant) for text in texts) / sum(len(text.dense) for text in texts) - 1.0
    return CutFigures(tokens, mass, lost, max(0.0, kl - lost), split, more)


def same_cut(ids: TokenIds) -> PairedText:
    """A text that both models cut into the same tokens."""
    positions = np.arange(len(ids), dtype=np.int64)
    return PairedText(ids, ids, np.stack([positions, positions], axis=1))


def pair_cuts(
    dense: TokenIds, variant: TokenIds, dense_sizes: NDArray[np.int64], variant_sizes: NDArray[np.int64], most: int
) -> PairedText | None:
    """Pairs two cuts of a text, up to the last position that both share within their first `most` tokens.

    None: they share none.

    Args:
        dense: The dense model's tokens of the text.
        variant: The variant's tokens of the text.
        dense_sizes: Bytes of each token of the dense model by id.
        variant_sizes: Bytes of each token of the variant by id.
        most: The most tokens that either model is given.
    """
    ends, variant_ends = np.cumsum(dense_sizes[list(dense[:most])]), np.cumsum(variant_sizes[list(variant[:most])])
    _, at, variant_at = np.intersect1d(ends, variant_ends, return_indices=True)
    if not len(at):
        return None
    positions = np.stack([at, variant_at], axis=1).astype(np.int64)
    last, variant_last = positions[-1]
    shared = set(pairwise([0, *variant_ends[: variant_last + 1].tolist()]))
    split = sum(end - start for start, end in pairwise([0, *ends[: last + 1].tolist()]) if (start, end) not in shared)
    return PairedText(dense[: last + 1], variant[: variant_last + 1], positions, split / max(1, int(ends[last])))
