"""transformers' own model of a family, without weights: they are loaded and released a layer at a time.

A pass over a sequence begins with empty layers, which record what transformers gives to each of them: masks, rotations
and positions. These do not depend on the hidden states, so many sequences can then go through one layer after the
other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch
from torch import nn

from seap_export.errors import EnvironmentFailure
from seap_export.model.families import Attention, ModelSpec
from seap_export.model.layers.stock_experts import ExpertMatrices, ExpertModules
from seap_export.model.layers.stock_pass import (
    BatchPass,
    RecordedCall,
    empty_cache_layer,
    filled_cache,
    has_caches_for,
    new_cache,
)


class _AllRecorded(Exception):
    """Ends a pass over empty layers, whose result nobody needs."""


class _OwnCache:
    """Stands for the cache in the recorded arguments of a layer."""


class StockModel:
    """A transformers causal language model in evaluation mode, whose weights are on meta until they are loaded.

    Args:
        spec: The same model's description.
        attention: transformers' attention implementation; None: its default.
        device: Where weights and hidden states are.

    Attributes:
        model: The model. Its modules stay the same, so that hooks on them see every pass.
        in_tuples: Whether a layer returns its hidden states in a tuple, as in some families of 4.57; known once one
            has run.

    Raises:
        EnvironmentFailure: The installed transformers has no class of this family.
    """

    def __init__(
        self,
        config: Any,
        spec: ModelSpec,
        attention: str | None = "eager",
        device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
    ) -> None:
        import transformers

        if not hasattr(transformers, spec.family.architecture) or not has_caches_for(spec):
            raise EnvironmentFailure(
                f"transformers {transformers.__version__} has no {spec.family.architecture} that the model could be "
                'compared with; run: pip install --upgrade "transformers<6"'
            )
        config._attn_implementation = None  # a config may name a kernel of the hub
        config._experts_implementation = "eager"  # the others have no kernels in float64
        options = {} if attention is None else {"attn_implementation": attention}
        with _parameters_on_meta(), _no_init_weights():
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
        model.tie_weights()  # which is else part of the initialisation
        model.config.pad_token_id = None  # GPT-2 would warn of a padded text; ids are rows of a part of the table
        self.model: Any = model.eval()
        self._device, self._spec, self._family = device, spec, spec.family
        shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        self._shapes, self._modules = shapes, ExpertModules(spec, shapes)
        if not self._modules.are_joint:
            raise EnvironmentFailure(
                f"transformers {transformers.__version__} is not supported with mixtures of experts; "
                'run: pip install --upgrade "transformers<6"'
            )
        for name in self._modules.matrices():
            self._change(name, None)
        for module in self.model.modules():  # not `model.to`, which would give memory to parameters
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        self._prefix = spec.family.names["layer"]
        self._layers = self.model.get_submodule(self._prefix.partition(".{layer}")[0])
        self._empty = [layer.state_dict() for layer in self._layers]
        # transformers 5.24 renames the argument and announces the end of the old name.
        new_name = "cache" in inspect.signature(type(self.model).forward).parameters
        self._cache_argument = "cache" if new_name else "past_key_values"
        self.in_tuples = False

    @property
    def is_tied(self) -> bool:
        """Whether transformers uses the embedding as LM head, too."""
        return bool(getattr(self.model.config, "tie_word_embeddings", False))

    @property
    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a checkpoint of the model has."""
        head = next(name for name, module in self.model.named_modules() if module is self._outer("lm_head"))
        stored = self._family.module("lm_head")  # GPT-NeoX's module is called otherwise since transformers 5
        shapes = {}
        for name, shape in self._shapes.items():
            module, _, kind = name.rpartition(".")
            shapes[f"{stored}.{kind}" if module == head else name] = shape
        return self._modules.stored(shapes)

    def load_outer(self, name: str, weight: torch.Tensor | None) -> None:
        """Gives the embedding (`embed_tokens`), the last norm (`norm`) or the LM head (`lm_head`) its weight or bias.

        Args:
            name: Its name in the plain form, such as `norm` or `norm_bias`.
            weight: The stored weight or bias. An embedding may have the rows of some tokens only. None: releases it.
        """
        module = self._outer(name)
        if name in self._spec.token_tables:
            module.padding_idx = None  # may be beyond the rows, and matters in training only
        parameter = _parameter(torch.empty(0, device="meta") if weight is None else weight.to(self._device))
        setattr(module, "bias" if name.endswith("_bias") else "weight", parameter)

    def _outer(self, name: str) -> Any:
        """The module that holds a tensor outside the layers."""
        if name in ("lm_head", "lm_head_bias"):
            return self.model.get_output_embeddings()
        return self.model.get_submodule(self._family.module(name))

    def load(self, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Gives a layer its weights, by stored name, in the dtype to compute in; those of experts may be narrower."""
        prefix = self._prefix.format(layer=index)
        filled, matrices = self._modules.filled(index, tensors)
        weights = {name.removeprefix(prefix): _parameter(tensor.to(self._device)) for name, tensor in filled.items()}
        self._layers[index].load_state_dict(weights, assign=True)
        for name, experts in matrices.items():
            self._change(name, experts.to(self._device))

    def release(self, index: int) -> None:
        self._layers[index].load_state_dict(self._empty[index], assign=True)
        for name in self._modules.matrices(index):
            self._change(name, None)

    def _change(self, name: str, experts: ExpertMatrices | None) -> None:
        """Puts matrices of experts in the place of a parameter, which would hold all of them in one tensor."""
        module, _, attribute = name.rpartition(".")
        holder = self.model.get_submodule(module)
        delattr(holder, attribute)
        setattr(holder, attribute, experts)

    def start(self, parts: Sequence[torch.Tensor], *, cached: bool = True) -> BatchPass:
        """Embeds sequences; the embedding must be loaded.

        Args:
            parts: int64 [batch, tokens] each, which run one after the other with a cache.
            cached: Whether there is a cache at all; a single part needs none.
        """
        passage = self.empty()
        for part in parts:
            self.append(passage, part, cached=cached)
        return passage

    def empty(self) -> BatchPass:
        """A pass without any tokens yet, for `append`."""
        layers = enumerate(self._spec.layers)
        groups = {
            index: sublayer.num_key_value_heads
            for index, layer in layers
            for sublayer in layer.sublayers
            if isinstance(sublayer, Attention)
        }
        return BatchPass(groups=groups)

    def append(
        self, passage: BatchPass, part: torch.Tensor, *, cached: bool = True, mask: torch.Tensor | None = None
    ) -> None:
        """Adds a part to sequences; those before it have passed all layers, if any has.

        Args:
            part: int64 [batch, tokens].
            cached: Whether there is a cache.
            mask: int64 [batch, tokens so far and new ones], 0 for padding on the left; None: there is none.
        """
        calls: list[RecordedCall] = []
        ids = part.to(self._device)
        cache = filled_cache(passage.length, len(self._layers), self._device) if cached else None

        def record(*arguments: Any, **keywords: Any) -> Any:
            if not calls:
                passage.hidden.append(arguments[0])
            kept = tuple(_OwnCache if cached and value is cache else value for value in arguments[1:])
            keywords_kept = {
                name: _OwnCache if cached and value is cache else value for name, value in keywords.items()
            }
            calls.append((kept, keywords_kept))
            if len(calls) == len(self._layers):
                raise _AllRecorded
            # Two of them, as some families take the first of what a layer gives, and Bamba two things.
            return passage.hidden[-1].unsqueeze(0).expand(2, -1, -1, -1)

        options: dict[str, Any] = {self._cache_argument: cache} if cached else {}
        if mask is None and passage.length:  # Bamba would count from 0 again
            mask = torch.ones(len(ids), passage.length + ids.shape[1], dtype=torch.long)
        if mask is not None:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            options |= {"attention_mask": mask.to(self._device), "position_ids": positions.to(self._device)}
        with torch.inference_mode(), self._replaced_layers(record), suppress(_AllRecorded):
            self.model(input_ids=ids, use_cache=cached, **options)
        passage.calls.append(calls)
        passage.length += ids.shape[1]

    def advance(self, index: int, passage: BatchPass) -> None:
        """Passes the parts through one layer, whose weights are loaded; adds its states to the caches."""
        if index not in passage.caches:
            passage.caches[index] = empty_cache_layer(self._spec.layers[index])
            if passage.fill is not None:
                passage.caches[index].update(*(states.to(passage.hidden[0]) for states in passage.fill(index)))
        layer = passage.caches[index]
        cache = new_cache([layer] * (index + 1))
        for part_index, calls in enumerate(passage.calls):
            arguments, keywords = calls[index]
            given = (cache if value is _OwnCache else value for value in arguments)
            filled = {name: cache if value is _OwnCache else value for name, value in keywords.items()}
            with torch.inference_mode():
                output = self._layers[index](passage.hidden[part_index], *given, **filled)
            self.in_tuples = isinstance(output, tuple)
            passage.hidden[part_index] = output[0] if self.in_tuples else output

    def finish(self, passage: BatchPass) -> list[torch.Tensor]:
        """The hidden states of the parts after the last layer; more parts may be appended afterwards."""
        hidden, passage.hidden, passage.calls = passage.hidden, [], []
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits [batch, tokens, vocab_size] of hidden states [batch, tokens, hidden_size] after the last layer.

        The last norm and the LM head must be loaded.
        """
        last = (hidden, None) if self.in_tuples else hidden
        with (
            torch.inference_mode(),
            self._replaced_layers(lambda *arguments, **keywords: last),
            self._without_inputs(hidden) as options,
        ):
            logits: torch.Tensor = self.model(inputs_embeds=hidden, use_cache=False, **options).logits
        return logits

    @contextmanager
    def _without_inputs(self, hidden: torch.Tensor) -> Iterator[dict[str, Any]]:
        """Gives layers no inputs, which transformers would look for among the embeddings."""
        if not self._spec.layer_inputs:
            yield {}
            return
        base = self.model.get_submodule(self._family.module("layer_inputs").rpartition(".")[0])
        base.hidden_size_per_layer_input = 0
        try:
            yield {"per_layer_inputs": hidden.new_zeros(*hidden.shape[:2], len(self._layers), 0)}
        finally:
            base.hidden_size_per_layer_input = self._spec.layer_inputs

    @contextmanager
    def _replaced_layers(self, forward: Callable[..., Any]) -> Iterator[None]:
        for module in self._layers:
            module.forward = forward
        try:
            yield
        finally:
            for module in self._layers:
                del module.forward


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _no_init_weights() -> AbstractContextManager[None]:
    """Models made within the block get no random weights, which would take long even on meta."""
    try:
        from transformers.initialization import no_init_weights
    except ModuleNotFoundError:  # transformers 4.57
        from transformers.modeling_utils import no_init_weights
    return no_init_weights()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made within the block have no memory for parameters; buffers, such as rotary frequencies, stay real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        moved = None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, moved)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
