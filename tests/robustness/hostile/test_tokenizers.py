"""A tokenizer.json that makes its library panic, abort or fail as it encodes, and a config that names odd things."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from robustness.commands import EXPORT
from support.editing import list_again, set_json
from support.processes import Tool

SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
SPECIAL = {"SpecialToken": {"id": "[X]", "type_id": 0}}


def template(**values: Any) -> dict[str, Any]:
    pieces = {"single": [SPECIAL, SEQUENCE], "pair": [SEQUENCE, SPECIAL], "special_tokens": {}}
    return {"post_processor": {"type": "TemplateProcessing", **pieces, **values}}


def table(content: bytes) -> dict[str, Any]:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}}


def replacement(pattern: str | dict[str, str], content: str = "x" * 4000) -> dict[str, Any]:
    shape = {"String": pattern} if isinstance(pattern, str) else pattern
    return {"type": "Replace", "pattern": shape, "content": content}


def sequence(key: str, name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {key: {"type": "Sequence", name: list(parts)}}


def model(kind: str, **values: Any) -> dict[str, Any]:
    return {"model": {"type": kind, **values}}


PADS = {"pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[X]"}
PARTS: dict[str, dict[str, Any]] = {
    "no model": {"model": None},
    "an unknown token that is out of range": model("Unigram", unk_id=99, vocab=[["a", 0.0]]),
    "a unigram model without unknown token": model("Unigram", vocab=[["a", 0.0], ["b", -1.0]]),
    "words without unknown token": model("WordLevel", unk_token="zzz", vocab={"the": 4}),
    "a merge of tokens that are not there": model("BPE", vocab={"a": 0}, merges=["a b"]),
    "ids beyond the vocabulary": model("WordLevel", unk_token="the", vocab={"the": 2**32 - 1}),
    "a template with a token that is not there": template(),
    "a template in a sequence": {"post_processor": {"type": "Sequence", "processors": [template()["post_processor"]]}},
    "a table of 8 GB": table(b"\xff" * 4 + bytes(28)),
    "a table of 2 bytes": table(b"ab"),
    "a table in a sequence": {"normalizer": {"type": "Sequence", "normalizers": [table(b"")["normalizer"]]}},
    "a stride longer than texts": {
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}
    },
    "replacements that multiply": sequence("normalizer", "normalizers", replacement("t"), replacement("x")),
    "expressions that multiply": sequence(
        "normalizer", "normalizers", *(replacement({"Regex": "[tx]"}, "x" * 9) for _ in range(4))
    ),
    "a decoder that multiplies": sequence("decoder", "decoders", replacement("t"), replacement("x")),
    "bytes that double": sequence("pre_tokenizer", "pretokenizers", *[BYTE_LEVEL] * 40),
    "a template that repeats": template(single=[SEQUENCE] * 9999),
    "padding of 40 GB": {"padding": {"strategy": {"Fixed": 10**10}, "direction": "Right", **PADS}},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_tokenizer_that_does_not_work(tool: Tool, work: Path, name: str) -> None:
    set_json(work / "m" / "tokenizer.json", **PARTS[name])
    if name == "padding of 40 GB":  # no damage, if it is switched off before anything is encoded
        assert tool(work, *EXPORT, memory=2**32, timeout=60).code == 0
    else:
        tool(work, *EXPORT, memory=2**30, timeout=20).refused(8, "token")
        assert not (work / "new").exists()


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/a.jinja"])
def test_a_chat_template_that_never_ends_is_refused_before_any_work(tool: Tool, work: Path, file: str) -> None:
    path = work / "m" / file
    if path.suffix == ".json":
        set_json(path, chat_template=ENDLESS)
    else:
        path.parent.mkdir(exist_ok=True)
        (work / "m" / "chat_template.jinja").write_text("{{ messages }}")
        path.write_text(ENDLESS)
    tool(work, *EXPORT, memory=2**30, timeout=40).refused(8, f"m/{file}", "chat template")
    assert not (work / "new").exists()


def test_a_tokenizer_or_chat_template_of_an_artifact_that_does_not_work(tool: Tool, done: Path, work: Path) -> None:
    folder = done / "a-0.2" / "onnx"
    command = ("generate", "out/a-0.2", "the cat", "--max-new-tokens", "2")
    for name in ("a table of 2 bytes", "a template with a token that is not there", "replacements that multiply"):
        sound = (folder / "tokenizer.json").read_bytes()
        set_json(folder / "tokenizer.json", **PARTS[name])
        list_again(done / "a-0.2")
        outcome = tool(work, *command, memory=2**31, timeout=20)
        *panic, message = outcome.err.splitlines()  # Rust prints where it was, whatever is made of it
        assert (outcome.code, message.startswith("Error: ")) == (7, True), outcome
        assert "out/a-0.2/onnx/" in message
        assert not any("Traceback" in line for line in panic)
        (folder / "tokenizer.json").write_bytes(sound)
    set_json(folder / "tokenizer.json", **PARTS["padding of 40 GB"])
    (folder / "chat_template.jinja").write_text(ENDLESS)
    list_again(done / "a-0.2")
    tool(work, *command, memory=2**31, timeout=40).refused(8, "chat template")
    assert tool(work, *command, "--raw", memory=2**31, timeout=40).code == 0


def test_a_tokenizer_with_a_key_twice_or_a_config_that_does_not_work(tool: Tool, work: Path) -> None:
    config, tokenizer = (work / "m" / name for name in ("tokenizer_config.json", "tokenizer.json"))
    sound = config.read_bytes()
    for values in (
        *({"model_max_length": "x"}, {"tokenizer_class": 5}, {"eos_token": 5}, {"padding_side": "up"}),
        *({"added_tokens_decoder": {"x": 5}}, {"model_input_names": 5}),
    ):
        set_json(config, **values)
        tool(work, *EXPORT, memory=2**30, timeout=20).refused(8, "token")
        config.write_bytes(sound)
    # of which another reader could take the other one
    tokenizer.write_text('{"normalizer": null, ' + tokenizer.read_text("utf-8").lstrip("{ \n"), "utf-8")
    tool(work, *EXPORT, memory=2**30, timeout=20).refused(8, "tokenizer.json", "twice")
    assert not (work / "new").exists()


def test_what_a_config_points_to_is_not_read(tool: Tool, work: Path, undisturbed: Path) -> None:
    outside = {"vocab_file": "/etc/passwd", "name_or_path": "attacker/x", "subfolder": "../..", "gguf_file": "x.gguf"}
    set_json(work / "m" / "tokenizer_config.json", **outside)
    assert tool(work, "calibrate", "m", "--task", "a=a.jsonl", "--out", "new", "-q", "--held-out", 16).code == 0
    tokens = "calibration/a/tokens.safetensors"
    assert (work / "new" / tokens).read_bytes() == (undisturbed / tokens).read_bytes()
