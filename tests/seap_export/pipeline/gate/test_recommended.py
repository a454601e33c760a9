"""Which file is recommended, and which whole model beats a variant: one rule, from what was measured."""

from __future__ import annotations

from typing import Any

import pytest
from support.product import FirstToken

from seap_export.pipeline.gate.recommended import Limits, recommended
from seap_export.pipeline.gate.whole import beaten_by

MB = 1_000_000


def divergence(kl: float, error: float | None = 0.001, texts: list[list[float]] | None = None) -> dict[str, Any]:
    figures = {f"{name}_kl_nats": kl for name in ("mean", "median", "p99", "p999", "max")}
    return {**figures, "mean_kl_nats_stderr": error, **({} if texts is None else {"kl_nats_by_text": texts})}


def variant(
    size: int = 50, kl: float | None = 0.1, error: float | None = 0.001, left: int = 80, **changes: Any
) -> dict[str, Any]:
    """A variant with one file, of 20 % fewer parameters unless `left` says more."""
    return {
        "task": "a",
        "num_parameters": left,
        "dense_parameters": 100,
        "formats": {"onnx": {"precision": "int8"}},
        "bytes": {"hf": 400 * MB, "onnx": size * MB},
        "quality": None if kl is None else {"divergence": {"onnx": divergence(kl, error)}},
        "speed": None,
        **changes,
    }


def whole(size: int, kl: float, precision: str = "int4", **changes: Any) -> dict[str, Any]:
    quality = {"divergence": {"onnx": divergence(kl)}}
    row = {"task": "a", "precision": precision, "bytes": size * MB, "refusal": "", "quality": quality, "speed": None}
    return {**row, **changes}


WHOLE = {"int4": whole(90, 0.037), "int8": whole(157, 0.0056, "int8")}


def of_a(
    variants: dict[str, Any], rows: dict[str, Any], limits: Limits | None = None, failed: Any = ()
) -> dict[str, Any]:
    return recommended(variants, rows, limits or Limits(), failed)["a"]


@pytest.mark.parametrize(
    ("variants", "limits", "file", "rule"),
    [
        ({"a-0.2": variant(134, 0.13)}, Limits(), "int4", "as near as int4"),  # beaten by it
        ({"a-0.2": variant(60, 0.13)}, Limits(), "int4", "as near as int4"),  # clearly further away
        ({"a-0.2": variant(60, 0.039)}, Limits(), "a-0.2/onnx", "as near as int4"),  # within two errors
        ({"a-0.2": variant(60, 0.03), "a-0.5": variant(40, 0.037)}, Limits(), "a-0.5/onnx", "as near as int4"),
        ({"a-0.2": variant(60, 0.039, error=None)}, Limits(), "int4", "as near as int4"),  # nothing says how close
        ({"a-0.2": variant(60, 0.13)}, Limits(max_kl=0.2), "a-0.2/onnx", "limits"),
        ({"a-0.2": variant(60, 0.13)}, Limits(max_kl=0.01), "int8", "limits"),
        ({"a-0.2": variant(60, 0.13)}, Limits(max_kl=0.001), None, "limits"),
        ({"a-0.2": variant(60, 0.13), "a-0.5": variant(40, 0.3)}, Limits(bytes=70 * MB), "a-0.2/onnx", "nearest"),
        ({"a-0.2": variant(60, 0.13)}, Limits(bytes=50 * MB), None, "limits"),
        ({"a-0.2": variant(60, None)}, Limits(), "int4", "as near as int4"),
    ],
)
def test_the_rule(variants: dict[str, Any], limits: Limits, file: str | None, rule: str) -> None:
    found = of_a(variants, WHOLE, limits)
    assert (found["file"], found["rule"]) == (file, rule)


def test_without_the_whole_model_the_nearest_is_recommended_and_the_smallest_named() -> None:
    found = of_a({"a-0.2": variant(60, 0.13), "a-0.5": variant(40, 0.3), "a-0.6": variant(50, 0.4)}, {})
    assert (found["file"], found["rule"], found["beside"]) == ("a-0.2/onnx", "nearest", None)
    assert (found["nearest"], found["smallest"]) == ("a-0.2/onnx", "a-0.5/onnx")
    assert [file["name"] for file in found["files"] if file["beaten"]] == ["a-0.6/onnx"]


