"""A pruned variant as an `ORTModelForCausalLM`, in which the shape of the KV cache differs by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnxruntime.capi import onnxruntime_pybind11_state as state
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoConfig, GenerationConfig, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, UsageError

__all__ = ["SeapORTModelForCausalLM"]

_GRAPH, _CONFIG, _GENERATION_CONFIG = "model.onnx", "config.json", "generation_config.json"
#: The exceptions of ONNX Runtime for a file that it cannot load; they share no specific base class.
_DAMAGED = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.RuntimeException)

LayerCaches = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class SeapORTModelForCausalLM(ORTModelForCausalLM):
    """`ORTModelForCausalLM` for the ONNX graphs of this package.

    The stock class takes a single number of KV heads from the config; this one takes each layer's from the graph.
    Everything else comes from the stock class: `generate`, `save_pretrained`, `to`.
    """

    @classmethod
    def from_pretrained(
        cls, model_id: str | Path, *, config: str | Path | None = None, export: bool = False, **options: Any
    ) -> SeapORTModelForCausalLM:
        """Opens a variant.

        Args:
            model_id: The variant's folder, which contains `onnx/` with the graph and `hf/` with config.json and
                generation_config.json; its `onnx` folder with `hf` next to it; or a folder with all of these files,
                as written by `save_pretrained`. Not a hub id.
            config: The folder of config.json and generation_config.json if they are elsewhere.
            export: Must not be set.
            **options: Options of `ORTModelForCausalLM.from_pretrained`: `provider`, `session_options`, `use_cache`,
                `use_io_binding`, `generation_config` ...

        Raises:
            UsageError: `export` is set.
            ArtifactError: A file is missing or damaged.
            EnvironmentFailure: The execution provider could not be created.
        """
        if export:
            raise UsageError("a variant is already exported; leave out export=True, or run: optimum-cli export seap")
        files = _locate(Path(model_id), config)
        options.setdefault("generation_config", files.generation_config())
        try:
            model = cls._from_pretrained(files.onnx, config=files.config(), file_name=_GRAPH, **options)
        except _DAMAGED as error:
            raise _damaged(files.onnx / _GRAPH, error) from error
        wanted = (options.get("providers") or [options.get("provider", model.provider)])[0]
        if model.provider != wanted:  # ONNX Runtime has fallen back on the CPU
            raise EnvironmentFailure(f"{wanted} could not be created; use provider='{model.provider}'")
        return model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: LayerCaches | None = None,
        use_cache: bool | None = None,
        **ignored: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [batch, length, vocabulary] and, with `use_cache`, each layer's keys and values.

        A graph written with `convert --logits last` returns logits only for each row's last token,
        [batch, 1, vocabulary].

        Args:
            input_ids: int64 [batch, length].
            attention_mask: int64 [batch, past + length], padded on the right; None: no padding.
            past_key_values: Keys and values of each layer, float [batch, KV heads of the layer, past, head size].
            use_cache: Whether to return the extended keys and values; None: as in the config.
            **ignored: Arguments that `generate` passes to every model; positions are derived from the mask.

        Raises:
            InputError: The mask is padded on the left.
        """
        past = self._empty_cache(len(input_ids)) if past_key_values is None else past_key_values
        if attention_mask is None:
            total = past[0][0].shape[2] + input_ids.shape[1]
            attention_mask = torch.ones((len(input_ids), total), dtype=torch.int64)
        if not attention_mask[:, 0].all():
            raise InputError("attention_mask is padded on the left, which the graph cannot read; pad on the right")
        return super().forward(input_ids, attention_mask, past, use_cache=use_cache)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: LayerCaches | None = None,
        attention_mask: torch.Tensor | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """The arguments of the next `forward` within `generate`.

        Raises:
            InputError: Some of the prompts are padded.
        """
        if past_key_values is None and attention_mask is not None and not attention_mask.all():
            # `generate` reads the next token from the last column, which is padding in a prompt padded on the right.
            raise InputError(
                "some of the prompts given to generate() are padded; the graph does not support padding on the left, "
                "nor generate() padding on the right: call it once for each prompt length"
            )
        return super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, attention_mask=attention_mask, **others
        )

    def _empty_cache(self, batch: int) -> LayerCaches:
        """Caches of length 0, with the head counts that the graph declares for each layer."""
        caches = [
            torch.zeros((batch, heads, 0, head_size), dtype=self.dtype, device=self.device)
            for _, heads, _, head_size in map(self.input_shapes.get, self.key_value_input_names)
        ]
        return tuple(zip(caches[::2], caches[1::2], strict=True))

    def _prepare_io_binding(
        self, model_inputs: dict[str, torch.Tensor], outputs_to_not_bind: set[str] | None = None, **_: Any
    ) -> Any:
        """Leaves out the stock class's shapes, which are the same for all caches; the graph declares them all."""
        return super()._prepare_io_binding(model_inputs, outputs_to_not_bind)


@dataclass(frozen=True)
class _Files:
    """The locations of a variant's files."""

    onnx: Path
    hf: Path

    def config(self) -> PretrainedConfig:
        try:
            return AutoConfig.from_pretrained(self.hf)
        except (OSError, ValueError) as error:
            raise _damaged(self.hf / _CONFIG, error) from error

    def generation_config(self) -> GenerationConfig:
        if not (self.hf / _GENERATION_CONFIG).is_file():
            return GenerationConfig.from_model_config(self.config())
        try:
            return GenerationConfig.from_pretrained(self.hf)
        except (OSError, ValueError) as error:
            raise _damaged(self.hf / _GENERATION_CONFIG, error) from error


def _locate(folder: Path, config: str | Path | None) -> _Files:
    onnx = folder if (folder / _GRAPH).is_file() else folder / "onnx"
    beside = onnx if (onnx / _CONFIG).is_file() else onnx.parent / "hf"
    hf = beside if config is None else Path(config)
    for path in (onnx / _GRAPH, hf / _CONFIG):
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; give the folder of a variant, or export again")
    return _Files(onnx, hf)


def _damaged(path: Path, error: Exception) -> ArtifactError:
    reason = " ".join(str(error).split())
    return ArtifactError(f"{path}: cannot be loaded: {reason}; it is damaged, export again")
