"""GGUF weights come back as the Hugging Face tensors they were made from; damaged files are refused."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from seap_export.errors import InputError
from seap_export.families import model_spec
from seap_export.sources.gguf_config import gguf_config
from seap_export.sources.gguf_file import GgufFile
from seap_export.sources.gguf_reader import GgufReader
from seap_export.sources.weights import check_weights

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
F32, F16, BF16, Q8_0 = (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0"))


def make_model(family: str, **extra: Any) -> PreTrainedModel:
    """A tiny random model, its norms and biases random too."""
    torch.manual_seed(0)
    classes = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    config_class, model_class = classes[family]
    if family == "qwen3":
        extra = {"head_dim": 32, **extra}
    model = model_class(config_class(**{**SHAPE, "tie_word_embeddings": False, **extra})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of q or k as llama.cpp's converter stores them for the llama architecture."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def write_model(
    path: Path,
    model: PreTrainedModel,
    kind: gguf.GGMLQuantizationType = F32,
    norms: gguf.GGMLQuantizationType = F32,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Writes `model` as llama.cpp's converter would; `metadata` replaces keys of the architecture (None: drops)."""
    config, architecture = model.config, model.config.model_type
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 5e5,
    }
    if architecture == "qwen3":
        values["attention.key_length"] = values["attention.value_length"] = config.head_dim
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (values | (metadata or {})).items():
        name = key if "." in key and key.split(".")[0] == "split" else f"{architecture}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif value is not None:
            writer.add_uint32(name, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        data = tensor.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if architecture == "llama" and part in name:
                data = permuted(data, heads)
        target = names.get_name(name, (".weight", ".bias"))
        assert target is not None
        encoding = kind if data.ndim > 1 else norms
        writer.add_tensor(target, gguf.quants.quantize(data, encoding), raw_dtype=encoding)
    for name, data in (tensors or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(tensor: torch.Tensor, kind: gguf.GGMLQuantizationType) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), kind), kind))


MODELS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True}),
    ("qwen2", {}),
    ("qwen3", {}),
]


@pytest.mark.parametrize("kind", [F32, F16, BF16, Q8_0])
@pytest.mark.parametrize(("family", "extra"), MODELS)
def test_tensors_come_back_in_hugging_face_layout(
    tmp_path: Path, family: str, extra: dict[str, Any], kind: gguf.GGMLQuantizationType
) -> None:
    model = make_model(family, **extra)
    expected = dict(model.state_dict())
    if extra.get("tie_word_embeddings"):
        del expected["lm_head.weight"]
        model.state_dict = lambda: expected  # type: ignore[method-assign]
    file = GgufFile.open(write_model(tmp_path / "model.gguf", model, kind))
    reader, config = GgufReader(file), gguf_config(file)
    check_weights(reader, model_spec(config).tensors(), "here")
    assert reader.shapes() == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert reader.dtype == torch.float32
    for name, tensor in reader.read(expected).items():
        wanted = rounded(expected[name], kind if tensor.ndim > 1 else F32)
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted), name


@pytest.mark.parametrize(("kind", "dtype"), [(F16, torch.float16), (BF16, torch.bfloat16)])
def test_a_file_of_one_narrow_dtype_keeps_it(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, dtype: torch.dtype
) -> None:
    model = make_model("llama")
    file = GgufFile.open(write_model(tmp_path / "model.gguf", model, kind, norms=kind))
    tensors = GgufReader(file).read(["model.norm.weight", "model.layers.1.self_attn.q_proj.weight"])
    assert gguf_config(file)["dtype"] == str(dtype).removeprefix("torch.")
    for name, tensor in tensors.items():
        assert torch.equal(tensor, model.state_dict()[name].to(dtype))


