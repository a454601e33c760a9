"""Config, weights and computation of each family are those of transformers, on micro models."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from support.chosen import OF_EACH_FAMILY, VARIED
from support.corpora import random_token_ids
from support.models import micro_source, transformers_model, write_micro_model
from support.product import ExpertModules, HiddenStates, Source, StoredForm, open_source, portable_config
from support.variations import FAMILIES, SHARED_CACHES, VARIATIONS, micro_config
from transformers import AutoConfig, PreTrainedModel

from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec, family_of_model_type, model_spec
from seap_export.model.families.files import common_keys
from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.hidden_states import logits, output_stream
from seap_export.model.layers.layer import DecoderLayer

Texts = Sequence[Sequence[int]]
_OUTPUTS = dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]]
#: Longer than the windows and the lengths that rotations were scaled from.
LONG = torch.arange(3, 43).unsqueeze(0)


@torch.no_grad()
def walked(source: Source, texts: Texts, max_batch_tokens: int = 4096) -> _OUTPUTS:
    """The stream behind the last layer and the logits of each text."""
    spec, embedding = source.spec, source.read_embedding()
    hidden = HiddenStates.embedded(spec, embedding, length_buckets(texts, max_batch_tokens))
    for index in range(len(spec.layers)):
        layer = DecoderLayer(spec, index, source.read_layer(index))
        for output in spec.layers[index].outputs:
            hidden.advance(layer, output)
    head, results = source.read_head(), {}
    for batch, stream in zip(hidden.batches, hidden.streams, strict=True):
        all_logits = logits(spec, head, output_stream(spec, source.read_norm(), stream))
        lengths = batch.real.sum(1).tolist()
        parts = zip(batch.input_ids, lengths, stream.split(lengths), all_logits.split(lengths), strict=True)
        results |= {tuple(ids[:length].tolist()): (own, scores) for ids, length, own, scores in parts}
    return results


@torch.no_grad()
def assert_computes_as(model: PreTrainedModel, source: Source, texts: Texts) -> None:
    streams: list[torch.Tensor] = []
    norm = model.get_submodule(source.spec.family.module("norm"))
    hook = norm.register_forward_pre_hook(lambda _, args: streams.append(args[0][0]))
    results = walked(source, texts)
    for ids in texts:
        expected = model(torch.tensor([ids]), use_cache=False).logits[0]
        stream, actual = results[tuple(ids)]
        scale = streams[-1].square().mean(-1, keepdim=True).sqrt()
        assert ((stream[:, : source.spec.hidden_size] - streams[-1]).abs() <= 1e-4 * scale).all()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    hook.remove()


def shapes_in_transformers(model: PreTrainedModel, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of all tensors of a checkpoint, a tied LM head left out."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = ExpertModules(spec, shapes).stored(shapes)
    stored = spec.family.stored("lm_head")
    weight = shapes.pop("lm_head.weight" if "lm_head.weight" in shapes else stored)  # what GPT-NeoX's module is called
    return shapes if model.config.tie_word_embeddings else {**shapes, stored: weight}


@torch.no_grad()
@pytest.mark.parametrize("variation", [*OF_EACH_FAMILY, "shared caches"])
def test_a_model_is_what_transformers_reads_and_computes(tmp_path: Path, variation: str) -> None:
    """Also from the portable config, and in texts of 1 to 40 tokens, one batch of them."""
    folder = write_micro_model(tmp_path / "model", **VARIATIONS.get(variation, SHARED_CACHES))
    source, model = open_source(str(folder)), transformers_model(folder)
    spec, config = source.spec, read_json(folder / "config.json")
    assert StoredForm(spec).shapes == shapes_in_transformers(model, spec)
    # Of the choice of experts; GPT-BigCode calls its mask a bias, too.
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("bias") and buffer.dim() == 1]
    assert spec.num_parameters() == sum(tensor.numel() for tensor in [*model.parameters(), *biases])
    assert_computes_as(model, source, random_token_ids(10, longest=40))

    AutoConfig.for_model(**config).save_pretrained(tmp_path)
    saved = read_json(tmp_path / "config.json")
    portable = portable_config(saved)
    assert model_spec(saved) == model_spec(portable) == spec
    assert portable_config(portable) == portable
    expected = model(LONG).logits
    (folder / "config.json").write_text(json.dumps(portable_config(spec.family.completed(config))), "utf-8")
    assert torch.equal(transformers_model(folder)(LONG).logits, expected)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_absent_key_means_what_transformers_takes_it_for_or_is_refused(tmp_path: Path, model_type: str) -> None:
    """With the shape of a larger model, which some classes' defaults are made for."""
    if transformers.__version__.startswith("4."):
        pytest.skip("some defaults of transformers 4 differ")
    family = family_of_model_type(model_type)
    sizes = {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 96, "hidden_size": 3072}
    whole, num_read = micro_config(model_type=model_type, **sizes), 0
    for key in whole.keys() - {"model_type"}:
        config = {name: value for name, value in whole.items() if name != key}
        try:
            AutoConfig.for_model(**config).save_pretrained(tmp_path)
        except Exception:  # of any kind: it cannot be read there
            continue
        try:
            spec = model_spec(config)
        except InputError:
            continue
        assert spec == model_spec(read_json(tmp_path / "config.json")), key
        num_read += 1
    assert num_read > len(whole) // 2
    defaults = AutoConfig.for_model(model_type)
    defaults.allow_global_per_layer_attribute_access = True
    for key, value in family.defaults.items():
        if getattr(defaults, key, None) is not None and key not in ("layer_types", "rope_parameters", "rope_scaling"):
            assert getattr(defaults, key) == (list(value) if isinstance(value, tuple) else value), key
    try:
        AutoConfig.for_model(**micro_config(model_type=model_type, num_attention_heads=5, num_key_value_heads=5))
        takes_any_heads = True
    except Exception:  # of huggingface_hub, which has its own for each of its releases
        takes_any_heads = False
    assert takes_any_heads is not family.heads_divide_hidden_size