def test_a_difference_is_paired_by_text() -> None:
    """Each text differs by as much, so that the error of the difference is far below those of the means."""
    texts = [[1.0, 10], [3.0, 10], [9.0, 10], [2.0, 10]]
    more = [[total + 0.2, count] for total, count in texts]
    rows = {"int4": whole(90, 0.375, quality={"divergence": {"onnx": divergence(0.375, 0.18, texts)}})}
    further = variant(60, quality={"divergence": {"onnx": divergence(0.395, 0.18, more)}})
    assert of_a({"a-0.2": further}, rows)["file"] == "int4"
    unpaired = variant(60, quality={"divergence": {"onnx": divergence(0.395, 0.18)}})
    assert of_a({"a-0.2": unpaired}, rows)["file"] == "a-0.2/onnx"


def test_what_failed_a_check_is_no_candidate() -> None:
    variants = {"a-0.2": variant(60, 0.03)}
    assert of_a(variants, WHOLE)["file"] == "a-0.2/onnx"
    assert of_a(variants, WHOLE, failed=[("a-0.2", "onnx")])["file"] == "int4"
    assert of_a(variants, WHOLE, failed=[("a-0.2", "gguf")])["file"] == "a-0.2/onnx"


def test_each_folder_is_a_candidate_and_one_without_figures_is_named() -> None:
    formats = {"onnx": {"precision": "int8"}, "gguf": {"precision": "q4_0"}, "mlx": {"precision": "4bit"}}
    sizes = {"hf": 400 * MB, "onnx": 80 * MB, "gguf": 55 * MB, "mlx": 50 * MB}
    quality = {"divergence": {"onnx": divergence(0.02), "gguf in llama.cpp": divergence(0.03)}}
    found = of_a({"a-0.2": variant(formats=formats, bytes=sizes, quality=quality)}, WHOLE)
    assert found["file"] == "a-0.2/gguf"
    assert found["not_measured"] == ["a-0.2/mlx"]
    assert found["words"].endswith("Not measured: a-0.2/mlx.")


def test_a_variant_of_ratio_0_is_the_whole_model() -> None:
    own = variant(90, 0.037, left=100, formats={"onnx": {"precision": "int4"}})
    found = of_a({"a-0": own, "a-0.2": variant(60, 0.2)}, {})
    assert (found["file"], found["beside"]) == ("a-0/onnx", "a-0/onnx")
    assert "the whole model, a-0/onnx, in int4" in found["words"]


def test_a_refused_model_and_other_tasks_are_left_out() -> None:
    rows = {**WHOLE, "int4": whole(90, 0.037, refusal="no"), "other": whole(1, 0.0, task="b")}
    found = recommended({"a-0.2": variant()}, rows, Limits())
    assert [file["name"] for file in found["a"]["files"]] == ["a-0.2/onnx", "int8"]
    assert found["b"]["file"] == "other"


def test_a_limit_of_accuracy() -> None:
    """Of the dense model's, on every task; what was asked nothing is not within it."""

    def answered(share: float) -> dict[str, Any]:
        shares = {"dense": 0.8, "onnx": share}
        scores = {form: {"a": {"acc": value, "questions": 100}} for form, value in shares.items()}
        return {"divergence": {"onnx": divergence(0.1)}, "zero_shot": scores}

    variants = {"a-0.2": variant(60, quality=answered(0.77)), "a-0.5": variant(40, quality=answered(0.7))}
    found = of_a(variants, WHOLE, Limits(min_accuracy_retained=0.95))
    assert (found["file"], found["rule"]) == ("a-0.2/onnx", "limits")
    assert [file["within_limits"] for file in found["files"]] == [False, True, False, False]
    assert found["files"][1]["accuracy"] == {"a": {"share": 0.77, "dense": 0.8, "questions": 100}}
    assert of_a(variants, WHOLE, Limits(min_accuracy_retained=0.99))["file"] is None


def right(kl: float, share: float, questions: int = 100, task: str = "a", key: str = "generation") -> dict[str, Any]:
    """The share of right answers of a file, and of the dense model 30 in 100."""
    name = {"generation": "exact_match", "zero_shot": "acc"}[key]
    shares = {"dense": 0.3, "onnx": share}
    scores = {form: {task: {name: value, "questions": questions}} for form, value in shares.items()}
    return {"divergence": {"onnx": divergence(kl)}, "folder": "onnx", key: scores}