@pytest.mark.parametrize(("family", "extra"), MODELS)
def test_config_describes_the_model(tmp_path: Path, family: str, extra: dict[str, Any]) -> None:
    model = make_model(family, **extra)
    if extra.get("tie_word_embeddings"):
        tied = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        model.state_dict = lambda: tied  # type: ignore[method-assign]
    config = gguf_config(GgufFile.open(write_model(tmp_path / "model.gguf", model)))
    rebuilt = type(model.config)(**config)
    keys = [*SHAPE, "tie_word_embeddings", "hidden_act", "model_type"]
    keys += ["attention_bias", "mlp_bias"] if family == "llama" else []
    assert {key: getattr(rebuilt, key) for key in keys} == {key: getattr(model.config, key) for key in keys}
    assert (config["head_dim"], config["rope_theta"], config["rope_scaling"]) == (
        32 if family == "qwen3" else 16,
        5e5,
        None,
    )


def test_weights_agree_with_the_reader_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    path = write_model(tmp_path / "model.gguf", make_model("llama"), metadata={"vocab_size": 40})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()
    ours = GgufReader(GgufFile.open(path))
    assert set(ours.shapes()) == set(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.read(theirs).items())


def test_model_built_from_config_and_weights_gives_the_same_logits(tmp_path: Path) -> None:
    model = make_model("llama", rope_theta=5e5)
    file = GgufFile.open(write_model(tmp_path / "model.gguf", model))
    again = LlamaForCausalLM(LlamaConfig(**gguf_config(file))).eval()
    reader = GgufReader(file)
    again.load_state_dict(reader.read(reader.shapes()))
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def llama3_factors(original: int, factor: float) -> np.ndarray:
    """What transformers' llama3 scaling divides each frequency by; head_dim 16, theta 5e5."""
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    config = LlamaConfig(**{**SHAPE, "max_position_embeddings": original * 4}, rope_theta=5e5, rope_scaling=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 5e5 ** (torch.arange(0, 16, 2) / 16)
    return (plain / scaled).to(torch.float32).numpy()


@pytest.mark.parametrize(("original", "factor"), [(8192, 8.0), (8192, 32.0), (4096, 4.0), (2048, 2.5)])
def test_llama3_rope_scaling_is_recovered(tmp_path: Path, original: int, factor: float) -> None:
    tensors = {"rope_freqs.weight": llama3_factors(original, factor)}
    file = GgufFile.open(write_model(tmp_path / "model.gguf", make_model("llama"), tensors=tensors))
    assert gguf_config(file)["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    assert "rope_freqs.weight" not in GgufReader(file).shapes()


def test_rope_factors_of_one_are_no_scaling(tmp_path: Path) -> None:
    tensors = {"rope_freqs.weight": np.ones(8, np.float32)}
    file = GgufFile.open(write_model(tmp_path / "model.gguf", make_model("llama"), tensors=tensors))
    assert gguf_config(file)["rope_scaling"] is None


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"rope.scaling.type": "none"}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
                "rope.scaling.yarn_beta_fast": 16.0,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 16.0,
                "beta_slow": 1.0,
            },
        ),
    ],
)
def test_rope_scaling_from_metadata(tmp_path: Path, metadata: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    file = GgufFile.open(write_model(tmp_path / "model.gguf", make_model("qwen2"), metadata=metadata))
    assert gguf_config(file)["rope_scaling"] == scaling
    model_spec(gguf_config(file))


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"attention.head_count": [4, 4]}, {}, "'attention.head_count' differs by layer"),
        ({"attention.head_count_kv": [2, 1]}, {}, "'attention.head_count_kv' differs by layer"),
        ({"feed_forward_length": [96, 64]}, {}, "'feed_forward_length' differs by layer"),
        ({"block_count": None}, {}, "'block_count' must be a positive whole number, not None"),
        ({"attention.head_count": "four"}, {}, "'attention.head_count' must be a positive whole number"),
        ({"attention.head_count": 3}, {}, "do not divide into 3 heads"),
        ({"rope.freq_base": "high"}, {}, "'rope.freq_base' must be a number"),
        ({"expert_count": 8}, {}, "mixtures of experts"),
        ({"attention.sliding_window": 64}, {}, "sliding-window attention"),
        ({"rope.dimension_count": 8}, {}, "partial rotation"),
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, {}, "rope scaling 'longrope'"),
        ({"rope.scaling.type": "yarn", "rope.scaling.attn_factor": 0.5}, {}, "attn_factor"),
        ({}, {"rope_freqs.weight": np.linspace(1, 3, 8, dtype=np.float32)}, "not those of llama3"),
        ({"split.count": 3}, {}, "one of 3 shards; join them with"),
    ],
)
def test_what_no_family_does_is_refused(
    tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, np.ndarray], message: str
) -> None:
    path = write_model(tmp_path / "model.gguf", make_model("llama"), metadata=metadata, tensors=tensors)
    with pytest.raises(InputError, match=message) as caught:
        gguf_config(GgufFile.open(path))
    assert "\n" not in str(caught.value)


