"""What needs no language model is measured beside it, where answers are labels."""

from __future__ import annotations

import random

import pytest
from support.corpora import WORDS

from seap_export.corpus import Sample
from seap_export.pipeline.evaluation.baselines import Baselines, baselines

LABELS = ("home", "far", "near")


def samples(number: int, seed: int, *, is_linear: bool = True) -> list[Sample]:
    """Texts whose first word tells the answer, or a coin does; "home" is as frequent as the others together."""
    chance, made = random.Random(seed), []
    for _ in range(number):
        label = chance.choices(range(3), (2, 1, 1))[0]
        first = ("cat", "dog", "mat")[label if is_linear else chance.randrange(3)]
        made.append(Sample(f"{first} {' '.join(chance.choices(WORDS[6:], k=4))}:", f" {LABELS[label]}\n"))
    return made


def test_a_linear_classifier_and_the_most_frequent_answer() -> None:
    held_out = samples(40, 1)
    found = baselines(samples(60, 0), held_out)
    assert found == Baselines(40, sum(sample.completion == " home\n" for sample in held_out), 39)
    assert baselines(samples(60, 0)[::-1], held_out) == found
    coins = baselines(samples(60, 0, is_linear=False), samples(40, 1, is_linear=False))
    assert coins is not None
    assert coins.linear < 30


@pytest.mark.parametrize("number", [11, 12])
def test_answers_that_hardly_repeat_are_no_labels(number: int) -> None:
    """Three labels come four times on average in twelve texts."""
    texts = [Sample(f"text {index}:", f" {LABELS[index % 3]}\n") for index in range(number)]
    assert (baselines(texts, texts) is None) == (number < 12)
    assert baselines([Sample(text.prompt, " one\n") for text in texts], texts) is None
