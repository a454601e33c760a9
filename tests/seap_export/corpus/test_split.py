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


def test_texts_are_taken_in_order_of_their_seeded_digest_and_held_out_first_whatever_repeats() -> None:
    samples = _samples(50)
    ordered = sorted(samples, key=lambda sample: hashlib.sha256(f"7\0{sample.text}".encode()).hexdigest())
    for corpus in (samples, samples + samples[::-1] + samples[:3]):
        split = _split(iter(corpus), num_samples=10, num_held_out=5, seed=7)
        assert split == Split(tuple(ordered[5:15]), tuple(ordered[:5]))
        assert (split.num_distinct, split.num_repeated) == (50, len(corpus) - 50)
    with pytest.raises(InputError, match="the corpus has 50 distinct texts"):
        _split(samples * 2, 35)
    cuts = [Sample("a b", ""), Sample("a", " b"), Sample("a ", "b")]  # one text
    for order in (cuts, cuts[::-1], cuts[1:] + cuts[:1]):
        assert _split(order, num_samples=1, num_held_out=0) == Split((Sample("a", " b"),), ())


@pytest.mark.parametrize(("most", "num_calibration"), [(None, 284), (284, 284), (283, 283), (1000, 284), (1, 1)])
def test_all_texts_up_to_the_number_that_is_enough(most: int | None, num_calibration: int) -> None:
    samples = _samples(300)
    split = split_samples("x", samples, num_samples=None, num_held_out=16, seed=0, most=most)
    whole = _split(samples, 284)
    assert split.held_out == whole.held_out
    assert split.calibration == whole.calibration[:num_calibration]
    assert split == whole.calibrated_on(num_calibration)


@pytest.mark.parametrize(("num_texts", "num_held_out"), [(2, 1), (7, 1), (8, 2), (63, 15), (64, 16), (300, 16)])
@pytest.mark.parametrize("most", [None, 40])
def test_sixteen_are_held_out_and_a_quarter_at_most(num_texts: int, num_held_out: int, most: int | None) -> None:
    samples = _samples(num_texts)
    split = split_samples("x", iter(samples), num_samples=None, num_held_out=None, seed=0, most=most)
    assert split == split_samples("x", samples, num_samples=None, num_held_out=num_held_out, seed=0, most=most)
    assert len(split.held_out) == num_held_out
    assert len(split.calibration) == min(num_texts - num_held_out, most or num_texts)


@pytest.mark.parametrize(("num_texts", "num_held_out"), [(3, 1), (63, 15), (799, 199), (800, 200), (900, 200)])
def test_another_number_may_be_held_out_and_still_a_quarter_at_most(num_texts: int, num_held_out: int) -> None:
    samples, options = _samples(num_texts), {"num_samples": None, "seed": 0, "most_held_out": 200}
    split = split_samples("x", iter(samples), num_held_out=None, **options)
    assert split == _split(samples, num_held_out=num_held_out)
    assert (len(split.held_out), len(split.calibration)) == (num_held_out, num_texts - num_held_out)
    assert len(split_samples("x", samples, num_held_out=2, **options).held_out) == 2


def test_a_corpus_that_is_too_small_is_refused_with_the_number_that_works() -> None:
    for num_texts, num_samples, num_held_out, message in (
        (17, 14, None, "set samples to 13 or"),
        (90, 75, 16, "the corpus has 90 distinct texts, but 75 calibration .* set samples to 74 or give more"),
        (16, None, 16, "16 distinct texts, but 16 held-out texts and at least 1 calibration text .*; hold out"),
        (1, None, None, "has 1 distinct text, but 1 held-out text"),
        (0, None, None, "has 0 distinct texts, but 1 held-out text"),
    ):
        with pytest.raises(InputError, match=message):
            _split(_samples(num_texts), num_samples, num_held_out)
    assert len(_split(_samples(90), 74).calibration) == 74
    assert len(_split(_samples(17), 13, None).calibration) == 13


def test_digests_are_sorted_and_of_the_whole_text_and_what_is_no_split_is_refused() -> None:
    assert text_digest("é") == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"
    split = Split((Sample("b", "c"), Sample("a", "")), (Sample("d", ""),))
    calibration = sorted([text_digest("bc"), text_digest("a")])
    assert split.digests() == {"calibration": calibration, "held_out": [text_digest("d")]}
    for numbers in ((0, 16), (5, -1)):
        with pytest.raises(UsageError, match="task 'x': "):
            _split([], *numbers)
    with pytest.raises(InputError, match=r"^1 of the 1 evaluated texts "):
        Split((Sample("a", "b"), Sample("c", "")), (Sample("ab", ""),))
    with pytest.raises(InputError, match="at least one calibration text"):
        Split((), (Sample("a", ""),))
    check_disjoint(["a", "b"], ["c"])
    with pytest.raises(InputError, match=r"^2 of the 3 evaluated texts "):
        check_disjoint(iter(["a", "b", "c"]), iter(["b", "c", "c", "d"]))
