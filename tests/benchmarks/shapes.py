"""The shapes of well-known models, for models with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seap_export.model.families import ModelSpec, model_spec


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama model, or of one in the form of Mixtral."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    neurons: int
    vocabulary: int
    positions: int
    theta: float = 10000.0
    tied: bool = False
    head_dim: int = 0
    experts: int = 0
    per_token: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        """The integers of the shape that are not 0, by option of `random_model`, such as `--layers`."""
        numbers = {key: value for key, value in vars(self).items() if type(value) is int and value}
        return {f"--{key.replace('_', '-')}": value for key, value in numbers.items()}

    @property
    def config(self) -> dict[str, object]:
        """The content of the model's config.json."""
        mixture = {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.per_token,
        }
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": self.head_dim or self.hidden // self.heads,
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.neurons,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": self.theta,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "bfloat16",
            **(mixture if self.experts else {}),
        }

    @property
    def spec(self) -> ModelSpec:
        """The model's layers and the shapes of its tensors, as `config` describes them."""
        return model_spec(self.config)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in 16 bits."""
        return 2 * self.spec.num_parameters()


LLAMA_2_7B = Shape(32, 4096, 32, 32, 11008, 32000, 4096)
#: By name. Llama 3's rescaled rotary frequencies and Qwen3's norms of heads are left out.
SHAPES: Mapping[str, Shape] = {
    "llama-3.2-1b": Shape(16, 2048, 32, 8, 8192, 128256, 131072, 500000.0, tied=True),
    "llama-2-7b": LLAMA_2_7B,
    "mixtral-8x7b": Shape(32, 4096, 32, 8, 14336, 32000, 32768, 1e6, experts=8, per_token=2),
}
