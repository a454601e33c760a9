"""The class for ONNX folders gives what the harness's own class gives for the model that they were written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seap_export.errors import ArtifactError
from validation.zero_shot.models import open_model
from validation.zero_shot.tasks import quiet_harness

TAIL = " the cat sat on the mat and then it ran far from home to see one more time" * 8
PAIRS = [
    ("the cat", " sat on the mat"),
    ("the cat", " sat on a"),
    ("the cat", " sat on the"),
    ("the cat ", "ran"),
    ("", "a dog ran"),
    ("", "<s>a dog"),
    ("<s>one", " more time"),
    ("a dog" + TAIL, " far from home"),
    ("é ☃", " ☃"),
]


def _answers(folder: Path, form: Any, batch_size: int) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance

    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(PAIRS)
    ]
    options: Any = {"batch_size": batch_size, "threads": 1, "on_sequences": lambda done, total: None}
    with quiet_harness(), open_model(folder / form, form, tokenizer_folder=folder / form, **options) as model:
        answers: list[tuple[float, bool]] = model.loglikelihood(requests, disable_tqdm=True)
    return answers


@pytest.mark.parametrize("batch_size", [1, 4])
def test_log_likelihoods_are_those_of_the_harness(model: Path, batch_size: int) -> None:
    """Trailing spaces, no prompt, special tokens in texts, more tokens than positions, bytes."""
    expected, found = _answers(model, "hf", 1), _answers(model, "onnx", batch_size)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert len({value for value, _ in expected}) == len(PAIRS)


def test_the_likeliest_continuation_is_greedy(model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model / "hf")
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    logits = AutoModelForCausalLM.from_pretrained(model / "hf", dtype=torch.float32)(ids).logits[0, -1]
    best, worst = int(logits.argmax()), int(logits.argmin())
    options: Any = {"batch_size": 1, "threads": 1, "on_sequences": lambda done, total: None}
    with open_model(model / "onnx", "onnx", tokenizer_folder=model / "onnx", **options) as lm:
        requests = [(None, ids[0].tolist(), [token]) for token in (best, worst)]
        answers = lm._loglikelihood_tokens(requests)
        assert [greedy for _, greedy in answers] == [True, False]


def test_a_tokenizer_without_an_end_of_text_is_refused(model: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    options: Any = {"batch_size": 1, "threads": 1, "on_sequences": lambda done, total: None}
    with (
        pytest.raises(ArtifactError, match="neither a BOS nor an EOS token"),
        open_model(model / "onnx", "onnx", tokenizer_folder=tmp_path, **options),
    ):
        pass