def test_unknown_tensors_stay_visible(tmp_path: Path) -> None:
    tensors = {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}
    file = GgufFile.open(write_model(tmp_path / "model.gguf", make_model("llama"), tensors=tensors))
    with pytest.raises(InputError, match=r"'blk\.0\.attn_sinks\.weight' is not part of the family"):
        check_weights(GgufReader(file), model_spec(gguf_config(file)).tensors(), "here")


def test_an_encoding_without_dequantisation_is_refused(tmp_path: Path) -> None:
    tensors = {"output.bias": np.zeros(4, np.int32)}
    file = GgufFile.open(write_model(tmp_path / "model.gguf", make_model("llama"), tensors=tensors))
    with pytest.raises(InputError, match=r"'output\.bias' is encoded as I32, which is not supported"):
        GgufReader(file).read(["output.bias"])


def test_unsupported_architecture_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="GGUF architecture 'mamba' is not supported"):
        GgufFile.open(tmp_path / "model.gguf")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("sound") / "model.gguf", make_model("llama")).read_bytes()


def assert_refused(path: Path, message: str = "truncated or not a GGUF file") -> None:
    with pytest.raises(InputError, match=message) as caught:
        GgufFile.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 3, 4, 8, 23, 24, 40, 200, 900, 2000, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path: Path, sound: bytes, kept: float) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(sound[: kept if isinstance(kept, int) else int(kept * len(sound))])
    assert_refused(path)


def test_file_without_its_last_byte_is_refused(tmp_path: Path, sound: bytes) -> None:
    ends = [tensor.offset + tensor.size for tensor in _open(tmp_path / "sound.gguf", sound).tensors.values()]
    path = tmp_path / "model.gguf"
    path.write_bytes(sound[: max(ends) - 1])
    assert_refused(path)


def _open(path: Path, data: bytes) -> GgufFile:
    path.write_bytes(data)
    return GgufFile.open(path)


@pytest.mark.parametrize(
    "header",
    [
        b"GGML" + struct.pack("<IQQ", 3, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63),  # a key of 2**63 characters
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 8, 2**60),  # an array of 2**60 strings
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 0, 2**60),  # of 2**60 bytes
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 9, 2**20),  # of arrays
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 77),  # of a type that does not exist
        b"GGUF" + struct.pack("<IQQQ1sIQ", 3, 1, 0, 1, b"a", 2**31, 1),  # a tensor of 2**31 dimensions
        b"GGUF" + struct.pack("<IQQQ1sIQQIQ", 3, 1, 0, 1, b"a", 2, 2**40, 2**40, 0, 0),  # of 2**80 numbers
    ],
)
def test_absurd_header_is_refused_at_once(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header + bytes(4096))
    assert_refused(path)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "model.gguf"
    noise = random.Random(seed).randbytes(5000)
    path.write_bytes(noise)
    assert_refused(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 4, 4) + noise)
    assert_refused(path)


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


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere.gguf", "no such file")
    assert_refused(tmp_path, "not a readable file")


def test_file_that_shrinks_after_it_was_opened_is_refused(tmp_path: Path, sound: bytes) -> None:
    file = _open(tmp_path / "model.gguf", sound)
    file.path.write_bytes(sound[:3000])
    reader = GgufReader(file)
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