def learnt(size: int, kl: float, share: float, questions: int = 100) -> dict[str, Any]:
    return variant(size, quality=right(kl, share, questions), learning={"kept": 1, "passes": []})


#: In that of 90 right ones in 100, an interval begins at 82.6 %.
LEARNT = {"a-0.2": learnt(60, 8.0, 0.9), "a-0.5": learnt(40, 8.0, 0.83), "a-0.6": learnt(30, 6.0, 0.82)}
RIGHT = {"int4": whole(90, 0.037, quality=right(0.037, 0.3)), "int8": whole(157, 0.0056, "int8")}


@pytest.mark.parametrize(
    ("more", "limits", "file", "rule"),
    [
        ({}, Limits(), "a-0.5/onnx", "as right as the best"),
        ({"a-0.5": learnt(40, 8.0, 0.82)}, Limits(), "a-0.2/onnx", "as right as the best"),
        ({"a-0.1": learnt(70, 9.0, 0.97)}, Limits(), "a-0.1/onnx", "as right as the best"),
        ({"a-0.1": learnt(70, 5.0, 0.9)}, Limits(), "a-0.5/onnx", "as right as the best"),
        ({}, Limits(bytes=35 * MB), "a-0.6/onnx", "as right as the best"),
        ({}, Limits(bytes=20 * MB), None, "limits"),
        ({}, Limits(min_accuracy_retained=2.7), "a-0.6/onnx", "limits"),
        ({}, Limits(max_kl=7.5), "a-0.6/onnx", "limits"),
        ({"a-0.7": variant(20, 0.01)}, Limits(), "a-0.5/onnx", "as right as the best"),  # it was asked nothing
    ],
)
def test_where_right_answers_were_learnt_they_decide(
    more: dict[str, Any], limits: Limits, file: str | None, rule: str
) -> None:
    """The whole model in 4 bits is far nearer to the original."""
    found = of_a({**LEARNT, **more}, RIGHT, limits)
    assert (found["judged_by"], found["file"], found["rule"]) == ("right answers", file, rule)
    unlearnt = {name: {**row, "learning": None} for name, row in {**LEARNT, **more}.items()}
    assert of_a(unlearnt, RIGHT, limits)["judged_by"] == "KL"


def test_a_file_that_is_right_less_often_and_no_smaller_is_beaten_however_near() -> None:
    found = of_a({**LEARNT, "a-0.3": learnt(60, 0.01, 0.8)}, RIGHT)
    assert [file["name"] for file in found["files"] if file["beaten"]] == ["a-0.3/onnx", "int4", "int8"]
    assert (found["nearest"], found["smallest"]) == ("a-0.2/onnx", "a-0.6/onnx")
    # another task keeps its own rule
    rows = {**RIGHT, "b-int4": whole(90, 0.037, task="b")}
    assert recommended({**LEARNT, "b-0.2": variant(60, 0.13, task="b")}, rows, Limits())["b"]["judged_by"] == "KL"


def test_a_file_must_be_as_right_in_every_task_that_the_best_was_asked() -> None:
    both = {**right(7.0, 0.9), **right(7.0, 0.9, task="c", key="zero_shot")}
    best = variant(60, quality=both, learning={"kept": 1, "passes": []})
    assert of_a({"a-0.2": best, "a-0.5": LEARNT["a-0.5"]}, {})["file"] == "a-0.2/onnx"
    worse = {**both, **right(7.0, 0.7, task="c", key="zero_shot")}
    assert (
        of_a({"a-0.2": best, "a-0.5": {**best, "bytes": {"onnx": MB}, "quality": worse}}, {})["file"] == "a-0.2/onnx"
    )
    alike = {**both, **right(7.0, 0.85, task="c", key="zero_shot")}
    assert (
        of_a({"a-0.2": best, "a-0.5": {**best, "bytes": {"onnx": MB}, "quality": alike}}, {})["file"] == "a-0.5/onnx"
    )


