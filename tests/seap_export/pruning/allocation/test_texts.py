"""The texts that plans are tried on are two parts of the calibration texts, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from support.corpora import random_token_ids
from support.product import TaskMixture

from seap_export.pruning.allocation import texts as module
from seap_export.pruning.allocation.texts import TrialTexts, draw_texts


class _Given:
    """Stands for a calibration: its tokens alone."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.record = self
        self.source_sha256 = "same"

    def token_ids(self) -> list[list[int]]:
        return [list(ids) for ids in self.texts]


def mixture(tasks: Mapping[str, Sequence[Sequence[int]]], **weights: float) -> TaskMixture:
    given = {task: _Given(texts) for task, texts in tasks.items()}
    return TaskMixture("tried", dict.fromkeys(tasks, 1.0) | weights, given)  # type: ignore[arg-type]


def drawn(tasks: Mapping[str, Sequence[Sequence[int]]], **weights: float) -> TrialTexts:
    texts = draw_texts(mixture(tasks, **weights))
    assert texts is not None
    return texts


def test_parts_are_apart_and_do_not_depend_on_the_order() -> None:
    texts = random_token_ids(60)
    parts = drawn({"a": texts})
    assert parts == drawn({"a": texts[::-1]}) == drawn({"a": [*texts, *texts]})
    fitted, judged = ({ids for ids, _ in part} for part in (parts.fitted, parts.judged))
    assert not fitted & judged
    assert fitted | judged <= {tuple(ids) for ids in texts}
    total = sum(map(len, {tuple(ids) for ids in texts}))
    assert total / 4 <= sum(map(len, judged)) < total / 4 + 30
    # a text of two tasks is in one part only, and a single text is too few
    parts = drawn({"a": texts, "b": [*texts, *random_token_ids(40, seed=3)]})
    every = [ids for ids, _ in (*parts.fitted, *parts.judged)]
    assert len(every) == len(set(every))
    for tasks in ({"a": [[1, 2, 3]]}, {"a": texts, "b": [[4], [4]]}):
        assert draw_texts(mixture(tasks)) is None


def test_long_corpora_give_a_few_thousand_tokens() -> None:
    texts = random_token_ids(40, longest=700)
    parts = drawn({"a": texts})
    fitted, judged = (sum(len(ids) for ids, _ in part) for part in (parts.fitted, parts.judged))
    assert module.FITTED_TOKENS <= fitted < module.FITTED_TOKENS + module._LENGTH
    assert module.JUDGED_TOKENS <= judged == parts.judged_tokens < module.JUDGED_TOKENS + module._LENGTH
    assert all(len(ids) <= module._LENGTH for ids, _ in (*parts.fitted, *parts.judged))


def test_tasks_count_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FITTED_TOKENS", 400)
    tasks = {"a": random_token_ids(80, seed=1), "b": random_token_ids(30, seed=2)}
    parts = drawn(tasks, a=3.0)
    first = {tuple(ids) for ids in tasks["a"]}
    for part in (parts.fitted, parts.judged):
        of_first = sum(len(ids) * weight for ids, weight in part if ids in first)
        assert of_first == pytest.approx(0.75)
        assert sum(len(ids) * weight for ids, weight in part) == pytest.approx(1.0)
    tokens = {task: sum(len(ids) for ids, _ in parts.fitted if (ids in first) is (task == "a")) for task in tasks}
    assert parts.effective_tokens == pytest.approx(1 / (0.75**2 / tokens["a"] + 0.25**2 / tokens["b"]))
