"""Texts are those of transformers, alone, in batches and in streams, and end where they should; damage is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from support.editing import edit_json
from support.tokenizers import add_chat_template, name_all_tokens
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoModelForCausalLM

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime import Generator, Sampling
from seap_export.runtime.decoding.prefix import PrefixCache
from seap_export.runtime.files import decoder_options

PROMPT = "the cat sat on a mat and then it ran"
PROMPTS = ["the cat", "a", "dog mat sat on and then it ran far from home", "the the cat sat"]
WARM = Sampling(temperature=1.5, seed=3)


@pytest.fixture
def folder(done: Path) -> Path:
    return name_all_tokens(done / "a-0.2" / "onnx")


@pytest.fixture
def generator(folder: Path) -> Generator:
    return Generator(folder, threads=1)


def set_limits(folder: Path, **changes: object) -> None:
    edit_json(folder / "genai_config.json", lambda values: values["model"].update(changes))


@pytest.mark.parametrize("name", ["llama-mqa", "llama-yarn", "mistral-window", "qwen3", "a-0.2", "b-0.2"])
def test_greedy_tokens_are_those_of_transformers(dense: Callable[..., Path], pristine: Path, name: str) -> None:
    """Of dense models and of variants."""
    is_pruned = (pristine / name).is_dir()
    onnx = pristine / name / "onnx" if is_pruned else dense(name)
    generator = Generator(onnx, threads=1)
    oracle = AutoModelForCausalLM.from_pretrained(onnx.parent / ("hf" if is_pruned else "m"), dtype=torch.float32)
    for prompt in ("the", PROMPT):
        ids = generator.token_ids(prompt)
        with torch.no_grad():
            expected = oracle.eval().generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)
        assert generator.generate_ids(ids, 40) == expected[0, len(ids) :].tolist()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 5, 0.8)])
def test_a_batch_gives_what_its_prompts_give_alone(generator: Generator, sampling: Sampling) -> None:
    together = generator.generate_batch(PROMPTS, 30, sampling)
    assert together == [generator.generate(prompt, 30, sampling) for prompt in PROMPTS]
    assert together[::-1] == generator.generate_batch(PROMPTS[::-1], 30, sampling)
    assert generator.generate_batch([], 5) == []


def test_rows_end_one_by_one(folder: Path) -> None:
    rows = [Generator(folder, threads=1).token_ids(prompt) for prompt in PROMPTS]
    set_limits(folder, eos_token_id=96)  # no token
    free = Generator(folder, threads=1).generate_ids_batch(rows, 30)
    eos = [free[0][1], free[2][9]]
    set_limits(folder, eos_token_id=eos)
    generator = Generator(folder, threads=1)
    ended = [next((n for n, token in enumerate(new, 1) if token in eos), 30) for new in free]
    assert ended[0] == 2
    assert max(ended) == 30
    assert generator.generate_ids_batch(rows, 30) == [new[:n] for new, n in zip(free, ended, strict=True)]
    stops = [completion.stop for completion in generator.complete(PROMPTS, 30)]
    assert stops == ["end" if new[n - 1] in eos else "length" for new, n in zip(free, ended, strict=True)]
    set_limits(folder, eos_token_id=eos[0])
    assert Generator(folder, threads=1).generate_ids(rows[0], 30) == free[0][: free[0].index(eos[0]) + 1]


def test_a_full_context_ends_each_row_at_its_own_length(folder: Path) -> None:
    set_limits(folder, context_length=24, eos_token_id=96)
    generator = Generator(folder, threads=1)
    prompts = ["cat " * 23, "cat " * 20, "cat"]
    completions = generator.complete(prompts, 22)
    assert [len(completion.token_ids) for completion in completions] == [1, 4, 22]
    assert [completion.stop for completion in completions] == ["context", "context", "length"]
    assert completions == [generator.complete([prompt], 22)[0] for prompt in prompts]
    with pytest.raises(InputError, match=r"24 tokens.*context is 24"):
        generator.generate_batch(["cat", "cat " * 24], 1)


@pytest.mark.parametrize(("prompt", "sampling"), [(PROMPTS[0], Sampling()), (PROMPTS[1], WARM), (PROMPTS[2], WARM)])
def test_a_stream_is_the_text(generator: Generator, prompt: str, sampling: Sampling) -> None:
    stream = generator.stream(prompt, 20, sampling)
    assert (stream.token_ids, stream.stop) == ([], None)
    pieces = list(stream)
    (whole,) = generator.complete([prompt], 20, sampling)
    assert "".join(pieces) == whole.text
    assert (tuple(stream.token_ids), stream.stop) == (whole.token_ids, whole.stop)
    assert len(pieces) == len(stream.token_ids) > 2
    assert all(pieces)


def test_a_stream_is_cancelled_between_tokens(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has computed stays for the next."""
    cache = PrefixCache(generator.decoder)
    stream = generator.stream(PROMPTS[0], 12, cache=cache, cancelled=lambda: len(stream.token_ids) == 3)
    begun = "".join(stream)
    assert (len(stream.token_ids), stream.stop) == (3, None)
    whole = generator.generate(PROMPTS[0], 12)
    assert whole.startswith(begun)
    monkeypatch.setattr(generator.decoder, "start", None)
    assert "".join(generator.stream(PROMPTS[0], 12, cache=cache)) == whole
    assert not list(generator.stream(PROMPTS[0], 12, cache=cache, cancelled=lambda: True))


