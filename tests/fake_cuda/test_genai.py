"""ONNX Runtime GenAI's CUDA package runs our graphs on CUDA, and replays a captured graph for each token."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import write_micro_model
from support.product import OnnxForm, PrecisionName, choose_precision, convert_folder
from support.variations import VARIATIONS

from fake_cuda.log import Counts
from fake_cuda.machine import Machine

pytestmark = pytest.mark.needs("fake-cuda")

PYTHON = Path(__file__).parents[2] / ".venv-genai-cuda" / "bin" / "python"
TOKENS, LAYERS = 8, 3
STEPS = """
import sys
import numpy as np
import onnxruntime_genai as og
from fake_cuda.log import mark

folder, tokens, rows, captured = sys.argv[1], *map(int, sys.argv[2:])
config = og.Config(folder)
if captured:
    config.set_provider_option("cuda", "enable_cuda_graph", "1")
parameters = og.GeneratorParams(model := og.Model(config))
parameters.set_search_options(do_sample=False, min_length=5 + tokens, max_length=5 + tokens, batch_size=rows)
generator = og.Generator(model, parameters)
mark("prompt")
generator.append_tokens(np.full((rows, 5), 7, np.int32))
for token in range(tokens):
    mark(f"token {token}")
    generator.generate_next_token()
mark("end")
print(model.device_type)
"""


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_it_runs_batches_and_captures_single_prompts(
    precision: PrecisionName, tmp_path: Path, fake_cuda: type[Machine]
) -> None:
    model, folder = write_micro_model(tmp_path / "m", **VARIATIONS["qwen3"]), tmp_path / "onnx"
    folder.mkdir()
    embeddings = {} if precision == "fp16" else {"embeddings": False}
    convert_folder(model, folder, OnnxForm(choose_precision(precision, "cuda", **embeddings), "fused", "last", "cuda"))

    def run(rows: int, captured: bool) -> list[Counts]:
        arguments = [folder, str(TOKENS), str(rows), str(int(captured))]
        ran = fake_cuda().run(["-c", STEPS, *arguments], python=PYTHON)
        assert ran.returncode == 0, ran.stderr
        assert "CUDA" in ran.stdout.upper()
        assert sum(section.captures for section in ran.sections.values()) == int(captured)
        assert not any(section.lost for section in ran.sections.values())
        return [ran[f"token {token}"] for token in range(3, TOKENS)]

    assert all(not each.replays and each.launches > 10 * LAYERS for each in run(rows=3, captured=False))
    for each in run(rows=1, captured=True):
        assert len(each.replays) == 1
        assert each.replays[0][0] > 8 * LAYERS > each.launches
