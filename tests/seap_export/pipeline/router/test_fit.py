"""The classifier is scikit-learn's, with the scaling folded in, and depends on no order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from seap_export.errors import InputError
from seap_export.pipeline.router.fit import LinearClassifier, evaluate, fit_classifier, mean_embeddings

NAMES = ("d", "b", "a", "c")


def clusters(classes: int) -> dict[str, Any]:
    """Classes of different sizes around centres of their own; features of very different scales."""
    generator = np.random.default_rng(0)
    scales = 10.0 ** np.arange(-3, 3)
    return {
        name: (generator.normal(size=6) + generator.normal(size=(10 + 15 * index, 6))) * scales + 5.0
        for index, name in enumerate(NAMES[:classes])
    }


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_equals_scikit_learn(classes: int) -> None:
    features = clusters(classes)
    names = sorted(features)
    rows = np.concatenate([features[name] for name in names])
    labels = np.repeat(np.arange(classes), [len(features[name]) for name in names])
    regression = LogisticRegression(C=0.1, class_weight="balanced", max_iter=10_000)
    expected = make_pipeline(StandardScaler(), regression).fit(rows, labels).predict_proba(rows)
    classifier = fit_classifier(features)
    assert classifier.classes == tuple(names)
    assert classifier.weight.dtype == np.float64
    assert np.abs(classifier.probabilities(rows) - expected).max() < 1e-6


def test_order_does_not_count() -> None:
    features = clusters(3)
    shuffled = {name: features[name][::-1] for name in reversed(list(features))}
    first, second = fit_classifier(features), fit_classifier(shuffled)
    assert first.classes == second.classes
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.bias, second.bias)


def test_one_text_a_class_and_features_that_never_change_are_enough() -> None:
    features = {"a": np.array([[1.0, 7.0]]), "b": np.array([[2.0, 7.0]])}
    classifier = fit_classifier(features)
    assert np.isfinite(classifier.weight).all()
    assert [classifier.probabilities(features[name])[0].argmax() for name in "ab"] == [0, 1]


def test_a_small_class_weighs_as_much_as_a_large_one() -> None:
    generator = np.random.default_rng(0)
    features = {"a": generator.normal(size=(20, 1)) - 0.1, "b": generator.normal(size=(2000, 1)) + 0.1}
    classifier = fit_classifier(features)
    middle = (features["a"].mean() + features["b"].mean()) / 2
    assert classifier.probabilities(np.array([[middle]]))[0] == pytest.approx([0.5, 0.5], abs=0.02)


def test_probabilities_of_far_features_are_finite() -> None:
    classifier = LinearClassifier(("a", "b"), np.array([[1.0], [-1.0]]), np.zeros(2))
    assert classifier.probabilities(np.array([[1e6], [-1e6]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_parts_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        LinearClassifier(("a", "b"), np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="do not fit together"):
        LinearClassifier(("a",), np.zeros((1, 3)), np.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_mean_embeddings_in_float64(dtype: torch.dtype) -> None:
    embedding = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    features = mean_embeddings(embedding, [[1, 1, 4], [8]])
    rows = embedding.double().numpy()
    assert features.dtype == np.float64
    assert np.abs(features - [(2 * rows[1] + rows[4]) / 3, rows[8]]).max() < 1e-15
    assert mean_embeddings(embedding, []).shape == (0, 5)


def test_a_token_without_an_embedding_is_refused() -> None:
    with pytest.raises(InputError, match=r"token id 9, .*vocabulary of 9"):
        mean_embeddings(torch.zeros(9, 5), [[1, 9]])


def test_the_figures() -> None:
    classifier = LinearClassifier(("a", "b"), np.array([[1.0], [-1.0]]), np.zeros(2))
    features = {"a": np.array([[3.0], [0.1], [-0.1], [-3.0]]), "b": np.array([[-3.0]])}
    assert evaluate(classifier, features, threshold=0.7) == {
        "prompts": 5,
        "accuracy": 0.6,
        "below_threshold": 0.4,
        "classes": {
            "a": {"prompts": 4, "accuracy": 0.5, "below_threshold": 0.5},
            "b": {"prompts": 1, "accuracy": 1.0, "below_threshold": 0.0},
        },
        "confusion": {"a": {"a": 2, "b": 2}, "b": {"a": 0, "b": 1}},
    }
    nothing = evaluate(classifier, {name: np.empty((0, 1)) for name in "ab"}, threshold=0.7)
    assert (nothing["prompts"], nothing["accuracy"], nothing["classes"]["b"]["below_threshold"]) == (0, None, None)
