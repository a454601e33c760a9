"""The input of an export, read and checked once, before its steps are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from seap_export.corpus import Sample, Split
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.convert import writable_spec
from seap_export.pipeline.cost.checks import refuse_missing_provider
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.single.answers import AnswersStep, answers_steps
from seap_export.pipeline.texts.chat import ModelChat, chat_of_source
from seap_export.pipeline.texts.general_text import general_samples
from seap_export.pipeline.texts.split_tasks import cut_to_tokens, refuse_shared_texts, split_tasks
from seap_export.pipeline.texts.tokenizer import tokenizer_folder
from seap_export.pipeline.texts.vocabulary import choose_vocabularies, refuse_uncuttable
from seap_export.pruning.plan.choice.solve import check_ratio
from validation.runtimes.table import require_runtime


@dataclass(frozen=True)
class Prepared:
    """The checked inputs of an export: model, request, texts and vocabularies.

    Attributes:
        splits: The texts of each task; of one that is in `unanswered`, the prompts alone.
        general: The general text on which quality is measured; empty: it is not measured.
        vocabularies: The tokens that variants of each task and mixture keep; of others, all are kept. None: they are
            chosen when the answers are there.
    """

    source: Source
    request: ExportRequest
    chat: ModelChat
    splits: Mapping[str, Split]
    unanswered: Mapping[str, AnswersStep]
    general: tuple[Sample, ...] = ()
    vocabularies: Mapping[str, Vocabulary] | None = None

    def answered(self, workspace: Workspace, progress: Progress) -> Prepared:
        """A copy with the answers that are in an output folder, and with what follows from them."""
        request, left = self.request, dict(self.unanswered)
        done = [task for task, step in left.items() if workspace.is_done(step.name, step.key)]
        texts = {task: left.pop(task).answered(workspace.folder) for task in done}
        splits = {**self.splits, **cut_to_tokens(self.source, texts, request.calibration)}
        splits |= {task: replace(splits[task], num_tokens=step.most_tokens) for task, step in left.items()}
        if request.quality or request.targets is not None:
            refuse_shared_texts(request.all_mixtures, splits)
        calibrated = {digest for split in splits.values() for digest in split.digests()["calibration"]}
        general = general_samples(request.general_text, calibrated, self.chat) if request.quality else ()
        changed = replace(self, splits=splits, unanswered=left, general=general)
        if not left:
            return changed.with_vocabularies(progress)
        refuse_uncuttable(self.source, request.vocabulary)
        return changed

    def with_vocabularies(self, progress: Progress) -> Prepared:
        """A copy with the tokens that variants keep, chosen from the texts that are there."""
        mixtures = {mixture.name: tuple(mixture.weights) for mixture in self.request.all_mixtures}
        given = self.source, self.request.tasks, mixtures, self.request.vocabulary
        return replace(self, vocabularies=choose_vocabularies(*given, progress, self.chat, self.splits))


def prepare(source: Source, request: ExportRequest, workspace: Workspace, progress: Progress) -> Prepared:
    """Makes the checks that need no work, and reads what the export works on."""
    with workspace.seen_unlocked():
        _refuse_impossible(source, request)
        chat = chat_of_source(source)
        splits = split_tasks(source, request.tasks, request.calibration, request.support, chat)
        if not source.is_hashed:
            with progress.step(f"hashing {source.name}", name="hashing"):
                source.digest  # noqa: B018 - remembered
        asked = answers_steps(source, request.tasks, splits, request.calibration)
        return Prepared(source, request, chat, splits, asked).answered(workspace, progress)


def _refuse_impossible(source: Source, request: ExportRequest) -> None:
    """Refuses formats, runtimes, providers and ratios that cannot be, before a text is read."""
    with tokenizer_folder(source) as folder:
        for format in request.formats:  # before anybody installs a runtime in vain
            writable_spec(format, folder)
    for format in request.formats:
        require_runtime(format.runtimes[0])
    if request.measured is not None:
        refuse_missing_provider(request.measured.provider(request.parity.provider))
    for ratio in sorted({variant.ratio for variant in request.variants.values()}):
        check_ratio(source.spec, ratio, request.plan.sparsity, request.plan.align, request.plan.layout)
