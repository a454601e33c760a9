"""States of convolutions and recurrences in batches of texts that begin and end apart, from the prompt on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from support.execution import ONE_THREAD, empty_state
from support.models import write_source
from support.product import OnnxForm, OnnxRunner, Run, States, open_session, open_torch_runner, write_onnx

from converters.onnx.graph.dialects import HOLES_GUARD

#: Shorter than a kernel, as long as one, and longer.
PROMPTS = ([5], [7, 8, 9], [11, 12, 13, 14], list(range(20, 37)))
STEPS = ([31, 41, 51, 61], [32, 42, 52, 62], [33, 43, 53, 63])
RECURRENT = ("lfm2", "lfm2-all", "qwen3_5", "qwen3_5-all", "granitemoehybrid-mamba")
#: States that do not grow.
FIXED = ("conv", "recurrent")
FORMS = {"fused": OnnxForm(), "standard": OnnxForm(dialect="standard"), "cuda": OnnxForm(provider="cuda")}

Made = tuple[Path, list[NDArray[np.float32]], list[list[States]]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The folder of a model, and of each text torch's logits and states, each text by itself."""
    made: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in made:
            folder = tmp_path_factory.mktemp("models") / "m"
            variation = name.removeprefix("pruned-")
            write_source(folder, variation, pruned=variation != name)
            texts = [[*prompt, *(step[row] for step in STEPS)] for row, prompt in enumerate(PROMPTS)]
            states: list[list[States]] = [[] for _ in texts]
            with open_torch_runner(folder, ONE_THREAD) as runner:
                runs = [Run([text], len(text)) for text in texts]
                logits = list(runner.run(runs, lambda row, layer: states[row].append(layer)))
            made[name] = folder, logits, states
        return made[name]

    return make


def written(folder: Path, form: OnnxForm, into: Path) -> Path:
    write_onnx(folder, into, form)
    return into / "model.onnx"


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        *((name, dialect) for name in RECURRENT[1::2] for dialect in FORMS),
        *zip((*RECURRENT[::2], "pruned-lfm2-all", "pruned-qwen3_5-all"), ("cuda", *FORMS, "fused"), strict=True),
    ],
)
def test_rows_of_several_lengths_are_those_alone(
    models: Callable[[str], Made], tmp_path: Path, name: str, dialect: str
) -> None:
    folder, wanted, states = models(name)
    runner = OnnxRunner(open_session(written(folder, FORMS[dialect], tmp_path), threads=1))
    ids = np.zeros((4, 17), np.int64)
    for row, prompt in zip(ids, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    logits = runner.prefill(ids, [len(prompt) for prompt in PROMPTS], len(STEPS))
    steps = [runner.step(step) for step in STEPS]
    for row, prompt in enumerate(PROMPTS):
        computed = np.stack([logits[row, -1 if logits.shape[1] == 1 else len(prompt) - 1], *(s[row] for s in steps)])
        np.testing.assert_allclose(computed, wanted[row][len(prompt) - 1 :], rtol=0, atol=3e-4)
        for cached, expected in zip(runner.cache(row), states[row], strict=True):
            assert cached.keys() == expected.keys()
            for state, values in expected.items():
                np.testing.assert_allclose(cached[state], values, rtol=0, atol=3e-4)


def call(session: Any, ids: Any, mask: Any, past: list[Any] | None = None) -> list[Any]:
    """Logits and states."""
    inputs = session.get_inputs()[2:]
    states = past or [empty_state(item, rows=len(ids)) for item in inputs]
    feeds = {item.name: state for item, state in zip(inputs, states, strict=True)}
    return list(session.run(None, {"input_ids": np.array(ids), "attention_mask": np.array(mask), **feeds}))


@pytest.mark.parametrize("name", RECURRENT)
def test_padding_changes_nothing_in_the_standard_dialect(
    models: Callable[[str], Made], tmp_path: Path, name: str
) -> None:
    """Biases make the values of padding other than 0, which a kernel must not see; a row without a token keeps its
    state."""
    folder, wanted, _ = models(name)
    session = ort.InferenceSession(written(folder, FORMS["standard"], tmp_path), providers=["CPUExecutionProvider"])
    ids, mask = np.full((4, 17), 3, np.int64), np.zeros((4, 17), np.int64)
    for row, prompt in enumerate(PROMPTS):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    states: list[Any] = []
    for part, step in enumerate([None, *STEPS]):
        if step is not None:
            ids, mask = np.array(step)[:, None], np.concatenate([mask, np.ones((4, 1), np.int64)], axis=1)
        logits, *states = call(session, ids, mask, states)
        for row, prompt in enumerate(PROMPTS):
            np.testing.assert_allclose(logits[row, -1], wanted[row][len(prompt) - 1 + part], rtol=0, atol=3e-4)
    mask = np.concatenate([mask, np.array([[1], [0], [1], [1]])], axis=1)
    _, *after = call(session, ids, mask, states)
    names = [item.name for item in session.get_outputs()[1:]]
    assert any(name.endswith(FIXED) for name in names)
    for name, first, second in zip(names, states, after, strict=True):
        if name.endswith(FIXED):
            assert not np.array_equal(first[0], second[0])
            np.testing.assert_array_equal(first[1], second[1])


def test_a_gap_between_tokens_fails_by_name_in_the_standard_dialect(
    models: Callable[[str], Made], tmp_path: Path
) -> None:
    """A kernel would see zeros in it."""
    path = written(models("lfm2-all")[0], FORMS["standard"], tmp_path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids = np.arange(3, 8)[None]
    _, *after = call(session, ids[:, :2], [[1, 1]])
    for mask in itertools.product((0, 1), repeat=3):
        text = "".join(map(str, mask))
        for past, before, has_gap in (([], [], "0" in text.strip("0")), (after, [1, 1], "01" in text)):
            with pytest.raises(Exception, match=HOLES_GUARD) if has_gap else nullcontext():
                call(session, ids[:, 2:], [[*before, *mask]], past)
