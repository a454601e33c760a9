"""Fits the router's classifier and measures it, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seap_export.errors import InputError

Floats = NDArray[np.float64]

#: Inverse strength of the L2 penalty on standardised features. There are about as many features as prompts: with a
#: weak penalty even wrong predictions get a probability near 1, and no threshold separates them from right ones.
_INVERSE_PENALTY = 0.1
#: Far more iterations than the solver needs to converge.
_MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class LinearClassifier:
    """softmax(weight @ x + bias) on unscaled features; the weights include the scaling.

    Attributes:
        classes: The tasks, sorted.
        weight: float64 [classes, features].
        bias: float64 [classes].
    """

    classes: tuple[str, ...]
    weight: Floats
    bias: Floats

    def __post_init__(self) -> None:
        rows = len(self.classes)
        if rows < 2 or self.weight.ndim != 2 or len(self.weight) != rows or self.bias.shape != (rows,):
            raise ValueError(f"{rows} classes, weight {self.weight.shape}, bias {self.bias.shape} do not fit together")

    def probabilities(self, features: Floats) -> Floats:
        """The probability of each class.

        Args:
            features: float64 [texts, features].

        Returns:
            float64 [texts, classes].
        """
        logits = features @ self.weight.T + self.bias
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)


def mean_embeddings(embedding: torch.Tensor, token_ids: Sequence[Sequence[int]]) -> Floats:
    """The mean embedding of each text's tokens.

    Args:
        embedding: [vocabulary, hidden], any float dtype; widened for one text at a time to save memory.
        token_ids: One sequence per text, none of them empty.

    Returns:
        float64 [texts, hidden].
    """
    rows, width = embedding.shape
    features = np.empty((len(token_ids), width), np.float64)
    for index, ids in enumerate(token_ids):
        if max(ids) >= rows:
            raise InputError(
                f"the tokenizer returns token id {max(ids)}, but the model has a vocabulary of {rows}; "
                "use the tokenizer that belongs to the model"
            )
        features[index] = embedding[torch.tensor(ids)].double().mean(dim=0).numpy()
    return features


def fit_classifier(features: Mapping[str, Floats]) -> LinearClassifier:
    """Multinomial logistic regression with an L2 penalty; every class has the same total weight.

    The result depends on neither the order of the classes nor the order of the texts.

    Args:
        features: float64 [texts, features] for each class; at least two classes and one text per class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    classes = tuple(sorted(features))
    rows = np.concatenate([_in_order(features[name]) for name in classes])
    labels = np.repeat(np.arange(len(classes)), [len(features[name]) for name in classes])
    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(C=_INVERSE_PENALTY, class_weight="balanced", max_iter=_MAX_ITERATIONS)
    model.fit(scaler.transform(rows), labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(classes) == 2:  # scikit-learn gives one row then: the logit of the second class relative to the first
        coefficients, intercepts = (np.concatenate([-half, half]) for half in (coefficients / 2, intercepts / 2))
    weight = coefficients / scaler.scale_
    return LinearClassifier(classes, weight, intercepts - weight @ scaler.mean_)


def _in_order(rows: Floats) -> Floats:
    """The rows sorted by value, so that sums over them round the same whatever the order of the texts."""
    return rows[np.lexsort(rows.T)]


def evaluate(classifier: LinearClassifier, features: Mapping[str, Floats], threshold: float) -> dict[str, Any]:
    """Measures how often the most likely class is correct and how often its probability is below the threshold.

    Args:
        features: float64 [texts, features] for each class; a class may have no texts.

    Returns:
        JSON values: `prompts`, `accuracy` and `below_threshold` (shares; null without prompts), the same for each
        class under `classes`, and the counts of predicted classes for each true class under `confusion`.
    """
    names = classifier.classes
    probabilities = {name: classifier.probabilities(features[name]) for name in names}
    chosen = {name: rows.argmax(axis=1) for name, rows in probabilities.items()}
    right = {name: chosen[name] == index for index, name in enumerate(names)}
    below = {name: rows.max(axis=1) < threshold for name, rows in probabilities.items()}
    return {
        **_shares(np.concatenate(list(right.values())), np.concatenate(list(below.values()))),
        "classes": {name: _shares(right[name], below[name]) for name in names},
        "confusion": {
            name: {other: int((chosen[name] == index).sum()) for index, other in enumerate(names)} for name in names
        },
    }


def _shares(right: NDArray[np.bool_], below: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "prompts": len(right),
        "accuracy": float(right.mean()) if len(right) else None,
        "below_threshold": float(below.mean()) if len(below) else None,
    }
