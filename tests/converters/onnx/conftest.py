"""Micro models of every family, dense and pruned, and sessions that run what was written from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from support.execution import empty_state
from transformers import PreTrainedModel

from converters.onnx import write_onnx
from converters.onnx.form import Logits, OnnxForm
from converters.onnx.precision import Precision
from seap_export.common.providers import DialectName
from seap_export.model.modeling import modeling_seap

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
FLOAT32 = Precision()
FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def micro_model(family: str, **extra: Any) -> PreTrainedModel:
    """A three-layer model whose attention and norms matter: wide weights, random biases and gammas.

    `per_layer_config` makes it a pruned one.
    """
    pruned = "per_layer_config" in extra
    module = modeling_seap if pruned else transformers
    prefix = ("Seap" if pruned else "") + FAMILIES[family]
    model_class = getattr(module, f"{prefix}ForCausalLM")
    config = model_class.config_class(**{**SHAPE, **extra})
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.normal_(std=0.3)
            else:
                parameter.normal_(std=0.1)
    return model


@dataclass
class Written:
    """A model folder, the ONNX folder made from it, and its session with a running cache."""

    model: PreTrainedModel
    source: Path
    folder: Path

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def truth(self, ids: np.ndarray) -> np.ndarray:
        """The logits of torch."""
        with torch.no_grad():
            return self.model(torch.from_numpy(ids)).logits.numpy()

    def run(
        self, ids: np.ndarray, mask: np.ndarray, past: list[np.ndarray] | None = None, session: Any = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits, and keys and values of each layer in turn; of our session, or of another one of the file."""
        feeds, states = {"input_ids": ids, "attention_mask": mask}, self.session.get_inputs()[2:]
        given = past or [empty_state(item, rows=len(ids)) for item in states]
        feeds |= {item.name: state for item, state in zip(states, given, strict=True)}
        logits, *presents = (session or self.session).run(None, feeds)
        return logits, presents


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Written]:
    """Makes a micro model, saves it and writes it."""

    def make(
        family: str = "llama",
        dtype: torch.dtype = torch.float32,
        *,
        precision: Precision = FLOAT32,
        dialect: DialectName = "fused",
        logits: Logits = "all",
        folder: str = "onnx",
        change: Callable[[PreTrainedModel], None] = lambda model: None,
        **extra: Any,
    ) -> Written:
        model = micro_model(family, **extra)
        change(model)
        source, target = tmp_path / "model", tmp_path / folder
        if dtype != torch.float32:
            for parameter in model.parameters():  # not `model.to`: the rotation's frequencies stay float32
                parameter.data = parameter.data.to(dtype)
        model.save_pretrained(source)
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
        target.mkdir()
        write_onnx(source, target, OnnxForm(precision, dialect, logits))
        return Written(model, source, target)

    return make
