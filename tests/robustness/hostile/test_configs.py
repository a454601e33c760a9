"""config.json, generation_config.json and the tokenizer's files with values that no model has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from robustness.commands import EXPORT
from support.exports import Run
from support.models import write_micro_model
from support.processes import Tool

HUGE = f"{10**18}"
#: As JSON, since some of it is none.
VALUES = {
    "num_hidden_layers": ["1000000000", "-1", "9" * 4000, "9" * 5000],
    "hidden_size": [HUGE, "NaN"],
    "vocab_size": [HUGE, "null"],
    "head_dim": [HUGE, "[]"],
    "num_attention_heads": ["0", HUGE, "{}"],
    "num_key_value_heads": ["6000000000"],
    "intermediate_size": [HUGE, "Infinity"],
    "max_position_embeddings": [HUGE, "-1"],
    "rms_norm_eps": ["1e999"],
    "rope_theta": ["-Infinity", "[1]"],
    "rope_scaling": [
        *('{"rope_type": ["linear"], "factor": 2}', '{"rope_type": "linear", "factor": "x"}'),
        *('{"rope_type": "linear", "factor": 0}', '{"rope_type": "yarn", "factor": -2}'),
        '{"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 0}',
        '{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, '
        '"original_max_position_embeddings": 32}',
    ],
    "eos_token_id": ['"x"', "96", "-2", '[2, "x"]', "true"],
    "bos_token_id": ["{}", "9" * 30],
    "pad_token_id": ["0.5"],
    "dtype": ['"float3"'],
    "tie_word_embeddings": ['"yes"'],
    "model_type": ["5", '["llama"]', '"../llama"'],
    "hidden_act": ['["silu"]', '"eval"'],
    "quantization_config": ['"x"', '{"a": 1}'],
    "per_layer_config": ['{"x": {}}', '{"0": 5}', '{"0": {}}'],
    "sliding_window": ['"x"', "1" + "0" * 21],
}


def spoil(folder: Path, key: str, value: str, file: str = "config.json") -> None:
    """Puts a value, as JSON, into a file."""
    path = folder / file
    values = json.loads(path.read_text("utf-8"))
    values[key] = "VALUE"
    path.write_text(json.dumps(values).replace('"VALUE"', value), "utf-8")


@pytest.mark.parametrize("key", VALUES)
def test_a_value_that_no_model_has(tool: Tool, work: Path, key: str) -> None:
    if key == "sliding_window":
        write_micro_model(work / "m", model_type="mistral")
    sound = (work / "m" / "config.json").read_bytes()
    for value in VALUES[key]:
        spoil(work / "m", key, value)
        message = tool(work, *EXPORT, memory=2**30, timeout=20).refused(8)
        assert len(message) < 600
        assert not (work / "new").exists()
        (work / "m" / "config.json").write_bytes(sound)


def test_tokens_that_generation_config_names_and_no_model_has(run: Run, work: Path) -> None:
    for value in ('"x"', "{}", "96", "[1, -7]"):
        spoil(work / "m", "eos_token_id", value, "generation_config.json")
        run(*EXPORT).refused(8, "m/generation_config.json", "eos_token_id", "96")


def test_what_classifiers_count_makes_no_table(tool: Tool, work: Path) -> None:
    """transformers would make a dictionary of a billion labels."""
    spoil(work / "m", "num_labels", "1000000000")
    assert tool(work, *EXPORT, memory=2**30, timeout=30).code == 0
    assert "num_labels" not in json.loads((work / "new" / "a-0.2" / "hf" / "config.json").read_text("utf-8"))


FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
CONTENTS = (
    *(b"", b"\xff\xfe\x00garbage", b"null", b"[]", b'{"a": NaN}', b'{"a": -1e999}'),
    *(b'{"a": ' + b"[" * 100_000, b"[" * 900 + b"]" * 900, b'{"a": ' + b"9" * 5000 + b"}"),
)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_no_json_of_ours(run: Run, tool: Tool, work: Path, file: str) -> None:
    sound = (work / "m" / file).read_bytes()
    for content in CONTENTS:
        (work / "m" / file).write_bytes(content)
        run(*EXPORT).refused(8, f"m/{file}")
    with (work / "m" / file).open("r+b") as stream:
        stream.write(sound)
        stream.truncate(10**9)  # which is not read
    tool(work, *EXPORT, memory=2**29, timeout=20).refused(8, f"m/{file}", "JSON", "1000 MB", "268 MB")
    assert not (work / "new").exists()


@pytest.mark.parametrize("file", FILES[1:])
def test_a_file_that_is_none(tool: Tool, work: Path, file: str) -> None:
    """Opened, a pipe waits for ever and a device has no end: it counts as if it were not there."""
    calibrate = ("calibrate", "m", "--task", "a=a.jsonl", "--quiet")
    path, code = work / "m" / file, 8 if file == "tokenizer.json" else 0
    path.unlink()
    os.mkfifo(path)
    assert tool(work, *calibrate, "--out", "with a pipe", timeout=20).code == code
    path.unlink()
    path.symlink_to("/dev/zero")
    assert tool(work, *calibrate, "--out", "with a device", memory=2**30, timeout=20).code == code