@pytest.mark.parametrize("model_type", FAMILIES)
def test_harmless_keys_change_nothing_and_what_is_required_is_met_by_null_and_by_its_value(model_type: str) -> None:
    family, plain = family_of_model_type(model_type), micro_config(model_type=model_type)
    harmless = {*common_keys()[0], *family.harmless}
    others = {*harmless, "_any_key_of_a_loader"} - plain.keys()
    assert model_spec({**dict.fromkeys(others, 7), **plain}) == model_spec(plain)
    switches = {switch for switch in family.biases.values() if isinstance(switch, str)}
    formulas = {text.split()[0] for text in vars(family.block).values() if isinstance(text, str)}
    assert not {*family.keys.values(), *switches, *formulas, *family.defaults, *family.requires} & harmless
    for key, requirement in {**common_keys()[1], **family.requires}.items():
        value = requirement.value[0] if isinstance(requirement.value, tuple) else requirement.value
        is_list = isinstance(plain.get(key), list) or key in ("layer_types", "layers_block_type")
        for met in [[value] * 3 if is_list else value, *([None] if key not in family.defaults else [])]:
            model_spec(micro_config(model_type=model_type, **{key: met}))


@pytest.mark.parametrize("variation", VARIED)
def test_batches_padding_and_order_change_nothing(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    texts = random_token_ids(12, longest=40)
    shuffled = random.Random(3).sample(texts, len(texts))
    alone = walked(source, texts, 1)
    for size, order in ((60, texts), (4096, shuffled)):
        other = walked(source, order, size)
        for ids in texts:
            for ours, theirs in zip(other[tuple(ids)], alone[tuple(ids)], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_a_window_ends_where_that_of_transformers_does(tmp_path: Path) -> None:
    """A text of 5 tokens is within the window, and one of 6 is not."""
    source, model = micro_source(tmp_path / "model", "mistral-window"), transformers_model(tmp_path / "model")
    assert_computes_as(model, source, [list(range(20, 20 + length)) for length in (5, 6, 7)])


def test_longrope_switches_its_tables_where_transformers_does(tmp_path: Path) -> None:
    """A text of up to 16 tokens has the short table; in a longer one all positions have the long table."""
    source = micro_source(tmp_path / "model", "phi3-all", sliding_window=None)
    texts = [list(range(20, 20 + length)) for length in (15, 16, 17, 40)]
    assert_computes_as(transformers_model(tmp_path / "model"), source, texts)  # the tables are each text's own
    for text in texts:
        (_, alone), (_, longer) = (walked(source, [ids])[tuple(ids)] for ids in (text, [*text, 5]))
        assert torch.allclose(longer[:-1], alone, rtol=1e-3, atol=1e-3) is (len(text) != 16)
