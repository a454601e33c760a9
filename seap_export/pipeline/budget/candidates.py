"""Makes candidates in a hidden folder, and measures them as an export does."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from converters.format import Format
from seap_export.corpus import Split
from seap_export.errors import ArtifactError, InputError
from seap_export.pipeline.budget.predictor import Predictor, arithmetic
from seap_export.pipeline.evaluation.quality import MAX_LENGTH, folder_quality_key
from seap_export.pipeline.evaluation.speed import speed_request
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.evaluation.texts import paired_texts
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.rounded import ROUNDING
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.measured import ONNX_RUNTIME, Measured
from seap_export.pipeline.steps.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.quality import DENSE_TEXTS
from seap_export.pipeline.steps.ranking import RankingStep
from seap_export.pipeline.steps.run import run_steps
from seap_export.pipeline.steps.step import Step, Work
from seap_export.pipeline.steps.variant_steps import variant_steps
from seap_export.pipeline.targets.candidate import Candidate, Figures, Point, ways
from seap_export.vocabulary.choice import VocabularySize
from seap_export.vocabulary.table import Vocabulary
from validation.divergence.measure import DenseAnswers, claim_texts, measure_divergence
from validation.prompts import tokenize_prompts
from validation.speed.engines import open_engine
from validation.speed.measure import measure_speed

__all__ = ["WORKSHOP", "Workshop", "open_workshop"]

#: Kept for a run that goes on after an interruption, and removed by the next export that finishes.
WORKSHOP = ".seap-export-unfinished-frontier"


@dataclass(frozen=True)
class _Made:
    """The steps of a candidate in the hidden folder: those of a variant but for parity.

    Attributes:
        place: Where they are made.
        all: In order.
        written: The last of them, which writes the format.
    """

    place: Workspace
    all: tuple[Step, ...]
    written: FormatStep


class Workshop:
    """Makes and measures candidates; figures that are known from an earlier run are not measured again.

    Args:
        request: What is asked for.
        usual: The format of the dense model that speed-ups are over.
        work: The model and the machine; statistics and rankings are in its folder.
        hidden: The folder, locked, of the candidates with each vocabulary: names tell only their ratios apart.
        splits: The texts of each task.
        vocabularies: The tokens that candidates of each task and mixture keep, unless they keep all.
        known: Figures of an earlier run by their keys.
        stack: Closes what this opens.
    """

    def __init__(
        self,
        request: ExportRequest,
        usual: Format,
        work: Work,
        hidden: Mapping[VocabularySize, Workspace],
        splits: Mapping[str, Split],
        vocabularies: Mapping[str, Vocabulary],
        known: Mapping[str, Figures],
        stack: ExitStack,
    ) -> None:
        self._request, self._usual, self._work, self._hidden = request, usual, work, hidden
        self._splits, self._vocabularies, self._known, self._stack = splits, vocabularies, known, stack

    def evaluate(self, ranking: RankingStep, candidate: Candidate, predictor: Predictor) -> Point | None:
        """Makes a candidate and compares it with the dense model; None: it cannot be made or run.

        What the dense model loses unquantised is taken for nothing if it is too large to be chosen, and not measured.
        """
        made, ideal = self._steps(ranking, candidate), predictor.ideal_speedup(candidate)
        name, predicted = f"{made.written.variant} in {candidate.label}", predictor.bytes(candidate)
        key = folder_quality_key(made.written.key, MAX_LENGTH)
        size = None if self._request.targets is None else self._request.targets.size
        is_exact = not candidate.ratio and arithmetic(candidate.format).quantization is None
        if size is not None and predicted > size and is_exact:
            reference = self._answers.reference(self._tokens[ranking.mixture.name])
            tokens = sum(map(len, reference.token_ids))
            return Point(candidate, Figures(predicted, 0.0, 1.0, reference.perplexity, tokens), None, predicted, ideal)
        if key in self._known:
            self._work.progress.say(f"{name}: its figures are reused")
            return Point(candidate, self._known[key], key, predicted, ideal)
        self._work.progress.say(f"trying {name}, about {predicted / 1e6:.1f} MB")
        try:
            figures = self._measure(made, self._texts[ranking.mixture.name], name)
        except (InputError, ArtifactError) as error:
            self._work.progress.warn(f"{name} is left out: {error}")
            return None
        return Point(candidate, figures, key, predicted, ideal)

    def time(self, ranking: RankingStep, candidate: Candidate) -> float:
        """The measured speed-up of a decode step over the dense model in the usual format."""
        folders = {
            name: (self._make(self._steps(ranking, own)), own.format)
            for name, own in {"usual": Candidate(0.0, self._usual), "candidate": candidate}.items()
        }
        if candidate == Candidate(0.0, self._usual):
            return 1.0
        parity, spec = self._request.parity, self._work.source.spec
        asked = speed_request(spec, Measured("", candidate.format), parity)
        openers = {
            name: partial(
                open_engine,
                own.runtimes[0],
                folder,
                spec.max_position_embeddings,
                asked.execution,
            )
            for name, (folder, own) in folders.items()
        }
        label = f"timing {ranking.mixture.name}-{candidate.ratio:g} in {candidate.label}"
        with self._work.progress.step(label, 2 * asked.runs, "runs", name="speed") as advance:
            timings = measure_speed(
                openers,
                asked.cells,
                vocab_size=self._fewest_tokens(ranking, candidate),
                runs=asked.runs,
                steps=asked.steps,
                on_progress=advance,
            )
        (cell,) = asked.cells
        return timings["usual"][cell].step_s / timings["candidate"][cell].step_s

    def _fewest_tokens(self, ranking: RankingStep, candidate: Candidate) -> int:
        """The tokens that the candidate and the dense model both have."""
        kept = self._kept(ranking, candidate)
        return self._work.source.spec.vocab_size if kept is None else len(kept)

    def _kept(self, ranking: RankingStep, candidate: Candidate) -> Vocabulary | None:
        return None if candidate.vocabulary == "all" else self._vocabularies[ranking.mixture.name]

    def keep(self, ranking: RankingStep, kept: Collection[Candidate]) -> None:
        """Removes all other candidates of a task or mixture."""
        for vocabulary, place in self._hidden.items():
            of_place = [self._steps(ranking, own).all for own in kept if own.vocabulary == vocabulary]
            names = {step.name for steps in of_place for step in steps}
            for name in list(place.manifest.steps):
                first, second, *_ = name.split("/")
                variant = second if first == ROUNDING else first
                if variant.rpartition("-")[0] == ranking.mixture.name and name not in names:
                    _forget(place, name)

    def hand_over(self, ranking: RankingStep, chosen: Candidate, workspace: Workspace) -> None:
        """Moves the steps of a candidate into the output folder, unless they are there.

        Args:
            ranking: Of its task or mixture.
            chosen: The candidate.
            workspace: The output folder, locked.

        Raises:
            UsageError: Something else is there, and there is no --force.
        """
        made = self._steps(ranking, chosen)
        for step in made.all:
            name = f"{made.written.variant}/{chosen.format.name}" if step is made.written else step.name
            if not workspace.is_done(name, step.key) and made.place.is_done(step.name, step.key):
                workspace.record(name, step.key, made.place.folder / step.name)

    def _measure(self, made: _Made, texts: Sequence[str], name: str) -> Figures:
        folder, format, parity = self._make(made), made.written.format, self._request.parity
        variant, kept = Export(made.place.folder).variant(made.written.variant), made.written.plan.vocabulary
        subject = Subject(variant.name, variant, None, self._work.source)
        pairs = paired_texts(subject, self._work.source, variant.hf, texts, self._most_tokens)
        dense = [pair.dense for pair in pairs]
        self._answers.run(dense)  # what the candidate's tokenizer cuts otherwise
        reference = self._answers.reference(dense)
        runtime, execution = format.runtimes[0], parity.execution(self._work.compute)
        if runtime == ONNX_RUNTIME:
            claim_texts(folder, [pair.variant for pair in pairs], execution, self._work.progress.say)
        with self._work.progress.step(f"{name}: comparing with the dense model", len(texts), "texts") as done:
            options: Any = {"execution": execution, "on_progress": done}
            options |= {"texts": pairs, "kept": None if kept is None else kept.rows}
            found = measure_divergence(reference, folder, runtime, **options)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Figures(size, found.mean_kl, found.top1_agreement, found.perplexity, found.tokens)

    def _make(self, made: _Made) -> Path:
        work = replace(self._work, folder=made.place.folder, shared=self._work.folder)
        for _ in run_steps(made.all, work, made.place):
            pass
        return made.place.folder / made.written.name

    def _steps(self, ranking: RankingStep, candidate: Candidate) -> _Made:
        folder = f"{candidate.format.name}-{candidate.format.precision}"
        kept = self._kept(ranking, candidate)
        spec, formats = self._work.source.spec, {folder: candidate.format}
        own = variant_steps(spec, self._request, ranking, candidate.ratio, formats, kept)
        steps = tuple(step for step in own.all if not isinstance(step, ParityStep))
        return _Made(self._hidden[candidate.vocabulary], steps, own.formats[folder])

    @cached_property
    def _dense(self) -> Path:
        return self._stack.enter_context(dense_folder(self._work.source))

    @cached_property
    def _texts(self) -> dict[str, tuple[str, ...]]:
        """The held-out texts of each task and mixture, as `pipeline.quality` takes them."""
        return {
            own.name: tuple(
                dict.fromkeys(sample.text for task in own.weights for sample in self._splits[task].held_out)
            )
            for own in self._request.all_mixtures
        }

    @property
    def _most_tokens(self) -> int:
        return min(MAX_LENGTH, self._work.source.spec.max_position_embeddings)

    @cached_property
    def _tokens(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """The same as the dense model's tokens."""
        size, most = self._work.source.spec.vocab_size, self._most_tokens
        return {
            name: tokenize_prompts(self._dense, texts, max_tokens=most, vocab_size=size)
            for name, texts in self._texts.items()
        }

    @cached_property
    def _answers(self) -> DenseAnswers:
        answers = self._stack.enter_context(
            DenseAnswers(self._dense, self._request.parity.execution(self._work.compute))
        )
        texts = [ids for own in self._tokens.values() for ids in own]
        label = "running the dense model on held-out texts"
        with self._work.progress.step(label, len(set(texts)), "texts", name=DENSE_TEXTS) as done:
            answers.run(texts, on_progress=done)
        return answers


def _forget(place: Workspace, name: str) -> None:
    path = place.folder / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    place.manifest.forget(name)
    place.manifest.write(place.folder)


@contextmanager
def open_workshop(
    request: ExportRequest,
    usual: Format,
    work: Work,
    splits: Mapping[str, Split],
    vocabularies: Mapping[str, Vocabulary],
    known: Mapping[str, Figures],
) -> Iterator[Workshop]:
    """Opens the hidden folder within an output folder, `work.folder`, that is locked."""
    sizes: set[VocabularySize] = {"all", *(way.vocabulary for way in ways(request.formats, request.vocabulary))}
    with ExitStack() as stack:
        hidden = {own: Workspace(work.folder / WORKSHOP / f"vocabulary-{own}", force=True) for own in sizes}
        for place in hidden.values():
            stack.enter_context(place.locked())
        yield Workshop(request, usual, work, hidden, splits, vocabularies, known, stack)