def test_a_row_that_is_not_finite_is_refused(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from seap_export.runtime.decoding import decoder

    def broken(array: object, element: object) -> object:
        logits = original(array, element)
        logits[-1, 3] = float("inf")
        return logits

    original = decoder.float32_of
    monkeypatch.setattr(decoder, "float32_of", broken)
    with pytest.raises(ArtifactError, match="its logits are NaN or infinite"):
        generator.generate_batch(PROMPTS, 2)


TALK = [
    {"role": "system", "content": "mat"},
    {"role": "user", "content": "sat on"},
    {"role": "assistant", "content": "a mat"},
    {"role": "user", "content": "and then"},
]


@pytest.mark.parametrize(
    ("prompt", "options", "text"),
    [
        ("sat on", {}, "cat sat on home dog"),
        ("sat on", {"raw": True}, "sat on"),
        (TALK[1:2], {}, "cat sat on home dog"),
        (TALK, {}, "dog mat home cat sat on home dog a mat home cat and then home dog"),
    ],
)
def test_a_chat_model_is_given_prompts_in_its_template(
    folder: Path, generator: Generator, prompt: Any, options: dict[str, bool], text: str
) -> None:
    chat = Generator(add_chat_template(folder), threads=1)
    (expected,) = generator.complete([text], 9, WARM)
    assert chat.token_ids(prompt, **options) == generator.token_ids(text)
    assert chat.complete([prompt], 9, WARM, **options) == [expected]
    assert chat.generate(prompt, 9, WARM, **options) == expected.text
    assert chat.generate_batch(["a", prompt], 9, WARM, **options)[1] == expected.text
    assert "".join(chat.stream(prompt, 9, WARM, **options)) == expected.text
    assert expected.prompt_tokens == len(text.split())


def test_the_end_of_a_turn_ends_a_text_though_no_config_names_it(folder: Path) -> None:
    add_chat_template(folder)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    set_limits(folder, eos_token_id=96)  # no token
    free = Generator(folder, threads=1)
    prompt = next(prompt for prompt in PROMPTS for text in [free.generate(prompt, 30)] if " home" in text)
    (whole,) = free.complete([prompt], 30)
    assert whole.stop == "length"
    tokenizer.add_special_tokens([AddedToken("home", special=True, normalized=False)])
    tokenizer.save(str(path))
    (ended,) = Generator(folder, threads=1).complete([prompt], 30)
    home = tokenizer.token_to_id("home")
    assert ended.token_ids == whole.token_ids[: whole.token_ids.index(home) + 1]
    assert ended.stop == "end"


@pytest.mark.parametrize(
    ("prompt", "options", "has_template", "error", "message"),
    [
        (TALK, {}, False, UsageError, "this model has no chat template, which messages need; give a text"),
        (TALK, {"raw": True}, True, UsageError, "messages cannot be raw, .*; give a text"),
        ([], {}, True, UsageError, "messages need a role and a content each; give .*user"),
        ("the", {"max_new_tokens": 0}, False, UsageError, "0 new tokens"),
        ("  ", {}, False, InputError, "has no token"),
        *((nothing, {}, False, TypeError, "a text or a list of messages") for nothing in (None, 5, b"the")),
    ],
)
def test_requests_that_mean_nothing(
    folder: Path, prompt: Any, options: dict[str, Any], has_template: bool, error: type[Exception], message: str
) -> None:
    generator = Generator(add_chat_template(folder) if has_template else folder)
    with pytest.raises(error, match=message):
        generator.generate(prompt, **{"max_new_tokens": 1, **options})
    with pytest.raises(TypeError, match=r"give \[prompt\]"):
        generator.generate_batch("the", 1)


@pytest.mark.parametrize("has_bos", [True, False])
def test_special_tokens_are_those_of_the_tokenizer_file(done: Path, has_bos: bool) -> None:
    folder = done / "a-0.2" / "onnx"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = tokenizer.encode(PROMPT).ids
    if has_bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert Generator(folder).token_ids(PROMPT) == [1] * has_bos + plain
    template = {"chat_template": "{{ bos_token }} {{ messages[0].content }}"}
    edit_json(folder / "tokenizer_config.json", lambda values: values.update(template))
    assert Generator(folder).token_ids(PROMPT) == [1, *plain]


def of_a_router(folder: Path) -> None:
    shutil.copy(folder.parents[1] / "router" / "router.onnx", folder / "model.onnx")


def with_another_output(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    next(node for node in model.graph.node if "present.1.key" in node.output).output[1] = "another"
    next(value for value in model.graph.output if value.name == "present.1.key").name = "another"
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), r"/model\.onnx: "),
        (lambda folder: (folder / "model.onnx.data").write_bytes(bytes(50)), r"/model\.onnx: "),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"/tokenizer\.json: "),
        (lambda folder: (folder / "genai_config.json").write_text('{"model": {'), r"/genai_config\.json: "),
        (lambda folder: (folder / "genai_config.json").write_text('{"model": 1}'), "eos_token_id or context_length"),
        (lambda folder: set_limits(folder, eos_token_id=[]), "eos_token_id or context_length"),
        (lambda folder: set_limits(folder, eos_token_id=["2"]), "eos_token_id or context_length"),
        (lambda folder: set_limits(folder, context_length="long"), "eos_token_id or context_length"),
        (of_a_router, "its inputs are not those of a decoder with a KV cache"),
        (with_another_output, "its outputs are not those of a decoder with a KV cache"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(done: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(done / "a-0.2" / "onnx")
    with pytest.raises(ArtifactError, match=rf"\A{done}/a-0.2/onnx/[^\n]*\Z") as caught:
        Generator(done / "a-0.2" / "onnx")
    caught.match(message)


def test_provider_options_of_the_folder_and_the_users(done: Path) -> None:
    path = done / "a-0.2" / "onnx" / "genai_config.json"

    def write(options: object) -> None:
        edit_json(path, lambda values: values["model"]["decoder"]["session_options"].update(provider_options=options))

    assert decoder_options(path, "cuda") == {}
    write([{"cuda": {"enable_cuda_graph": "0", "of_genai": "2"}}])
    assert decoder_options(path, "cpu") == {}
    assert decoder_options(path, "cuda", {"device_id": "1"}) == {"enable_cuda_graph": "1", "device_id": "1"}
    assert decoder_options(path, "cuda", {"enable_cuda_graph": "0"}) == {"enable_cuda_graph": "0"}
    assert Generator(path.parent).generate(PROMPT, 4)
    edit_json(path, lambda values: values["search"].update(past_present_share_buffer=False))
    assert decoder_options(path, "cuda") == {}
    for damage in (["cuda"], "cuda", 5, [{"cuda": 5}]):
        write(damage)
        with pytest.raises(ArtifactError, match=r"genai_config\.json: its provider options cannot be read; .*again"):
            decoder_options(path, "cuda")
