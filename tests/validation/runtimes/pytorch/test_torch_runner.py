"""A model in torch, a layer at a time and in batches, computes what the whole model does with each row alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from support.chosen import VARIED, in_turn, of_each_kind
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.product import Compute, States, padded, read_spec
from support.variations import VARIATIONS

from validation.execution import Execution
from validation.quiet import quiet_transformers
from validation.runtimes.pytorch.torch_batch import TorchBatch
from validation.runtimes.pytorch.torch_runner import Run, open_torch_runner

_TOKENS = np.random.default_rng(0).integers(3, 50, 40).tolist()
#: A prompt and single steps, a prompt of which few logits are kept, and a prompt in parts.
RUNS = (
    Run([_TOKENS[:6], *([token] for token in _TOKENS[6:20])], 20),
    Run([_TOKENS[3:30]], 5),
    Run([_TOKENS[:16], _TOKENS[16:32], _TOKENS[32:38]], 10),
)
#: Nothing fits: each sequence is a pass of its own, and no layer stays.
TIGHT = Compute(memory=1)

Outcome = tuple[np.ndarray, list[States]]


def _whole(folder: Path, attention: str) -> list[Outcome]:
    """By transformers' own loader, with the whole model in memory."""
    from transformers import AutoModelForCausalLM, DynamicCache

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    config, types = copy.copy(model.config), getattr(model.config, "layer_types", None) or []
    if "sliding_attention" in types:  # whose states would be cut
        config.layer_types = ["full_attention" if kind == "sliding_attention" else kind for kind in types]
    keeps_other_states = {"conv", "hybrid", "linear_attention", "mamba"} & {*types}
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    whole = []
    for run in RUNS:
        cache, logits = DynamicCache(config=config) if keeps_other_states else DynamicCache(), []
        cache.has_previous_state = False  # 4.57's Granite 4 asks for it
        for part in run.parts:
            arguments: Any = {name: cache, "use_cache": True}
            if config.model_type == "bamba":  # which else counts from 0 in each part
                seen = sum(map(len, run.parts[: len(logits)]))
                arguments["position_ids"] = torch.arange(seen, seen + len(part))[None]
            with torch.inference_mode():
                logits.append(model.eval()(input_ids=torch.tensor([part]), **arguments).logits[0].numpy())
        is_transposed = config.model_type in ("bamba", "falcon_h1", "granitemoehybrid", "nemotron_h")
        states = [_states(layer, is_transposed) for layer in cache.layers]
        states += [{}] * (config.num_hidden_layers - len(states))  # behind the last layer that keeps something
        whole.append((np.concatenate(logits)[-run.kept :], states))
    return whole


def _states(layer: Any, is_transposed: bool) -> States:
    has_keys = getattr(layer, "keys", None) is not None
    states = {"key": layer.keys[0].numpy(), "value": layer.values[0].numpy()} if has_keys else {}
    if not getattr(layer, "conv_states", None):
        return states
    states["conv"] = layer.conv_states[0][0, :, 1:].numpy()
    if (recurrent := layer.recurrent_states[0]) is not None:
        states["recurrent"] = (recurrent[0].transpose(1, 2) if is_transposed else recurrent[0]).numpy()
    return states


def _streamed(folder: Path, attention: str, compute: Compute) -> list[Outcome]:
    caches: list[list[States]] = [[] for _ in RUNS]
    with open_torch_runner(folder, Execution(threads=1, compute=compute), attention=attention) as runner:
        logits = list(runner.run(RUNS, lambda index, states: caches[index].append(states)))
    return list(zip(logits, caches, strict=True))


def _assert_same(outcomes: list[Outcome], expected: list[Outcome]) -> None:
    """To rounding: some processors sum a product in another order if it has fewer rows."""
    for (logits, caches), (torch_logits, torch_caches) in zip(outcomes, expected, strict=True):
        _assert_close(logits, torch_logits)
        for states, torch_states in zip(caches, torch_caches, strict=True):
            assert states.keys() == torch_states.keys()
            for state, wanted in torch_states.items():
                # Falcon's class caches a group's keys for each of its heads.
                repeated = len(wanted) // len(states[state])
                _assert_close(states[state], wanted[::repeated])