TOLD = {
    Limits(): (
        "Ship a-0.5/onnx in int8 (40.0 MB, 83 of 100 right (74 to 89%), the dense model 30): the smallest file that "
        "is about as often right as the best, at 44.4% of the size of the whole model in int4. In right answers, it "
        "is too close to tell from a-0.2/onnx in int8 and a-0.6/onnx in int8. If 60.0 MB fit, ship a-0.2/onnx in "
        "int8, right most often (90 of 100 right); the smallest is a-0.6/onnx in int8 (30.0 MB, 82 of 100 right)."
    ),
    Limits(bytes=20 * MB): "20.0 MB. Right most often is a-0.2/onnx in int8 (60.0 MB, 90 of 100 right).",
    Limits(bytes=50 * MB): "the smallest file within 50.0 MB that is about as often right as the best",
    Limits(min_accuracy_retained=2.7): "the smallest file within 270% of the dense model's accuracy, at 33.3% of",
}
#: Precisions of the whole model that are right more often than all variants, and their sizes.
BETTER = [("int4", 90, 0.95), ("int8", 157, 0.97)]


@pytest.mark.parametrize("limits", TOLD)
def test_words_are_of_right_answers_where_these_decide(limits: Limits) -> None:
    words = of_a(LEARNT, RIGHT, limits)["words"]
    assert TOLD[limits] in words
    assert "KL" not in words
    assert "nearest" not in words
    assert "the only file that is about as often right" in of_a({"a-0.2": LEARNT["a-0.2"]}, {})["words"]
    better = {name: whole(size, 0.1, name, quality=right(0.1, share)) for name, size, share in BETTER}
    words = of_a(LEARNT, better, Limits(bytes=70 * MB))["words"]
    assert "If 157 MB fit, ship the whole model in int8, right most often (97 of 100 right)" in words


@pytest.mark.parametrize(
    ("share", "simple", "words"),
    [
        (0.9, None, ""),
        (0.45, None, ""),
        (0.3, None, "No file does a: the best has 30 of 100 right."),
        (0.9, (40, 82), ""),
        (
            0.9,
            (40, 83),
            "A linear classifier of n-grams of letters does a as well (83 of 100 right), and needs no model.",
        ),
        (0.5, (41, 40), "No file does a: the best has 50 of 100 right, and the most frequent answer alone has 41."),
    ],
)
def test_the_first_words_doubt_what_is_no_use(share: float, simple: tuple[int, int] | None, words: str) -> None:
    row = learnt(60, 7.0, share)
    if simple is not None:
        row["quality"]["baselines"] = {"a": dict(zip(("frequent", "linear"), simple, strict=True))}
    doubts, _, rest = of_a({"a-0.2": row}, {})["words"].partition("Ship a-0.2/onnx")
    assert doubts.strip() == words
    assert "up to ten right answers" in rest


def timed(rate: float, ms: float = 9.0) -> dict[str, Any]:
    """Tokens a second, of 50 in the dense model, and the time to the first token of a prompt of 512."""
    cells = [{"batch": 1, "depth": 128, "decode_ms_per_token": 1e3 / rate, "prefill_ms": 9.0}]
    cells += [{**cells[0], "depth": 512, "prefill_ms": ms}]
    return {"dense": [{**cell, "decode_ms_per_token": 20.0} for cell in cells], "variant": cells, "verdicts": []}


def searched(**point: Any) -> dict[str, Any]:
    chosen = {"variant": "a-0.2", "decode_speedup": 2.0, "chosen": True, **point}
    return {"tasks": {"a": {"points": [{**chosen, "variant": "a-0.1", "chosen": False}, chosen]}}}


RATES = [(90, 1.9, "a-0.2/onnx"), (96, 1.9, "int4"), (200, 1.9, "int4"), (99, 2.0, "a-0.2/onnx")]


@pytest.mark.parametrize(("rate", "wanted", "file"), RATES)
def test_what_misses_a_target_for_the_speed_is_not_recommended(rate: float, wanted: float, file: str) -> None:
    """The chosen variant was measured to be twice as fast as the dense model; the others are held against its rate."""
    variants, limits = {"a-0.2": variant(95, 0.13, speed=timed(100))}, Limits(decode_speedup=wanted)
    rows = {"int4": whole(90, 0.037, speed=timed(rate)), "int8": whole(157, 0.0056, "int8")}
    found = recommended(variants, rows, limits, frontier=searched())["a"]
    assert (found["file"], found["files"][-1]["within_limits"]) == (file, False)
    assert recommended(variants, rows, limits)["a"]["file"] is None  # nothing says how fast


