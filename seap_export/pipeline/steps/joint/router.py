"""The router step: a classifier for the tasks of an export, which selects variants.

Like manifest.json, the router covers the whole folder. So a run that adds ratios or tasks replaces it without asking;
a run that would drop a task does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from converters.onnx.graph.router import write_router_graph
from seap_export.common.hashing import sha256_json
from seap_export.corpus import Sample, Split, text_digest
from seap_export.errors import ParityFailure, UsageError
from seap_export.model.sources.source import Source
from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.mixtures import GENERAL
from seap_export.pipeline.request.settings import RouterSettings
from seap_export.pipeline.router.fit import LinearClassifier, evaluate, fit_classifier, mean_embeddings
from seap_export.pipeline.router.prompts import RouterPrompts, router_prompts
from seap_export.pipeline.steps.step import Made, Step
from seap_export.runtime.files import encode, load_tokenizer
from seap_export.runtime.manifest import (
    CHOSEN,
    ROUTER_FOLDER,
    ROUTER_GRAPH,
    ROUTER_SCHEMA,
    RouterManifest,
    read_router,
    write_router,
)
from seap_export.runtime.router import Router

#: Increase this when the same inputs give other bytes than before, so that an older router is not reused.
_ROUTER = 1
#: Largest accepted difference between a probability of the float32 graph and of the float64 classifier.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class RouterTargets:
    """The variants that a router selects."""

    variants: Mapping[str, Mapping[str, str]]
    fallback: Mapping[str, str | None]


@dataclass(frozen=True)
class RouterStep(Step):
    """Makes the router of the folder."""

    splits: Mapping[str, Split]
    settings: RouterSettings
    chosen: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return (ROUTER_FOLDER,)

    def run(self, made: Made) -> None:
        """Fits the router again if the folder's variants have changed, and says how often it is right."""
        work, variants = made.work, made.workspace.manifest.variants
        fallback = GENERAL if any(variant["task"] == GENERAL for variant in variants.values()) else None
        figures = make_router(
            work.source, self.splits, variants, self.settings, made.workspace, work.progress, fallback, self.chosen
        )
        held_out = figures["held_out"]
        if held_out["prompts"]:  # none if each is also a calibration prompt
            work.progress.say(
                f"router: {held_out['accuracy']:.1%} of {held_out['prompts']} held-out prompts go to their task"
            )


def router_step(request: ExportRequest, splits: Mapping[str, Split]) -> RouterStep | None:
    """The step of a request; None: no router is made."""
    if request.router_settings is None:
        return None
    tasks = {task.name: splits[task.name] for task in request.tasks}
    variants = request.variants if request.choices else {}
    chosen = {variant.mixture.name: name for name, variant in variants.items()}
    return RouterStep(tasks, request.router_settings, chosen)


