"""GGUF weights come back as the tensors they were made from; damaged files are refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.formats.gguf import write_micro_gguf
from transformers import AutoModelForCausalLM

from seap_export.errors import InputError
from seap_export.model.families import model_spec
from seap_export.model.sources.gguf.config import gguf_config
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.reader import GgufReader
from seap_export.model.sources.weights import check_weights

F32, F16, BF16, Q8_0 = (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0"))
DTYPES = {F16: torch.float16, BF16: torch.bfloat16}
#: Rows of whole blocks of Q8_0.
LLAMA = {"model_type": "llama", "intermediate_size": 96}


def rounded(tensor: torch.Tensor, kind: gguf.GGMLQuantizationType) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), kind), kind))


@pytest.mark.parametrize("kind", [F32, F16, BF16, Q8_0])
def test_tensors_come_back_as_they_are_encoded(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    file = GgufFile.open(write_micro_gguf(tmp_path, kind, **LLAMA))
    expected, reader = load_file(tmp_path / "model.safetensors"), GgufReader(file)
    check_weights(reader, model_spec(gguf_config(file)).tensors(), "here")
    assert reader.shapes() == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert set(reader.dtypes().values()) == {torch.float32}
    for name, tensor in reader.read(expected).items():
        wanted = rounded(expected[name], kind if tensor.ndim > 1 else F32)
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted), name
    if kind in (F16, BF16):  # a file of one narrow dtype keeps it
        file, dtype = GgufFile.open(write_micro_gguf(tmp_path / "all", kind, norms=kind, **LLAMA)), DTYPES[kind]
        assert gguf_config(file)["dtype"] == str(dtype).removeprefix("torch.")
        assert all(torch.equal(one, expected[name].to(dtype)) for name, one in GgufReader(file).read(expected).items())


def test_weights_agree_with_the_reader_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    path = write_micro_gguf(tmp_path, **LLAMA)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()
    ours = GgufReader(GgufFile.open(path))
    assert set(ours.shapes()) == set(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.read(theirs).items())


def test_an_encoding_without_dequantisation_is_refused(tmp_path: Path) -> None:
    tensors = {"output.bias": np.zeros(4, np.int32)}
    file = GgufFile.open(write_micro_gguf(tmp_path, tensors=tensors, **LLAMA))
    with pytest.raises(InputError, match=r"'output\.bias' is encoded as I32, which is not supported"):
        GgufReader(file).read(["output.bias"])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_micro_gguf(tmp_path_factory.mktemp("sound"), **LLAMA).read_bytes()


def assert_refused(path: Path, message: str = "truncated or not a GGUF file") -> None:
    with pytest.raises(InputError, match=message) as caught:
        GgufFile.open(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_header_raises_nothing_but_input_errors(tmp_path: Path, sound: bytes) -> None:
    chance, path, messages = random.Random(0), tmp_path / "model.gguf", []
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[chance.randrange(2200)] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            file = GgufFile.open(path)
            gguf_config(file)
            reader = GgufReader(file)
            reader.read(list(reader.shapes())[:3])
        except InputError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("kept", [0, 4, 23, 40, 900, 0.5, "all but one"])
def test_a_truncated_file_is_refused(tmp_path: Path, sound: bytes, kept: float | str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(sound)
    last = max(tensor.offset + tensor.size for tensor in GgufFile.open(path).tensors.values()) - 1
    sizes = {"all but one": last, 0.5: len(sound) // 2}
    path.write_bytes(sound[: sizes.get(kept, kept)])  # type: ignore[call-overload,misc]
    assert_refused(path)


def test_a_file_that_is_gone_or_shrinks_after_it_was_opened_is_refused(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "model.gguf"
    assert_refused(path, "cannot be read")
    path.write_bytes(sound)
    reader = GgufReader(GgufFile.open(path))
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        reader.read(reader.shapes())


def test_real_model_is_read(smollm2_gguf: Path, tmp_path: Path) -> None:
    file = GgufFile.open(smollm2_gguf)
    reader, config = GgufReader(file), gguf_config(file)
    check_weights(reader, model_spec(config).tensors(), "here")
    assert model_spec(config).num_parameters() == 134_515_008
    assert (config["rms_norm_eps"], config["rope_theta"], config["tie_word_embeddings"]) == (1e-5, 1e5, True)
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    tensors = reader.read(["model.layers.29.self_attn.k_proj.weight"])
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    shutil.copyfile(smollm2_gguf, tmp_path / "half.gguf")
    with (tmp_path / "half.gguf").open("r+b") as half:
        half.truncate(smollm2_gguf.stat().st_size // 2)
    assert_refused(tmp_path / "half.gguf")
