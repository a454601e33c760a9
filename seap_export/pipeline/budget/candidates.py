"""Makes candidates in a hidden folder, and measures them as an export does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from converters.format import Format
from seap_export.common.checksums import shipped_bytes
from seap_export.corpus import Split
from seap_export.errors import ArtifactError, InputError
from seap_export.model.vocabulary.choice import VocabularySize
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.search import is_exact
from seap_export.pipeline.evaluation.quality import MAX_LENGTH, folder_quality_key
from seap_export.pipeline.evaluation.speed import speed_request
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.evaluation.texts import paired_texts
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.names import ROUNDING
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.steps.joint.quality import DENSE_TEXTS
from seap_export.pipeline.steps.single.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.single.guess import GuessStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.variant import OfVariant, PlanStep
from seap_export.pipeline.steps.step import Made, StepContext, run_steps
from seap_export.pipeline.steps.variant_steps import VariantSteps, variant_steps
from seap_export.pipeline.targets.candidate import Candidate, CandidateFigures, Point, Times, ways
from seap_export.pipeline.targets.first_token import PromptTime
from seap_export.pipeline.targets.frontier import known_guesses
from seap_export.pipeline.targets.guess import USUAL, Guess
from validation.divergence.dense import DenseAnswers
from validation.divergence.measure import claim_texts, measure_divergence
from validation.estimate import TokenEstimate
from validation.prompts import tokenize_prompts
from validation.speed.engines import open_engine
from validation.speed.interval import Interval, median_interval, speedup_interval
from validation.speed.measure import SpeedCell, Timing, measure_speed

#: Kept for a run that goes on after an interruption, and removed by the next export that finishes.
CANDIDATES_FOLDER = ".seap-export-unfinished-frontier"


class Candidates:
    """Makes candidates as variants in a hidden folder, and measures them, if no earlier run has.

    Args:
        work: The model and the machine; statistics and rankings are in its folder.
        hidden: The folder, locked, of the candidates with each vocabulary: names tell only their ratios apart.
        vocabularies: The tokens that candidates of each task and mixture keep, unless they keep all.
    """

    def __init__(
        self,
        request: ExportRequest,
        baseline: Format,
        work: StepContext,
        hidden: Mapping[VocabularySize, Workspace],
        splits: Mapping[str, Split],
        vocabularies: Mapping[str, Vocabulary],
        known: Mapping[str, CandidateFigures],
        stack: ExitStack,
    ) -> None:
        self._request, self._baseline, self._work, self._hidden = request, baseline, work, hidden
        self._splits, self._vocabularies, self._known, self._stack = splits, vocabularies, known, stack
        self._known_guesses = known_guesses(work.folder)
        #: What was guessed for each task or mixture, as frontier.json has it.
        self.guesses: dict[str, dict[str, Any]] = {}

    def evaluate(self, ranking: RankingStep, candidate: Candidate, predictor: Predictor) -> Point | None:
        """Makes a candidate and compares it with the dense model; None: it cannot be made or run.

        What the dense model loses unquantised is taken for nothing if it is too large to be chosen, and not measured.
        """
        steps, ideal = self._steps(ranking, candidate), predictor.ideal_speedup(candidate)
        name, predicted = f"{steps.plan.variant} in {candidate.label}", predictor.bytes(candidate)
        key = folder_quality_key(_format_step(steps).key, MAX_LENGTH)
        if self._request.targets is not None and is_exact(candidate, predicted, self._request.targets):
            reference = self._answers.reference(self._tokens[ranking.mixture.name])
            exact = TokenEstimate.of_texts(np.zeros(len(ids)) for ids in reference.token_ids)
            return Point(
                candidate, CandidateFigures(predicted, exact, 1.0, reference.perplexity), None, predicted, ideal
            )
        if key in self._known:
            self._work.progress.say(f"{name}: its figures are reused")
            return Point(candidate, self._known[key], key, predicted, ideal)
        self._work.progress.say(f"trying {name}, about {predicted / 1e6:.1f} MB")
        try:
            figures = self._measure(steps, candidate, self._texts[ranking.mixture.name], name)
        except (InputError, ArtifactError) as error:
            self._work.progress.warn(f"{name} is left out: {error}")
            return None
        return Point(candidate, figures, key, predicted, ideal)

    def guess(self, ranking: RankingStep) -> Guess:
        """Guesses the costs of rounding and pruning for a task or mixture, before a candidate is made."""
        grids = [self._request.grid(format, self._work.source.spec) for format in self._request.formats]
        grid = next((grid for grid in grids if grid is not None and grid.average is not None), None)
        if grid is None:
            return USUAL
        hidden, step = self._hidden["all"], GuessStep(ranking, grid)
        guess = self._known_guesses.get(step.key)
        if guess is None:
            run_steps([step], Made(replace(self._work, folder=hidden.folder, shared=self._work.folder), hidden))
            guess = step.read(hidden.folder)
        self.guesses[ranking.mixture.name] = {"key": step.key, **guess.to_json()}
        return guess

    def time(self, ranking: RankingStep, candidate: Candidate) -> Times:
        """Times a candidate beside the dense model in the baseline's format."""
        folders = {
            name: (self._make(self._steps(ranking, timed), timed), timed.format)
            for name, timed in {"baseline": Candidate(0.0, self._baseline), "candidate": candidate}.items()
        }
        prompts = self._request.timed_prompts
        if candidate == Candidate(0.0, self._baseline) and not prompts:
            return Times(1.0, Interval(1.0, 1.0))
        parity, spec = self._request.parity, self._work.source.spec
        timing = speed_request(spec, Measured("", candidate.format), parity, prompts)
        openers = {
            name: partial(open_engine, format.runtimes[0], folder, spec.max_position_embeddings, timing.execution)
            for name, (folder, format) in folders.items()
        }
        label = f"timing {ranking.mixture.name}-{candidate.ratio:g} in {candidate.label}"
        with self._work.progress.step(label, 2 * timing.runs, "runs", name="speed") as advance:
            timings = measure_speed(
                openers,
                timing.cells,
                vocab_size=self._fewest_tokens(ranking, candidate),
                runs=timing.runs,
                steps=timing.steps,
                on_progress=advance,
            )
        before, after = (of[SpeedCell(1, timing.depths[0])] for of in (timings["baseline"], timings["candidate"]))
        speedup = before.step_s / after.step_s
        interval = speedup_interval(speedup, before.run_steps, after.run_steps)
        prompt = None
        for cell in (SpeedCell(1, tokens) for tokens in prompts):
            if all(cell in of for of in timings.values()):  # some files take shorter prompts only
                prompt = _prompt_time(timings["baseline"][cell], timings["candidate"][cell])
        return Times(speedup, interval, prompt)

    def _fewest_tokens(self, ranking: RankingStep, candidate: Candidate) -> int:
        """The tokens that the candidate and the dense model both have."""
        kept = self._kept(ranking, candidate)
        return self._work.source.spec.vocab_size if kept is None else len(kept)

    def _kept(self, ranking: RankingStep, candidate: Candidate) -> Vocabulary | None:
        return None if candidate.vocabulary == "all" else self._vocabularies[ranking.mixture.name]

    def keep(self, ranking: RankingStep, kept: Collection[Candidate]) -> None:
        """Removes all other candidates of a task or mixture."""
        for vocabulary, hidden in self._hidden.items():
            making = [
                _making(self._steps(ranking, candidate)) for candidate in kept if candidate.vocabulary == vocabulary
            ]
            names = {step.name for steps in making for step in steps}
            for name in list(hidden.manifest.steps):
                first, second, *_ = name.split("/")
                variant = second if first == ROUNDING else first
                if variant.rpartition("-")[0] == ranking.mixture.name and name not in names:
                    hidden.remove(name)
                    hidden.manifest.write(hidden.folder)

    def hand_over(self, ranking: RankingStep, chosen: Candidate, workspace: Workspace) -> None:
        """Moves the steps of a candidate into the output folder, unless they are there."""
        steps, hidden = self._steps(ranking, chosen), self._hidden[chosen.vocabulary]
        for step in _making(steps):
            name = f"{step.variant}/{chosen.format.name}" if isinstance(step, FormatStep) else step.name
            if not workspace.is_done(name, step.key) and hidden.is_done(step.name, step.key):
                workspace.record(name, step.key, hidden.folder / step.name)

    def _measure(self, steps: VariantSteps, candidate: Candidate, texts: Sequence[str], name: str) -> CandidateFigures:
        folder, kept, parity = self._make(steps, candidate), steps.plan.vocabulary, self._request.parity
        variant = Export(self._hidden[candidate.vocabulary].folder).variant(steps.plan.variant)
        subject = Subject(variant.name, variant, None, self._work.source)
        pairs = paired_texts(subject, self._work.source, variant.hf, texts, self._most_tokens)
        dense = [pair.dense for pair in pairs]
        self._answers.run(dense)  # what the candidate's tokenizer cuts otherwise
        reference = self._answers.reference(dense)
        runtime, execution = candidate.format.runtimes[0], parity.execution(self._work.compute)
        claim_texts(runtime, folder, [pair.variant for pair in pairs], execution, self._work.progress.say)
        with self._work.progress.step(f"{name}: comparing with the dense model", len(texts), "texts") as done:
            options: Any = {"execution": execution, "on_progress": done}
            options |= {"texts": pairs, "kept": None if kept is None else kept.rows}
            divergence = measure_divergence(reference, folder, runtime, **options)
        of, lost = divergence, 0.0 if divergence.cut is None else divergence.cut.lost_kl_nats
        return CandidateFigures(shipped_bytes(folder), of.kl, of.top1_agreement, of.perplexity, of.top1_stderr, lost)

    def _make(self, steps: VariantSteps, candidate: Candidate) -> Path:
        """Makes the steps of a candidate that are missing, and returns the folder of its format."""
        hidden = self._hidden[candidate.vocabulary]
        work = replace(self._work, folder=hidden.folder, shared=self._work.folder)
        run_steps(_making(steps), Made(work, hidden))
        return hidden.folder / _format_step(steps).name

    def _steps(self, ranking: RankingStep, candidate: Candidate) -> VariantSteps:
        """The steps of a candidate. The folder of its format has the precision in its name: several may be tried."""
        formats = {f"{candidate.format.name}-{candidate.format.precision}": candidate.format}
        kept = self._kept(ranking, candidate)
        return variant_steps(
            self._work.source.spec, self._request, ranking, candidate.ratio, formats, kept, learns=False
        )

    @cached_property
    def _dense(self) -> Path:
        return self._stack.enter_context(dense_folder(self._work.source))

    @cached_property
    def _texts(self) -> dict[str, tuple[str, ...]]:
        """The held-out texts of each task and mixture, as the quality step takes them."""
        return {
            mixture.name: tuple(
                dict.fromkeys(sample.text for task in mixture.weights for sample in self._splits[task].held_out)
            )
            for mixture in self._request.all_mixtures
        }

    @property
    def _most_tokens(self) -> int:
        return min(MAX_LENGTH, self._work.source.spec.max_position_embeddings)

    @cached_property
    def _tokens(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """The held-out texts of each task and mixture as token ids of the dense model."""
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
        texts = [ids for of_mixture in self._tokens.values() for ids in of_mixture]
        label = "running the dense model on held-out texts"
        with self._work.progress.step(label, len(set(texts)), "texts", name=DENSE_TEXTS) as done:
            answers.run(texts, on_progress=done)
        return answers


def _making(steps: VariantSteps) -> list[PlanStep | OfVariant]:
    """All steps of a variant except parity."""
    return [step for step in steps.all if not isinstance(step, ParityStep)]


def _format_step(steps: VariantSteps) -> FormatStep:
    (step,) = steps.formats.values()
    return step


def _prompt_time(before: Timing, after: Timing) -> PromptTime:
    speedup, of_ms = before.prefill_s / after.prefill_s, median_interval(after.prefills)
    return PromptTime(
        1e3 * after.prefill_s,
        speedup,
        None if of_ms is None else Interval(1e3 * of_ms.low, 1e3 * of_ms.high),
        speedup_interval(speedup, before.prefills, after.prefills),
    )


@contextmanager
def open_candidates(
    request: ExportRequest,
    baseline: Format,
    work: StepContext,
    splits: Mapping[str, Split],
    vocabularies: Mapping[str, Vocabulary],
    known: Mapping[str, CandidateFigures],
) -> Iterator[Candidates]:
    """Opens the hidden folder within an output folder, `work.folder`, that is locked."""
    sizes: set[VocabularySize] = {"all", *(way.vocabulary for way in ways(request.formats, request.vocabulary))}
    with ExitStack() as stack:
        hidden = {
            size: Workspace(work.folder / CANDIDATES_FOLDER / f"vocabulary-{size}", force=True) for size in sizes
        }
        for workspace in hidden.values():
            stack.enter_context(workspace.locked())
        yield Candidates(request, baseline, work, hidden, splits, vocabularies, known, stack)
