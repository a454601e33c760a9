"""OpenVINO computes what torch computes with the weights that an IR holds, and keeps integers as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chosen import JOINT
from support.formats import PARTS, torch_logits, write_ir_model

from validation.runtimes.openvino_runner import OpenvinoRunner

pytestmark = pytest.mark.needs("openvino")


PRECISIONS = ("fp32", "fp16", "int8", "int4")
SMOKE = [("llama-gqa", "fp32", False), ("qwen3-biases", "int4", True)]
OTHERS = [(name, PRECISIONS[index % len(PRECISIONS)], True) for index, name in enumerate(JOINT)]


@pytest.mark.parametrize(
    ("variation", "precision", "pruned"), [*SMOKE, *(pytest.param(*case, marks=pytest.mark.full) for case in OTHERS)]
)
def test_equals_torch_with_the_weights_that_are_stored(
    variation: str, precision: str, pruned: bool, tmp_path: Path
) -> None:
    """A prompt, a second call with several tokens, and steps."""
    made = write_ir_model(tmp_path, variation, precision, pruned=pruned)
    stored = made.source if precision == "fp32" else made.with_stored_weights(tmp_path / "again")
    runner, (prompt, *more) = OpenvinoRunner(made.folder), PARTS
    given = [runner.prefill(prompt[None], [len(prompt)]), *(runner.append(part[None]) for part in more)]
    for logits, wanted in zip(given, torch_logits(stored), strict=True):
        assert np.abs(logits[0] - wanted).max() <= 1e-3


MORE = ("gemma3-all", "phi3-all", "lfm3-all", "qwen3_5-all", "falcon_h1-all", "gemma4-all")


@pytest.mark.parametrize("variation", ["llama-biases", *(pytest.param(name, marks=pytest.mark.full) for name in MORE)])
def test_rows_of_a_batch_are_those_alone(variation: str, tmp_path: Path, two_rows: Any) -> None:
    """The cache of the first model has a head of zeros in a layer, because 3 groups do not divide 8 heads."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4} if variation == "llama-biases" else {}
    made = write_ir_model(tmp_path, variation, "fp32", pruned=True, **heads)
    runner, wanted = OpenvinoRunner(made.folder), two_rows.of_torch(made.source)
    for _ in range(2):  # the second generation starts anew
        computed = two_rows.of(runner, keeps=True)
    assert len(computed) == len(wanted)
    assert two_rows.largest(computed, wanted) <= 1e-3


@pytest.mark.full
@pytest.mark.parametrize(("precision", "tied"), [("int8", False), ("int4", True)])
def test_integers_stay_compressed(precision: str, tied: bool, tmp_path: Path) -> None:
    """The CPU plugin has kernels from 4 blocks in a row on."""
    sizes = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 136, "tie_word_embeddings": tied}
    made = write_ir_model(tmp_path, "llama-gqa", precision, **sizes)
    products = [
        node.input(1).get_source_output().get_element_type().to_string()
        for node in OpenvinoRunner(made.folder).compiled.get_runtime_model().get_ops()
        if str(node.get_rt_info()["layerType"].astype(str)) == "FullyConnected"
    ]
    assert products == [precision.replace("int", "i")] * (3 * 5 + 1)
