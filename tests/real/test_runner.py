"""The runner on the real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.runtime import Generator, Sampling

pytestmark = pytest.mark.full
PROMPTS = ["Question: Is water wet?\nAnswer:", "The sun is", "Grüße aus Köln, 你好, 🙂🚀 and three   spaces:"]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, 50, 0.95)])
def test_batches_and_streams_give_what_prompts_give_alone(demo: Path, sampling: Sampling) -> None:
    generator = Generator(demo / "sentiment-0.4" / "onnx")
    alone = [generator.generate(prompt, 12, sampling) for prompt in PROMPTS]
    assert ["".join(generator.stream(prompt, 12, sampling)) for prompt in PROMPTS] == alone
    if sampling.is_greedy:
        assert generator.generate_batch(PROMPTS, 12) == alone
