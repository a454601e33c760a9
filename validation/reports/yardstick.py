"""Puts a KL divergence in words: compared with the well-known cost of quantisation, and as lost probability."""

from __future__ import annotations

import math

from validation.reports.numbers import figure, percent
from validation.reports.reading import Json

#: Mean KL from fp16, nats per token, of Llama 3 8B on Wikitext-2, quantised by llama.cpp without an importance matrix.
#: Source: github.com/ggml-org/llama.cpp, tools/perplexity/README.md, "LLaMA 3 8b Scoreboard", revision f364eb6f.
YARDSTICK = (
    ("Q8_0", 0.001355),
    ("Q6_K", 0.005452),
    ("Q5_K_M", 0.010762),
    ("Q4_K_M", 0.031273),
    ("Q3_K_M", 0.101913),
    ("Q2_K", 0.445132),
)


def kl_in_words(divergence: Json) -> tuple[str, str]:
    """Two sentences on a divergence: which quantisation loses as much, and what it does to probabilities.

    KL is the mean of log P - log Q under P, so exp(-KL) is the geometric mean of Q / P; of a cut vocabulary, over the
    tokens that stay.
    """
    kl, cut = divergence["mean_kl_nats"], divergence.get("vocabulary")
    if cut is None:
        share = f"On average, the dense model's tokens keep {percent(math.exp(-kl))} of their probability."
    else:
        lost, kept, left = cut["lost_kl_nats"], cut["kept_kl_nats"], percent(math.exp(-cut["kept_kl_nats"]))
        share = (
            f"The dense model gives {percent(cut['lost_mass'])} of its probability to tokens that are gone "
            f"({figure(lost)} of the KL); those that stay keep {left} of theirs ({figure(kept)} of it)."
        )
    return f"{_beside(kl)}.", share


def _beside(kl: float) -> str:
    """The level at which the yardstick loses as much."""
    levels = [f"{name} ({_two_digits(loss)})" for name, loss in YARDSTICK]
    worse = sum(kl >= loss for _, loss in YARDSTICK)
    if worse == 0:
        return f"In llama.cpp, Llama 3 8B loses more at {levels[0]}"
    if worse == len(levels):
        return f"In llama.cpp, Llama 3 8B loses less at {levels[-1]}"
    return f"In llama.cpp, Llama 3 8B loses as much between {levels[worse - 1]} and {levels[worse]}"


def _two_digits(kl: float) -> str:
    return f"{kl:.{1 - math.floor(math.log10(kl))}f}"
