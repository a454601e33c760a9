"""The texts that plans are tried on are two parts of the calibration texts, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from support.corpora import random_token_ids
from support.product import Mixture

from seap_export.allocation import texts as module
from seap_export.allocation.texts import TrialTexts, draw_texts


class _Given:
    """Stands for a calibration: its tokens alone."""

    def __init__(self, own: Sequence[Sequence[int]]) -> None:
        self.own = own
        self.record = self
        self.source_sha256 = "same"

    def token_ids(self) -> list[list[int]]:
        return [list(ids) for ids in self.own]


def mixture(tasks: Mapping[str, Sequence[Sequence[int]]], **weights: float) -> Mixture:
    given = {task: _Given(own) for task, own in tasks.items()}
    return Mixture("tried", dict.fromkeys(tasks, 1.0) | weights, given)  # type: ignore[arg-type]


def drawn(tasks: Mapping[str, Sequence[Sequence[int]]], **weights: float) -> TrialTexts:
    found = draw_texts(mixture(tasks, **weights))
    assert found is not None
    return found


def test_parts_are_apart_and_do_not_depend_on_the_order() -> None:
    own = random_token_ids(60)
    found = drawn({"a": own})
    assert found == drawn({"a": own[::-1]}) == drawn({"a": [*own, *own]})
    fitted, judged = ({ids for ids, _ in part} for part in (found.fitted, found.judged))
    assert not fitted & judged
    assert fitted | judged <= {tuple(ids) for ids in own}
    total = sum(map(len, {tuple(ids) for ids in own}))
    assert total / 4 <= sum(map(len, judged)) < total / 4 + 30


def test_long_corpora_give_a_few_thousand_tokens() -> None:
    own = random_token_ids(40, longest=700)
    found = drawn({"a": own})
    fitted, judged = (sum(len(ids) for ids, _ in part) for part in (found.fitted, found.judged))
    assert module.FITTED_TOKENS <= fitted < module.FITTED_TOKENS + module._LENGTH
    assert module.JUDGED_TOKENS <= judged == found.judged_tokens < module.JUDGED_TOKENS + module._LENGTH
    assert all(len(ids) <= module._LENGTH for ids, _ in (*found.fitted, *found.judged))


def test_tasks_count_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FITTED_TOKENS", 400)
    tasks = {"a": random_token_ids(80, seed=1), "b": random_token_ids(30, seed=2)}
    found = drawn(tasks, a=3.0)
    first = {tuple(ids) for ids in tasks["a"]}
    for part in (found.fitted, found.judged):
        of_first = sum(len(ids) * weight for ids, weight in part if ids in first)
        assert of_first == pytest.approx(0.75)
        assert sum(len(ids) * weight for ids, weight in part) == pytest.approx(1.0)
    tokens = {task: sum(len(ids) for ids, _ in found.fitted if (ids in first) is (task == "a")) for task in tasks}
    assert found.effective_tokens == pytest.approx(1 / (0.75**2 / tokens["a"] + 0.25**2 / tokens["b"]))


def test_a_text_of_two_tasks_is_in_one_part_only() -> None:
    own = random_token_ids(40)
    found = drawn({"a": own, "b": [*own, *random_token_ids(40, seed=3)]})
    every = [ids for ids, _ in (*found.fitted, *found.judged)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("tasks", [{"a": [[1, 2, 3]]}, {"a": random_token_ids(20), "b": [[4], [4]]}])
def test_a_single_text_is_too_few(tasks: Mapping[str, Sequence[Sequence[int]]]) -> None:
    assert draw_texts(mixture(tasks)) is None
