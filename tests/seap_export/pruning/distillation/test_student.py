"""Loss and gradients are those of autograd through transformers' own class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from support.calibration import compute_in_memory, mixture_of
from support.chosen import VARIED
from support.corpora import random_token_ids
from support.models import micro_source, skip_unless_loaded, transformers_model
from support.plans import micro_plan
from support.product import Batch, DecoderLayer, ExpertModules, HiddenStates, Plan, SafetensorsReader, Source

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.model.families import ModelSpec
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.pruning.distillation.adam import Adam
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.objectives import Imitation, OuterTensors, RightTokens
from seap_export.pruning.distillation.student import Student
from seap_export.pruning.distillation.texts import TrainingStep, training_steps
from seap_export.pruning.shrink.write import write_shrunk_model

TEXTS = random_token_ids(8, longest=20)
#: The loss, and the gradient of each stored tensor.
LossAndGradients = tuple[float, dict[str, torch.Tensor]]


class Seen(Adam):
    """Keeps the gradients, and changes nothing."""

    def __init__(self) -> None:
        super().__init__(0, 1, 0.0)
        self.gradients: dict[str, torch.Tensor] = {}

    def update(self, tensors: dict[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], loss: float) -> None:
        assert not self.gradients.keys() & gradients.keys()
        self.gradients |= gradients


def by_hand(dense: Path, shrunk: Path, step: TrainingStep, right: bool) -> LossAndGradients:
    """The loss, and the gradients of the stored tensors, from one text at a time."""
    teacher, student = transformers_model(dense).requires_grad_(False), transformers_model(shrunk)
    loss = torch.zeros((), dtype=torch.float64)
    for batch, weights in zip(step.batches, step.weights, strict=True):
        start = 0
        for ids, real in zip(batch.input_ids, batch.real, strict=True):
            row = ids[real][None]
            log_p, log_q = (model(row, use_cache=False).logits[0].log_softmax(-1) for model in (teacher, student))
            if right:
                of_tokens = -log_q.gather(1, row[0].roll(-1)[:, None])[:, 0]
            else:
                of_tokens = (log_p.exp() * (log_p - log_q)).sum(-1)
            loss = loss + (of_tokens * weights[start : start + len(of_tokens)]).double().sum()
            start += len(of_tokens)
    loss.backward()
    matrices = (
        (name, parameter)
        for name, parameter in student.named_parameters()
        if (parameter.dim() == 2 or ".experts." in name) and not name.endswith("bias")
    )
    return float(loss.detach()), {name: parameter.grad for name, parameter in matrices if parameter.grad is not None}


def student_step(
    source: Source, plan: Plan, shrunk: Path, batches: Sequence[Batch], step: TrainingStep, work: Path, right: bool
) -> LossAndGradients:
    spec, compute = plan.shrunk_spec(source.spec), compute_in_memory()
    reader = PlainReader(SafetensorsReader(shrunk), spec)
    outer = OuterTensors.read(source)
    layers = TrainedLayers(work, len(spec.layers), in_memory=True)
    layers.begin(
        {name: tensor.float() for name, tensor in reader.read(spec.layer_tensors(index)).items()}
        for index in range(len(spec.layers))
    )
    dense = HiddenStates.embedded(source.spec, outer.embedding, batches)
    for index in range(len(source.spec.layers)):
        layer = DecoderLayer(source.spec, index, source.read_layer(index))
        for output in source.spec.layers[index].outputs:
            dense.advance(layer, output)
    seen = Seen()
    objective = (
        RightTokens(spec, outer, list(map(next_tokens, batches))) if right else Imitation(spec, outer, dense.streams)
    )
    loss = Student(spec, outer.embedding, layers, work, compute.device).train(step, objective, seen)
    return loss, StoredForm(spec).to_stored(seen.gradients)


def next_tokens(batch: Batch) -> torch.Tensor:
    """The token after each one; after the last of a text, its first."""
    return torch.cat([ids[real].roll(-1) for ids, real in zip(batch.input_ids, batch.real, strict=True)])


def joined(spec: ModelSpec, stored: Mapping[str, torch.Tensor], modules: Collection[str]) -> dict[str, torch.Tensor]:
    """The gradients of stored tensors as those of transformers' modules, which may hold all experts in one tensor."""
    experts = ExpertModules(spec, modules)
    if not experts.are_joint:
        return dict(stored)
    gradients: dict[str, torch.Tensor] = {}
    for index in range(len(spec.layers)):
        prefix = spec.family.names["layer"].format(layer=index)
        layer = {name: tensor for name, tensor in stored.items() if name.startswith(prefix)}
        others, matrices = experts.filled(index, layer)
        joint = {name: torch.stack([every[i] for i in range(len(every))]) for name, every in matrices.items()}
        gradients |= others | joint
    return gradients


@pytest.mark.parametrize("variation", ["llama-gqa", "gemma2-attention-softcap"])
def test_those_of_right_tokens_are_too(tmp_path: Path, variation: str) -> None:
    check_loss_and_gradients(tmp_path, variation, right=True)


@pytest.mark.parametrize("variation", VARIED)
def test_loss_and_gradients_are_those_of_transformers(tmp_path: Path, variation: str) -> None:
    check_loss_and_gradients(tmp_path, variation, right=False)


def check_loss_and_gradients(tmp_path: Path, variation: str, right: bool) -> None:
    source = micro_source(tmp_path / "dense", variation)
    skip_unless_loaded(source.spec.family, "per-layer")
    statistics = mixture_of(source, tmp_path / "statistics", {"boolq": TEXTS})
    shrunk, work = tmp_path / "shrunk", tmp_path / "work"
    for folder in (shrunk, work):
        folder.mkdir()
    plan = micro_plan(source, "sequential")
    write_shrunk_model(source, plan, statistics, shrunk)
    (step,) = training_steps([(ids, 1.0 + len(ids) % 2) for ids in TEXTS], compute_in_memory())
    batches = [
        batch for _, batch in sorted(zip(step.batch_indices, step.batches, strict=True), key=lambda pair: pair[0])
    ]
    loss, stored = student_step(source, plan, shrunk, batches, step, work, right)
    wanted, expected = by_hand(tmp_path / "dense", shrunk, step, right)
    gradients = joined(plan.shrunk_spec(source.spec), stored, expected)
    assert loss == pytest.approx(wanted, rel=1e-3)
    assert loss > 1e-3  # there is something to learn
    layers = source.spec.family.names["layer"].partition("{")[0]
    trained = {name for name in expected if name.startswith(layers)}
    assert gradients.keys() == trained
    for name, gradient in gradients.items():
        size = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0.0, atol=2e-3 * size, msg=name)