def _assert_close(computed: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(computed, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


WITHOUT_SDPA = ("flint", "gemma2", "gpt_neo", "gpt_oss", "granite_swa", "granitemoe_swa", "vaultgemma")


@pytest.mark.parametrize(("variation", "attention"), in_turn(VARIATIONS, ["eager", "sdpa"]))
def test_every_family(variation: str, attention: str, tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", **VARIATIONS[variation])
    if attention == "sdpa" and VARIATIONS[variation]["model_type"] in WITHOUT_SDPA:
        pytest.skip("the class refuses sdpa")
    expected = _whole(folder, attention)
    for compute in (Compute(), TIGHT):
        _assert_same(_streamed(folder, attention, compute), expected)


def test_layers_of_different_shapes(micro_hf: Callable[[str], Path]) -> None:
    _assert_same(_streamed(micro_hf("Qwen2"), "eager", TIGHT), _whole(micro_hf("Qwen2"), "eager"))


@pytest.mark.parametrize("variation", ["gemma3-all", "phi3-all", "llama-gqa"])
def test_prompts_continue_together_as_each_alone(variation: str, tmp_path: Path) -> None:
    """Layers may stay loaded or be read again for each step."""
    folder = write_micro_model(tmp_path / "m", **VARIATIONS[variation])
    prompts = [_TOKENS[:6], _TOKENS[4:25], _TOKENS[9:10]]
    with open_torch_runner(folder, ONE_THREAD) as runner:
        alone = [runner.continuations([prompt], 7)[0] for prompt in prompts]
        assert runner.continuations(prompts, 7) == alone
        stop = alone[1][2]
        until = [tuple(takewhile(lambda token: token != stop, row)) for row in alone]
        assert list(map(tuple, runner.continuations(prompts, 7, {stop}))) == until
        for place, token in enumerate(alone[0]):
            likeliest = runner.run([Run([[*prompts[0], *alone[0][:place]]], 1)])
            assert int(next(likeliest).argmax()) == token
    with open_torch_runner(folder, Execution(threads=1, compute=TIGHT)) as runner:
        assert runner.continuations(prompts, 7) == alone
    with open_torch_runner(folder, ONE_THREAD) as runner:  # the whole model is what transformers loads
        model = runner.whole_model()
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([_TOKENS[3:30]])).logits[0, -5:].numpy()
    assert np.array_equal(logits, _whole(folder, "eager")[1][0])


Logits = Callable[..., list[np.ndarray]]
#: Longrope rotates a whole batch as its longest row, so rows that get longer than 16 tokens run alone.
SHORT = 7


def padded_values(name: str) -> dict[str, Any]:
    """A variation without what transformers computes otherwise in a row that is padded on the left."""
    return {**VARIATIONS[name], **({"conv_bias": False} if "lfm" in name else {})}


@pytest.mark.parametrize("name", VARIED)
def test_prompts_and_steps_of_a_batch(
    name: str, tmp_path: Path, prompts: list[list[int]], torch_logits: Logits
) -> None:
    model = write_micro_model(tmp_path / "m", **padded_values(name))
    rows = SHORT if "phi3" in name else len(prompts)
    lengths = [len(prompt) for prompt in prompts[:rows]]
    kept = [row for row in range(rows) if row % 3]  # others have ended, the longest among them
    with open_torch_runner(model, ONE_THREAD) as runner, runner.head():
        batch = TorchBatch(runner)
        logits = [batch.prefill(padded(prompts[:rows]), lengths)[:, 0], batch.step([5] * rows)]
        batch.keep(kept)
        logits.append(batch.step([7] * len(kept)))
        alone = batch.prefill(np.array(prompts[1:2]), lengths[1:2])
        batch.close()
    texts = [[*prompt, 5, 7] for prompt in prompts[:rows]]
    wanted = np.stack([alone[-3:] for alone in torch_logits(model, texts, lengths)])
    assert logits[0].shape == (rows, wanted.shape[2])
    assert np.abs(np.stack(logits[:2], 1) - wanted[:, :2]).max() <= 1e-3
    assert np.abs(logits[2] - wanted[kept, 2]).max() <= 1e-3
    assert np.abs(alone[0, 0] - wanted[1, 0]).max() <= 1e-3


@pytest.mark.parametrize("name", of_each_kind())
def test_what_all_rows_begin_with_runs_once(
    name: str, tmp_path: Path, prompts: list[list[int]], torch_logits: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_micro_model(tmp_path / "m", **padded_values(name))
    rows, common = (4, 9) if "phi3" in name else (12, 19)
    texts = [[*prompts[-1][:common], *tokens] for tokens in prompts[:rows]]
    lengths, steps = [len(text) for text in texts], ([5] * rows, [7] * rows)
    with open_torch_runner(model, ONE_THREAD) as runner, runner.head():
        extend = Mock(wraps=runner.extend)
        monkeypatch.setattr(runner, "extend", extend)
        batch = TorchBatch(runner)
        logits = np.stack([batch.prefill(padded(texts), lengths)[:, 0], *map(batch.step, steps)], 1)
        batch.close()
    longest = max(lengths)
    can_rewind = all(sublayer.can_rewind for sublayer in read_spec(model).sublayers)
    prompt = [(rows, longest)] if not can_rewind else [(1, common), (rows, longest - common)]
    assert [tuple(call.args[1].shape) for call in extend.call_args_list] == [*prompt, (rows, 1), (rows, 1)]
    wanted = [tokens[-3:] for tokens in torch_logits(model, [[*text, 5, 7] for text in texts], lengths)]
    assert np.abs(logits - np.stack(wanted)).max() <= 1e-3
