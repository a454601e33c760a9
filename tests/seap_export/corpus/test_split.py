from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from seap_export.corpus import Sample, Split, check_disjoint, split_samples, text_digest
from seap_export.errors import InputError, UsageError


def _samples(count: int) -> list[Sample]:
    return [Sample(f"Question {i}", f" answer {i}") for i in range(count)]


def _split(
    samples: Iterable[Sample], num_samples: int | None = None, num_held_out: int | None = 16, seed: int = 0
) -> Split:
    return split_samples("x", samples, num_samples=num_samples, num_held_out=num_held_out, seed=seed)


def _message(
    error: type[Exception], samples: Iterable[Sample], num_samples: int | None, num_held_out: int | None
) -> str:
    with pytest.raises(error) as caught:
        _split(samples, num_samples, num_held_out)
    return str(caught.value)


def test_texts_are_taken_in_order_of_their_seeded_digest_and_held_out_first() -> None:
    samples = _samples(50)
    ordered = sorted(samples, key=lambda sample: hashlib.sha256(f"7\0{sample.text}".encode()).hexdigest())
    split = _split(iter(samples), num_samples=10, num_held_out=5, seed=7)
    assert split.held_out == tuple(ordered[:5])
    assert split.calibration == tuple(ordered[5:15])


@pytest.mark.parametrize(("most", "num_calibration"), [(None, 284), (284, 284), (283, 283), (1000, 284), (1, 1)])
def test_all_texts_up_to_the_number_that_is_enough(most: int | None, num_calibration: int) -> None:
    samples = _samples(300)
    split = split_samples("x", samples, num_samples=None, num_held_out=16, seed=0, most=most)
    whole = _split(samples, 284)
    assert split.held_out == whole.held_out
    assert split.calibration == whole.calibration[:num_calibration]
    assert split == whole.calibrated_on(num_calibration)


def test_duplicate_texts_count_once_wherever_they_stand() -> None:
    samples = _samples(30)
    split = _split(samples + samples[::-1] + samples[:3], num_samples=14)
    assert split == _split(samples, num_samples=14)
    assert len({sample.text for sample in split.calibration + split.held_out}) == 30
    assert "the corpus has 30 distinct texts" in _message(InputError, samples * 2, 15, 16)


def test_one_text_cut_at_two_places_is_one_text_in_any_order() -> None:
    cuts = [Sample("a b", ""), Sample("a", " b"), Sample("a ", "b")]
    for order in (cuts, cuts[::-1], cuts[1:] + cuts[:1]):
        assert _split(order, num_samples=1, num_held_out=0) == Split((Sample("a", " b"),), ())


@pytest.mark.parametrize(
    ("num_texts", "num_held_out"), [(2, 1), (7, 1), (8, 2), (17, 4), (63, 15), (64, 16), (67, 16), (300, 16)]
)
@pytest.mark.parametrize("most", [None, 1, 40])
def test_sixteen_are_held_out_and_a_quarter_at_most(num_texts: int, num_held_out: int, most: int | None) -> None:
    samples = _samples(num_texts)
    split = split_samples("x", iter(samples), num_samples=None, num_held_out=None, seed=0, most=most)
    assert split == split_samples("x", samples, num_samples=None, num_held_out=num_held_out, seed=0, most=most)
    assert len(split.held_out) == num_held_out
    assert len(split.calibration) == min(num_texts - num_held_out, most or num_texts)


def test_the_quarter_leaves_room_for_the_sample() -> None:
    assert len(_split(_samples(17), 13, None).calibration) == 13
    assert "set samples to 13 or" in _message(InputError, _samples(17), 14, None)


@pytest.mark.parametrize("num_texts", [0, 1])
def test_one_text_cannot_be_divided(num_texts: int) -> None:
    message = _message(InputError, _samples(num_texts), None, None)
    assert message.startswith(
        f"task 'x': the corpus has {num_texts} distinct text{'s' * (1 - num_texts)}, but 1 held-out text"
    )


def test_too_large_a_sample_names_the_number_that_works() -> None:
    assert _message(InputError, _samples(90), 200, 16) == (
        "task 'x': the corpus has 90 distinct texts, but 200 calibration + 16 held-out texts were asked for; "
        "set samples to 74 or give more texts"
    )
    assert len(_split(_samples(90), 74).calibration) == 74
    assert "set samples to 74 or" in _message(InputError, _samples(90), 75, 16)


@pytest.mark.parametrize("num_samples", [None, 5])
@pytest.mark.parametrize("num_texts", [0, 16])
def test_corpus_that_leaves_nothing_to_calibrate_on_is_refused(num_texts: int, num_samples: int | None) -> None:
    assert _message(InputError, _samples(num_texts), num_samples, 16) == (
        f"task 'x': the corpus has {num_texts} distinct texts, but 16 held-out texts and at least 1 calibration text "
        "are needed; hold out fewer texts or give more texts"
    )


def test_senseless_numbers_are_refused() -> None:
    assert _message(UsageError, [], 0, 16).startswith("task 'x': 0 calibration texts ")
    assert _message(UsageError, [], 5, -1).startswith("task 'x': -1 held-out texts ")


def test_digests_are_sorted_and_of_the_whole_text() -> None:
    assert text_digest("é") == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"
    split = Split((Sample("b", "c"), Sample("a", "")), (Sample("d", ""),))
    assert split.digests() == {
        "calibration": sorted([text_digest("bc"), text_digest("a")]),
        "held_out": [text_digest("d")],
    }


def test_split_refuses_a_shared_text_and_an_empty_calibration() -> None:
    with pytest.raises(InputError) as shared:
        Split((Sample("a", "b"), Sample("c", "")), (Sample("ab", ""),))
    assert str(shared.value).startswith("1 of the 1 evaluated texts ")
    with pytest.raises(InputError) as empty:
        Split((), (Sample("a", ""),))
    assert str(empty.value) == "a split needs at least one calibration text; give more texts"


def test_check_disjoint_counts_the_shared_texts() -> None:
    check_disjoint(["a", "b"], ["c"])
    check_disjoint([], [])
    with pytest.raises(InputError) as caught:
        check_disjoint(iter(["a", "b", "c"]), iter(["b", "c", "c", "d"]))
    assert str(caught.value).startswith("2 of the 3 evaluated texts ")
