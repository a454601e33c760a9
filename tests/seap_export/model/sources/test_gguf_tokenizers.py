"""The tokenizer written from a GGUF file gives the ids of llama.cpp's own tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from support.product import families
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from seap_export.errors import InputError
from seap_export.model.families import family_of_model_type
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.tokenizers import gguf_generation_config, gguf_tokenizer_files

GOLDEN = json.loads(Path(__file__).with_name("smollm2_tokens.json").read_text("utf-8"))
TEXTS: list[str] = GOLDEN["texts"]
#: By rule, the numbers of the texts that it cuts otherwise than Qwen2's, and their ids.
OTHERWISE: dict[str, dict[str, list[int]]] = {"qwen2": {}, **GOLDEN["byte_level"]["otherwise"]}
#: Rules for which llama.cpp gives the ids of another one. SmolLM3's (smaug-bpe) should give those of Llama 3, whose
#: vocabulary it has; llama.cpp merges words that are tokens.
SAME_IDS = {
    "chatglm-bpe": "dbrx",
    "exaone4": "gpt-2",
    "glm4": "llama-bpe",
    "refact": "smollm",
    "smaug-bpe": "llama-bpe",
    "starcoder": "smollm",
}
#: Decomposed accents: Qwen's own tokenizer composes them, and the expressions of Tekken and GPT-4o keep them with
#: their letter; llama.cpp does neither.
DECOMPOSED = [text for text in TEXTS if "\u0301" in text]


def write_header(path: Path, tokenizer: dict[str, Any], architecture: str = "llama") -> GgufFile:
    """A GGUF file with `tokenizer.*` metadata and no tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    add = {list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
    for key, value in tokenizer.items():
        add[type(value)](f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile.open(path)


def byte_level(pre: str, **extra: Any) -> dict[str, Any]:
    micro = GOLDEN["byte_level"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = [merge.replace(" ", "") for merge in micro["merges"]]
    tokens = micro["controls"] + alphabet + merged + micro["unmerged"]
    types = [3] * 3 + [1] * (len(tokens) - 3)
    values = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": micro["merges"]}
    return {**values, "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": False, **extra}


def sentencepiece(**extra: Any) -> dict[str, Any]:
    pieces = GOLDEN["sentencepiece"]["pieces"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [*tokens, "<|im_start|>", "<|im_end|>"],
        "scores": [0.0] * 259 + [-float(rank) for rank in range(len(pieces))] + [-1000.0, -1000.0],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [3, 4],
        **{"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0},
        **extra,
    }


def gemma() -> dict[str, Any]:
    """Gemma's order of special tokens, and user-defined tokens for runs of spaces, tabs and line breaks."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    runs = ["<table>", "\n\n", "\n\n\n", "  ", "   ", "    ", "\t", "\t\t"]
    pieces = [piece for piece in GOLDEN["sentencepiece"]["pieces"] if piece not in runs]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": ["<pad>", "<eos>", "<bos>", "<unk>", *runs, *bytes_, *pieces],
        "scores": [-1000.0] * (4 + len(runs)) + [0.0] * 256 + [-float(rank) for rank in range(len(pieces))],
        "token_type": [3, 3, 3, 2] + [4] * len(runs) + [6] * 256 + [1] * len(pieces),
        **{"bos_token_id": 2, "eos_token_id": 1, "padding_token_id": 0, "unknown_token_id": 3},
        "add_space_prefix": False,
    }


def _without(metadata: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name != key}


def load(file: GgufFile, folder: Path) -> Any:
    for name, text in gguf_tokenizer_files(file).items():
        (folder / name).write_text(text, "utf-8")
    return AutoTokenizer.from_pretrained(folder)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_real_model_gives_the_ids_of_llama_cpp_and_renders_its_chat_template(
    smollm2_gguf: Path, tmp_path: Path
) -> None:
    file = GgufFile.open(smollm2_gguf)
    smollm2 = load(file, tmp_path)
    assert [ids(smollm2, text) for text in TEXTS] == GOLDEN["ids"]
    assert [smollm2.decode(tokens) for tokens in GOLDEN["ids"]] == TEXTS
    assert smollm2("Hello")["input_ids"] == ids(smollm2, "Hello")
    assert set(smollm2("Hello")) == {"input_ids", "attention_mask"}  # what `generate` takes
    assert (smollm2.bos_token_id, smollm2.eos_token_id, smollm2.pad_token_id, smollm2.unk_token_id) == (1, 2, 2, 0)
    assert (len(smollm2), smollm2.model_max_length) == (49152, 8192)
    chat = smollm2.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert gguf_generation_config(file) == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


@pytest.mark.parametrize(
    "model_type", [family.model_type for family in families() if family.gguf and family.gguf.is_read]
)
def test_ids_do_not_depend_on_the_config_beside_the_tokenizer(tmp_path: Path, model_type: str) -> None:
    form = family_of_model_type(model_type).gguf
    assert form is not None
    file = write_header(tmp_path / "model.gguf", byte_level((*form.tokenizers, "smollm")[0]), form.architecture)
    alone = load(file, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), "utf-8")
    beside = load(file, tmp_path)
    assert len(beside) == len(alone) == len(file.metadata["tokenizer.ggml.tokens"])
    assert [ids(beside, text) for text in TEXTS] == [ids(alone, text) for text in TEXTS]


@pytest.mark.parametrize("pre", [*OTHERWISE, *SAME_IDS])
def test_byte_level_rule_splits_as_llama_cpp(tmp_path: Path, pre: str) -> None:
    tokenizer = load(write_header(tmp_path / "model.gguf", byte_level(pre)), tmp_path)
    for number, text in enumerate(TEXTS):
        expected = OTHERWISE[SAME_IDS.get(pre, pre)].get(str(number), GOLDEN["byte_level"]["ids"][number])
        if not (pre in ("gpt-4o", "qwen2", "tekken") and text in DECOMPOSED):
            assert ids(tokenizer, text) == expected, text
            assert tokenizer.decode(expected) == text


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (sentencepiece(add_space_prefix=True), GOLDEN["sentencepiece"]["ids"]["true"]),
        (sentencepiece(add_space_prefix=False), GOLDEN["sentencepiece"]["ids"]["false"]),
        (gemma(), GOLDEN["sentencepiece"]["gemma_ids"]),
    ],
)
def test_sentencepiece_gives_the_ids_of_llama_cpp(
    tmp_path: Path, metadata: dict[str, Any], expected: list[list[int]]
) -> None:
    tokenizer = load(write_header(tmp_path / "model.gguf", metadata), tmp_path)
    assert [ids(tokenizer, text) for text in TEXTS] == expected
    assert tokenizer.decode(ids(tokenizer, " x1 é😀")) == " x1 é😀"
    if "padding_token_id" in metadata:
        assert all(tokenizer.decode(ids(tokenizer, text)) == text for text in TEXTS)
    # a sentencepiece file adds BOS by default
    assert tokenizer("a")["input_ids"] == [metadata["bos_token_id"], *ids(tokenizer, "a")]


def test_runs_of_spaces_may_share_a_score(tmp_path: Path) -> None:
    """Llama 2 and Phi-3 give all of them the score -1e9; the longest is taken from the left, as llama.cpp does."""
    metadata = sentencepiece(add_space_prefix=False)
    runs = ["\u2581" * length for length in (1, 2, 3, 4)]
    metadata["tokens"] += runs[1:]
    metadata["scores"] += [-1e9, -1e9, -1e9]
    metadata["token_type"] += [1, 1, 1]
    tokenizer = load(write_header(tmp_path / "model.gguf", metadata), tmp_path)
    one, two, three, four = (tokenizer.convert_tokens_to_ids(run) for run in runs)
    expected = {1: [one], 2: [two], 3: [three], 4: [four], 5: [four, one], 7: [four, three], 10: [four, four, two]}
    assert {length: ids(tokenizer, " " * length) for length in expected} == expected


def test_special_tokens_that_take_the_spaces_after_them(tmp_path: Path) -> None:
    file = write_header(tmp_path / "model.gguf", sentencepiece(add_space_prefix=False))
    form = replace(file.form, spaces_kept_after=("<unk>", "<s>"))
    tokenizer = load(replace(file, form=form), tmp_path)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert ids(tokenizer, "<|im_start|> \na<|im_end|>  ") == [start, *ids(tokenizer, "a"), end]
    assert ids(tokenizer, "<s> a") == [1, *ids(tokenizer, " a")]


@pytest.mark.parametrize(
    ("metadata", "first", "last"),
    [
        (byte_level("smollm", add_bos_token=True, add_eos_token=True), [1], [2]),
        (byte_level("gpt-2"), [], []),
        (_without(byte_level("llama-bpe"), "add_bos_token"), [1], []),  # a file of Llama 3 that does not say
    ],
)
def test_bos_and_eos_are_added_as_the_file_says_and_user_defined_tokens_stay_whole_and_visible(
    tmp_path: Path, metadata: dict[str, Any], first: list[int], last: list[int]
) -> None:
    number = len(metadata["tokens"])
    more = {"tokens": [*metadata["tokens"], "<think>"], "token_type": [*metadata["token_type"], 4]}
    file = write_header(tmp_path / "model.gguf", metadata | more | {"eot_token_id": 0})
    assert gguf_generation_config(file) == {"bos_token_id": 1, "eos_token_id": [2, 0]}
    tokenizer = load(file, tmp_path)
    plain = ids(tokenizer, "Hello")
    assert tokenizer("Hello")["input_ids"] == first + plain + last
    assert tokenizer("Hello", "Hello")["input_ids"] == (first + plain + last) * 2
    assert ids(tokenizer, "<think>") == [number]
    assert tokenizer.decode([1, number, 2], skip_special_tokens=True) == "<think>"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (byte_level("made-up"), "pre-tokenizer 'made-up' is not supported; supported for llama: .*smollm"),
        (_without(byte_level("smollm"), "model"), "tokenizer model None is not supported"),
        (_without(byte_level("smollm"), "merges"), "'merges' are missing"),
        (byte_level("smollm", merges=["a b c"]), "not a pair"),
        (byte_level("smollm", merges=["a nowhere"]), "the tokenizer is damaged"),
        (byte_level("smollm", tokens=["a", "a"]), "lists a token twice"),
        (byte_level("smollm", token_type=[1, 1]), "token types do not match"),
        (byte_level("smollm", bos_token_id=10**6), "bos token 1000000 is not one of"),
        (_without(byte_level("smollm", add_bos_token=True), "bos_token_id"), "adds a BOS token but names none"),
        (sentencepiece(scores=[-1000.0] * len(sentencepiece()["tokens"])), "do not rank"),
        (_without(sentencepiece(), "scores"), "'scores' are missing"),
        (_without(sentencepiece(), "unknown_token_id"), "no unknown token"),
    ],
)
def test_a_tokenizer_that_cannot_be_right_is_refused(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    file = write_header(tmp_path / "model.gguf", metadata)
    with pytest.raises(InputError, match=message) as caught:
        gguf_tokenizer_files(file)
    assert "\n" not in str(caught.value)
