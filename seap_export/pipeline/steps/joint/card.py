"""The model cards: README.md in every model folder, what makes the variant again, and the licence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seap_export.common.checksums import SUMS
from seap_export.common.hashing import sha256_json
from seap_export.corpus.hub import HubCorpus
from seap_export.model.sources.metadata import model_metadata
from seap_export.pipeline.card.recipe import given_as, model_name, needed_files, recipe_files
from seap_export.pipeline.card.text import CalibrationText, CardFacts, card_text
from seap_export.pipeline.evaluation.quality import recorded_quality
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.manifest import card_key
from seap_export.pipeline.folder.names import CARD, HF
from seap_export.pipeline.folder.whole import read_whole
from seap_export.pipeline.gate.recommended import Limits, recommended
from seap_export.pipeline.gate.report import describe_variant
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.step import Made, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps


@dataclass(frozen=True)
class CardStep(Step):
    """Writes what is said of each variant into its model folder, once its figures are known."""

    variants: Mapping[str, VariantSteps]
    request: ExportRequest

    def run(self, made: Made) -> None:
        """Writes the files that are missing or that show other figures."""
        workspace = made.workspace
        for name, entry in made.variants.items():
            files = {f"{name}/{HF}/{file}": content for file, content in self._files(made, name).items()}
            recorded = [step for step in workspace.manifest.steps if step.startswith(f"{name}/{HF}/")]
            for step in recorded:
                if step not in {*files, f"{name}/{HF}/{SUMS}"}:  # such as the recipe file of other settings
                    workspace.remove(step)
            for step, content in files.items():
                digest = hashlib.sha256(content).hexdigest()
                made.write_file(step, content, card_key(entry, digest) if step.endswith(f"/{CARD}") else digest)
            made.enter(name)

    def _files(self, made: Made, name: str) -> dict[str, bytes]:
        source, request, manifest = made.work.source, self.request, made.workspace.manifest
        variant, entry, metadata = Export(made.work.folder).variant(name), made.variants[name], model_metadata(source)
        asked, formats = request.variants[name], [variant.folders[folder].format for folder in entry["precision"]]
        tasks = {task.name: task for task in (*request.tasks, *([request.support.task] if request.support else []))}
        splits = {step.task: step.split for step in self.variants[name].plan.ranking.calibrations}
        texts = {
            task: CalibrationText(given_as(tasks[task], request), sha256_json(split.digests()["calibration"]))
            for task, split in splits.items()
        }
        corpora = [tasks[task].corpus for task in splits]
        datasets = [corpus.dataset for corpus in corpora if isinstance(corpus, HubCorpus)]
        model = model_name(source, manifest.source["name"])
        recipe = recipe_files(source.pinned_id or model, request, asked, formats)
        needed = [*recipe, *([] if source.hub_id else [model]), *needed_files(request, asked)]
        whole = {key: row for key, row in read_whole(made.work.folder).items() if row["task"] == entry["task"]}
        of_files = source, model, metadata, variant, entry, manifest, texts, datasets, needed
        described = describe_variant(variant, manifest, {"quality": recorded_quality(variant)})
        of_whole = list(whole.values()), self._recommended(name, described, whole)
        larger = {folder: dense - described["bytes"][folder] for folder, dense in described["dense_bytes"].items()}
        dense_bytes = {folder: size + larger[folder] for folder, size in entry["bytes"].items()}  # without the card
        facts = CardFacts(*of_files, *of_whole, dense_bytes)
        return {CARD: card_text(facts).encode(), **recipe, **metadata.licence_files}

    def _recommended(self, name: str, described: Mapping[str, Any], whole: Mapping[str, Mapping[str, Any]]) -> str:
        """The recommendation among the files of a variant and the whole models.

        Without speeds, which differ from run to run, and without targets, so that its ratio makes the same card again.
        """
        untimed = {name: {**row, "speed": None} for name, row in whole.items()}
        limits = Limits(min_accuracy_retained=self.request.min_accuracy_retained)
        words = recommended({name: described}, untimed, limits)
        return str(words[described["task"]]["words"]) if described["task"] in words else ""