def make_router(
    source: Source,
    splits: Mapping[str, Split],
    variants: Mapping[str, Mapping[str, Any]],
    settings: RouterSettings,
    workspace: Workspace,
    progress: Progress,
    fallback: str | None = None,
    chosen: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Makes the router of an output folder, or reuses the existing one."""
    targets = chosen_targets(chosen, splits, fallback) if chosen else router_targets(variants, splits, fallback)
    key = router_key(source, splits, settings, targets)
    if _is_made(workspace, key, splits):
        progress.say("router: reused")
    else:
        label = f"router: fitting {', '.join(sorted(splits))}"
        with progress.step(label, name=ROUTER_FOLDER), workspace.writing(ROUTER_FOLDER, key, folder=True) as folder:
            _write(folder, source, splits, settings, targets)
    manifest = read_router(workspace.folder / ROUTER_FOLDER)
    return {
        "classes": list(manifest.classes),
        "threshold": manifest.threshold,
        "held_out": {name: manifest.held_out[name] for name in ("prompts", "accuracy", "below_threshold")},
        "ratios": list(manifest.variants),
        "fallback": dict(manifest.fallback),
    }


def refuse_lost_tasks(workspace: Workspace, tasks: Collection[str]) -> None:
    """Rejects, before any work, an export of several tasks whose router would drop others."""
    folder = workspace.folder / ROUTER_FOLDER
    if workspace.force or len(tasks) < 2 or ROUTER_FOLDER not in workspace.manifest.steps or not folder.exists():
        return
    lost = sorted(set(read_router(folder).classes) - set(tasks))
    if lost:
        raise UsageError(
            f"{folder} also covers {', '.join(lost)}; give all the tasks together, use another --out, or use --force "
            "to replace it"
        )


def router_targets(
    variants: Mapping[str, Mapping[str, Any]], tasks: Collection[str], fallback: str | None
) -> RouterTargets:
    """The ratios at which every task has a variant, in order, and their variants."""
    ratios = sorted({variant["requested_ratio"] for variant in variants.values() if variant.get("task") in tasks})
    by_ratio = {f"{ratio:g}": {task: variant_name(task, ratio) for task in sorted(tasks)} for ratio in ratios}
    whole = {ratio: names for ratio, names in by_ratio.items() if variants.keys() >= set(names.values())}
    if not whole:
        raise ValueError(f"there is no ratio at which all of {sorted(tasks)} have a variant")
    mixtures = {f"{ratio:g}": variant_name(fallback, ratio) for ratio in ratios if fallback is not None}
    return RouterTargets(
        whole, {ratio: name if (name := mixtures.get(ratio)) in variants else None for ratio in whole}
    )


def chosen_targets(chosen: Mapping[str, str], tasks: Collection[str], fallback: str | None) -> RouterTargets:
    """The variants that were chosen to meet targets, whatever their ratios."""
    variants = {task: chosen[task] for task in sorted(tasks)}
    return RouterTargets({CHOSEN: variants}, {CHOSEN: None if fallback is None else chosen.get(fallback)})


def router_key(source: Source, splits: Mapping[str, Split], settings: RouterSettings, targets: RouterTargets) -> str:
    """The key of the step, which changes with the model, the prompts, the settings and the targets."""

    def digests(split: Split, samples: tuple[Sample, ...]) -> list[str]:
        return sorted(text_digest(split.question(sample)) for sample in samples)

    prompts = {task: [digests(of, of.calibration), digests(of, of.held_out)] for task, of in splits.items()}
    return sha256_json([ROUTER_SCHEMA, _ROUTER, source.digest, prompts, asdict(settings), asdict(targets)])


def _is_made(workspace: Workspace, key: str, tasks: Collection[str]) -> bool:
    """Whether the existing router is the requested one; False if a new one may replace it."""
    recorded = workspace.manifest.steps.get(ROUTER_FOLDER)
    if recorded in (None, key):
        return workspace.is_done(ROUTER_FOLDER, key)
    if workspace.is_done(ROUTER_FOLDER, str(recorded)):  # unchanged since it was made, so no edits get lost
        refuse_lost_tasks(workspace, tasks)
    return False


def _write(
    folder: Path, source: Source, splits: Mapping[str, Split], settings: RouterSettings, targets: RouterTargets
) -> None:
    source.write_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    prompts = router_prompts(splits, lambda prompt: encode(tokenizer, prompt)[: settings.max_length])
    embedding = source.read_outer("embed_tokens")
    classifier = fit_classifier({task: mean_embeddings(embedding, ids) for task, ids in prompts.calibration.items()})
    held_out = {task: mean_embeddings(embedding, ids) for task, ids in prompts.held_out.items()}
    write_router_graph(folder / ROUTER_GRAPH, embedding, classifier.weight, classifier.bias)
    manifest = RouterManifest(
        source={"name": source.name, "sha256": source.digest},
        classes=classifier.classes,
        seed=settings.seed,
        max_length=settings.max_length,
        threshold=settings.threshold,
        calibration_prompts={task: len(prompts.calibration[task]) for task in classifier.classes},
        held_out={**evaluate(classifier, held_out, settings.threshold), "left_out_as_seen": prompts.num_seen},
        variants=targets.variants,
        fallback=targets.fallback,
    )
    write_router(manifest, folder)
    _refuse_difference(Router(folder), prompts, classifier, held_out)


def _refuse_difference(
    router: Router, prompts: RouterPrompts, classifier: LinearClassifier, held_out: Mapping[str, np.ndarray]
) -> None:
    """Compares the graph, run by the runtime, with the classifier on every held-out prompt."""
    for task, token_ids in prompts.held_out.items():
        if not token_ids:
            continue
        difference = np.abs(router.probabilities(token_ids) - classifier.probabilities(held_out[task])).max()
        if not difference <= _TOLERANCE:
            raise ParityFailure(
                f"router: a probability of the ONNX graph differs by {difference:.1e} on prompts of '{task}', "
                f"more than {_TOLERANCE:g}; please report this as a bug"
            )
