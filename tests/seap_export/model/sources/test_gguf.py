"""GGUF weights come back as the tensors they were made from, in each family; damaged files are refused."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.formats.gguf import GGUF_VARIATIONS, write_micro_gguf
from support.models import skip_unless_loaded
from support.product import dense_folder, families
from transformers import AutoModelForCausalLM

from seap_export.errors import InputError
from seap_export.model.families import family_of_model_type, model_spec
from seap_export.model.sources.gguf.config import gguf_config
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.reader import GgufReader
from seap_export.model.sources.open import open_source
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


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_micro_gguf(tmp_path_factory.mktemp("sound"), **LLAMA).read_bytes()


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


def test_a_file_that_is_cut_anywhere_or_gone_or_shrinks_after_it_was_opened_is_refused(
    tmp_path: Path, sound: bytes
) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(InputError, match="cannot be read"):
        GgufFile.open(path)
    path.write_bytes(sound)
    reader = GgufReader(file := GgufFile.open(path))
    last = max(tensor.offset + tensor.size for tensor in file.tensors.values()) - 1
    for kept in (0, 4, 23, 40, 900, len(sound) // 2, last):
        path.write_bytes(sound[:kept])
        with pytest.raises(InputError, match="truncated or not a GGUF file") as caught:
            GgufFile.open(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        reader.read(reader.shapes())
    integers = GgufFile.open(write_micro_gguf(tmp_path, tensors={"output.bias": np.zeros(4, np.int32)}, **LLAMA))
    with pytest.raises(InputError, match=r"'output\.bias' is encoded as I32, which is not supported"):
        GgufReader(integers).read(["output.bias"])


def test_real_model_is_read(smollm2_gguf: Path) -> None:
    file = GgufFile.open(smollm2_gguf)
    reader, config = GgufReader(file), gguf_config(file)
    check_weights(reader, model_spec(config).tensors(), "here")
    assert model_spec(config).num_parameters() == 134_515_008
    assert (config["rms_norm_eps"], config["rope_theta"], config["tie_word_embeddings"]) == (1e-5, 1e5, True)
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    tensors = reader.read(["model.layers.29.self_attn.k_proj.weight"])
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(3, 33).reshape(2, 15).repeat(1, 2)).logits


def test_every_family_with_a_gguf_form_has_a_micro_model() -> None:
    covered = {values["model_type"] for values in GGUF_VARIATIONS.values()}
    assert covered == {family.model_type for family in families() if family.gguf and family.gguf.is_read}


@pytest.mark.parametrize(("name", "fuse_qkv"), [(name, number % 2 > 0) for number, name in enumerate(GGUF_VARIATIONS)])
def test_a_file_is_the_model_of_its_folder(tmp_path: Path, name: str, fuse_qkv: bool) -> None:
    skip_unless_loaded(family_of_model_type(GGUF_VARIATIONS[name]["model_type"]))
    path = write_micro_gguf(tmp_path / "m", fuse_qkv=fuse_qkv, **GGUF_VARIATIONS[name])
    file, folder = open_source(str(path)), open_source(str(path.parent))
    assert file.spec == folder.spec
    names = list(folder.spec.tensors())
    expected, tensors = folder.reader.read(names), file.reader.read(names)
    assert all(torch.equal(tensors[key], expected[key].float()) for key in names)
    with dense_folder(file) as again:
        assert torch.allclose(logits(again), logits(path.parent), atol=1e-5)
