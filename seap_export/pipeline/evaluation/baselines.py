"""What answers questions without a language model: one answer to all, and a linear classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from seap_export.corpus import Sample, labels_of

#: Letters of the n-grams, within words.
_LETTERS = (1, 5)


@dataclass(frozen=True)
class Baselines:
    """How many of a task's held-out questions are answered rightly without a language model.

    Attributes:
        frequent: By the answer that is the most frequent one.
        linear: By a linear classifier of n-grams of letters that has the same examples.
    """

    questions: int
    frequent: int
    linear: int


def baselines(calibration: Sequence[Sample], held_out: Sequence[Sample]) -> Baselines | None:
    """The baselines of a task with a few labels; None: its answers are others, and only a language model writes them.

    Args:
        calibration: What variants learn.
        held_out: What they are judged by; at least one.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    learnt = sorted((sample.prompt, sample.completion) for sample in calibration)
    labels = Counter(completion for _, completion in learnt)
    if not labels_of(labels.elements()):
        return None
    right = [sample.completion for sample in held_out]
    classifier = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=_LETTERS, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000),
    )
    classifier.fit([prompt for prompt, _ in learnt], [completion for _, completion in learnt])
    found = classifier.predict([sample.prompt for sample in held_out])
    # of labels that are as frequent, the first by name
    frequent = min(labels, key=lambda label: (-labels[label], label))
    return Baselines(len(right), right.count(frequent), sum(a == b for a, b in zip(found, right, strict=True)))
