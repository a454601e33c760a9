"""Trains a written model on right answers, and keeps the weights of the pass that answers unseen texts best."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seap_export.common.durable import keep
from seap_export.common.json_file import read_json_if_present, write_json
from seap_export.errors import InputError
from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import PART
from seap_export.model.sources.written import folder_source
from seap_export.pruning.distillation.adam import Adam
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.objectives import OuterTensors, RightTokens
from seap_export.pruning.distillation.student import Student
from seap_export.pruning.distillation.texts import STEP_TOKENS, TrainingStep
from seap_export.pruning.distillation.write import WEIGHTS, as_floats, fit_in_memory
from seap_export.pruning.shrink.write import write_weights

#: Texts of a training step, and the largest step of a weight, in units of its matrix's root mean square.
_TEXTS, _RATE = 8, 1e-3
#: One text in so many judges the passes, and is not learnt.
_JUDGED = 10
#: A model that answers all such texts rightly learns no more once their loss is below this, in nats per token.
_SETTLED = 0.02
#: Units of progress in a pass.
UNITS = 20
#: The folder inside a model folder that is there while the model learns, and the record that is there afterwards.
LEARNING, LEARNT = "unfinished/learning", "learning.json"


@dataclass(frozen=True)
class AnsweredText:
    """Token ids of a text, and where its answer begins."""

    ids: tuple[int, ...]
    first: int

    def __post_init__(self) -> None:
        if not 0 < self.first < len(self.ids):
            raise ValueError(f"an answer from token {self.first} on in a text of {len(self.ids)} tokens")


@dataclass(frozen=True)
class Judged:
    """How a model answers texts that it does not learn.

    Attributes:
        right: The fraction of answers whose tokens are all the likeliest ones.
        loss: The mean cross entropy of an answer's tokens, in nats per token.
    """

    right: float
    loss: float

    @property
    def is_settled(self) -> bool:
        """Whether further passes have nothing to win."""
        return self.right == 1.0 and self.loss < _SETTLED


@dataclass(frozen=True)
class Learned:
    """How a model answers before the first pass and after each."""

    passes: tuple[Judged, ...]

    @property
    def best(self) -> int:
        """The number of passes after which most answers are right; among equals, with the least loss."""
        ranks = [(-judged.right, judged.loss) for judged in self.passes]
        return ranks.index(min(ranks))

    def write(self, file: Path) -> None:
        part = file.with_name(file.name + PART)
        write_json(part, {"kept": self.best, "passes": [asdict(judged) for judged in self.passes]})
        keep(part, file)

    @classmethod
    def read(cls, file: Path) -> Learned:
        """What `write` wrote; nothing if there is no file."""
        values = read_json_if_present(file) or {"passes": []}
        return cls(tuple(Judged(**judged) for judged in values["passes"]))


def learn_answers(
    folder: Path,
    texts: Collection[AnsweredText],
    passes: int,
    on_unit: Callable[[object], None] = lambda unit: None,
    *,
    compute: Compute | None = None,
) -> Learned:
    """Trains the model in a folder on the answers of texts, whatever their order, and replaces its weights.

    The loss is the cross entropy of the answers' tokens, in which all answers count the same. A tenth of the texts is
    not learnt, but judges after which pass the model is kept. It continues what an interrupted call with the same
    arguments left in the folder. It ends before the last pass if all of these are answered rightly, and surely.

    Args:
        texts: At least two that differ, in the ids of the model.
        passes: How often each text is seen at most.
        on_unit: Called `UNITS` times for each pass.

    Raises:
        InputError: The loss is not finite.
    """
    work, record = folder / LEARNING, folder / LEARNT
    if not record.is_file():
        work.mkdir(parents=True, exist_ok=True)
        _Course(folder, work, texts, passes, compute or Compute(), on_unit).run()
        best = work / str(Learned.read(work / LEARNT).best) / WEIGHTS
        if best.is_file():
            keep(best, folder / WEIGHTS)
        keep(work / LEARNT, record)
    shutil.rmtree(work.parent, ignore_errors=True)
    return Learned.read(record)


class _Course:
    """The passes over the texts of one model."""

    def __init__(
        self,
        folder: Path,
        work: Path,
        texts: Collection[AnsweredText],
        passes: int,
        compute: Compute,
        on_unit: Callable[[object], None],
    ) -> None:
        self._work, self._passes, self._compute = work, passes, compute
        self._on_unit, self._units = on_unit, 0
        self._source = folder_source(folder)
        self._outer, spec = OuterTensors.read(self._source), self._source.spec
        ordered = sorted(set(texts), key=_digest)
        number = max(1, len(ordered) // _JUDGED)
        self._judging, self._learnt = ordered[:number], ordered[number:]
        self._steps_of_a_pass = math.ceil(len(self._learnt) / _TEXTS)
        self._layers = TrainedLayers(work, len(spec.layers), fit_in_memory(spec, spec, STEP_TOKENS, compute))
        self._student = Student(spec, self._outer.embedding, self._layers, work, compute.device)

    def run(self) -> None:
        """Takes the passes that are left; leaves the record, and the weights of the best pass in a folder."""
        source, layers, number_of_layers = self._source, self._layers, len(self._source.spec.layers)
        if layers.step is None:
            layers.begin(as_floats(source.reader, source.spec, index) for index in range(number_of_layers))
        judged = Learned.read(self._work / LEARNT)
        for number in range(self._passes + 1):
            if any(of.is_settled for of in judged.passes[:number]):
                break
            self._train(number)
            if number == len(judged.passes):
                judged = Learned((*judged.passes, self._judge()))
                if number and judged.best == number:
                    self._write(self._work / str(number))
                judged.write(self._work / LEARNT)
        self._tell(self._passes * self._steps_of_a_pass)

    def _train(self, number: int) -> None:
        """Takes the steps that are left of the first passes."""
        layers, steps = self._layers, self._steps_of_a_pass
        while (step := layers.step or 0) < number * steps:
            current, part = divmod(step, steps)
            order = torch.randperm(len(self._learnt), generator=torch.Generator().manual_seed(current))
            texts = [self._learnt[index] for index in order[part * _TEXTS : (part + 1) * _TEXTS].tolist()]
            lesson, targets = self._lesson(texts)
            adam = Adam(step, self._passes * steps, _RATE)
            loss = self._student.train(lesson, RightTokens(self._source.spec, self._outer, targets), adam)
            if not math.isfinite(loss):
                raise InputError(f"learning diverged at step {step + 1}; set 'learning = 0' in the recipe")
            layers.advance()
            self._tell(step + 1)

    def _tell(self, steps: int) -> None:
        """Reports the units of progress of so many steps."""
        units = steps * UNITS // self._steps_of_a_pass
        while self._units < units:
            self._on_unit(None)
            self._units += 1

    def _judge(self) -> Judged:
        right, losses = 0, 0.0
        for start in range(0, len(self._judging), _TEXTS):
            texts = self._judging[start : start + _TEXTS]
            lesson, targets = self._lesson(texts)
            objective = RightTokens(self._source.spec, self._outer, targets)
            streams = zip(lesson.batches, self._student.outputs(lesson), lesson.weights, strict=True)
            for index, (batch, stream, weights) in enumerate(streams):
                losses += len(texts) * objective.at_end(index, stream, weights)[0]
                # what comes before an answer does not count
                good = objective.are_right(index, stream).cpu() | (weights == 0)
                right += sum(bool(row.all()) for row in good.split(batch.real.sum(1).tolist()))
        return Judged(right / len(self._judging), losses / len(self._judging))

    def _lesson(self, texts: Sequence[AnsweredText]) -> tuple[TrainingStep, list[torch.Tensor]]:
        """The batches of some texts, and the right next token at each of their positions."""
        first = {text.ids: text.first for text in texts}
        compute = self._compute
        batches = length_buckets([text.ids for text in texts], compute.batch_tokens, compute.device)
        weights, targets = list[torch.Tensor](), list[torch.Tensor]()
        for batch in batches:
            rows = [tuple(ids[real].tolist()) for ids, real in zip(batch.input_ids, batch.real, strict=True)]
            targets.append(torch.cat([torch.tensor([*ids[1:], ids[0]]) for ids in rows]))
            weights.append(torch.cat([_weights(len(ids), first[ids]) / len(texts) for ids in rows]))
        return TrainingStep(tuple(range(len(batches))), tuple(batches), tuple(weights)), targets

    def _write(self, folder: Path) -> None:
        """Writes the weights as they are now."""
        source, spec = self._source, self._source.spec

        def layers(first: int) -> Iterator[Mapping[str, torch.Tensor]]:
            for index in range(first, len(spec.layers)):
                stored = source.reader.read(spec.layer_tensors(index))
                yield {
                    name: self._layers[index][name] if value.dim() == 2 else value for name, value in stored.items()
                }

        folder.mkdir(exist_ok=True)
        write_weights(source, spec, layers, folder)


def _weights(length: int, first: int) -> torch.Tensor:
    """The weights of a text's positions, float32 [tokens]: those before a token of the answer count the same."""
    weights = torch.zeros(length)
    weights[first - 1 : length - 1] = 1 / (length - first)
    return weights


def _digest(text: AnsweredText) -> bytes:
    return hashlib.sha256(repr(text).encode()).digest()