def test_what_misses_a_target_for_the_first_token_is_not_recommended() -> None:
    """The chosen variant took 200 ms in the search and takes 220 now, so that what takes 275 still meets 250."""
    frontier = searched(first_token_ms=200.0, first_token_speedup=3.0)
    variants = {"a-0.2": variant(95, 0.13, speed=timed(100, 220.0))}
    limits = Limits(first_token=FirstToken(512, ms=250.0))
    for ms, file in ((270.0, "int4"), (280.0, "a-0.2/onnx")):
        rows = {"int4": whole(90, 0.037, speed=timed(100, ms))}
        found = recommended(variants, rows, limits, (), frontier)["a"]
        assert found["file"] == file
        assert found["limits"]["first_token"] == {"tokens": 512, "ms": 250.0, "speedup": None}
        assert [each["first_token_ms_by_tokens"]["512"] for each in found["files"]] == [ms, 220.0]
    assert "250 ms to the first token of a prompt of 512" in found["words"]
    faster = Limits(first_token=FirstToken(512, speedup=2.4))  # three times as fast: a quarter to spare
    for speed in (timed(100, 280.0), None):
        rows = {"int4": whole(90, 0.037, speed=speed)}
        assert recommended(variants, rows, faster, (), frontier)["a"]["file"] == "a-0.2/onnx"
    assert Limits.of_targets({"first_token": {"tokens": 9, "ms": 1.0, "speedup": None}}).first_token is not None


def figures(kl: float | None, speedup: float | None) -> dict[str, Any]:
    quality = None if kl is None else {"divergence": {"onnx": {"mean_kl_nats": kl}}, "folder": "onnx"}
    speed = None if speedup is None else {"variant": [{"decode_speedup": speedup}], "folder": "onnx"}
    return {"quality": quality, "speed": speed, "task": "a"}


def beatable(size: int = 100, kl: float | None = 0.2, speedup: float | None = 1.5, left: int = 80) -> dict[str, Any]:
    return variant(left=left, bytes={"hf": 400, "onnx": size}, **figures(kl, speedup))


def row(size: int, kl: float | None = 0.1, speedup: float | None = 1.6, **changes: Any) -> dict[str, Any]:
    return {**figures(kl, speedup), "bytes": size, "beside": "int8", "refusal": "", **changes}


@pytest.mark.parametrize(
    ("better", "beats"),
    [
        (row(99), True),
        (row(100), False),
        (row(99, kl=0.2), False),
        (row(99, speedup=1.5), False),
        (row(99, kl=None), True),
        (row(99, speedup=None), True),
        (row(99, kl=None, speedup=None), False),
        (row(99, task="b"), False),
        (row(99, beside="fp32"), False),
        (row(99, refusal="no"), False),
    ],
)
def test_it_must_be_better_in_all_that_was_measured(better: dict[str, Any], beats: bool) -> None:
    assert beaten_by("a-0.2", {"a-0.2": beatable()}, {"whole": better}) == ("whole" if beats else None)


@pytest.mark.parametrize(("learning", "beats"), [(None, True), ({"kept": 0, "passes": []}, False)])
def test_what_has_learnt_right_answers_is_not_beaten_by_nearness(learning: Any, beats: bool) -> None:
    own = {**beatable(), "learning": learning}
    assert beaten_by("a-0.2", {"a-0.2": own}, {"whole": row(99)}) == ("whole" if beats else None)


def test_the_nearest_of_several_is_named() -> None:
    rows = {"far": row(50, kl=0.15), "near": row(99, kl=0.05)}
    assert beaten_by("a-0.2", {"a-0.2": beatable()}, rows) == "near"
    assert beaten_by("a-0.2", {"a-0.2": beatable(kl=None)}, {"far": row(50), "near": row(99)}) is not None
    assert beaten_by("a-0.2", {"a-0.2": beatable(kl=None, speedup=None)}, {"whole": row(1)}) is None


def test_a_variant_of_ratio_0_is_a_whole_model() -> None:
    variants = {"a-0.2": beatable(), "a-0": beatable(90, 0.1, 1.6, left=100)}
    assert beaten_by("a-0.2", variants, {}) == "a-0"
    assert beaten_by("a-0", variants, {}) is None
    assert beaten_by("a-0.2", {**variants, "a-0": beatable(90, 0.1, 1.6, left=99)}, {}) is None
