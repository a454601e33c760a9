"""The router step: a classifier over the tasks of an export, and the variants that it leads to.

Like manifest.json the router speaks of the whole folder. A run that adds ratios or tasks therefore replaces it
unasked; one that would make it forget a task does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.router import write_router_graph
from seap_export.corpus import Sample, Split, text_digest
from seap_export.errors import ParityFailure, UsageError
from seap_export.hashing import sha256_json
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.settings import variant_name
from seap_export.pipeline.workspace import Workspace
from seap_export.router.fit import LinearClassifier, evaluate, fit_classifier, mean_embeddings
from seap_export.router.prompts import RouterPrompts, prompt_of, router_prompts
from seap_export.runtime.files import load_tokenizer
from seap_export.runtime.manifest import (
    ROUTER_FOLDER,
    ROUTER_GRAPH,
    ROUTER_SCHEMA,
    RouterManifest,
    read_router,
    write_router,
)
from seap_export.runtime.router import Router
from seap_export.sources.source import Source

__all__ = ["RouterSettings", "Targets", "make_router", "refuse_lost_tasks", "router_key", "router_targets"]

#: Raised when the same inputs give other bytes than before, so that an older router is not reused.
_ROUTER = 1
#: Largest difference between a probability of the float32 graph and of the float64 classifier.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class RouterSettings:
    """How a router is made.

    Attributes:
        seed: Seed of the split into calibration and held-out texts.
        max_length: Tokens after which a prompt is cut.
        threshold: A largest probability below it is not trusted.
    """

    seed: int = 0
    max_length: int = 512
    threshold: float = 0.7

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise UsageError(f"--max-length {self.max_length} is out of range; give at least 1")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold:g} is out of range; give 0 to 1")


@dataclass(frozen=True)
class Targets:
    """Where a router leads.

    Attributes:
        variants: For each ratio, as in the folders' names, the variant of each task.
        fallback: For each of these ratios the variant for prompts of no clear task, or None.
    """

    variants: Mapping[str, Mapping[str, str]]
    fallback: Mapping[str, str | None]


def make_router(
    source: Source,
    splits: Mapping[str, Split],
    variants: Mapping[str, Mapping[str, Any]],
    settings: RouterSettings,
    workspace: Workspace,
    progress: Progress,
    fallback: str | None = None,
) -> dict[str, Any]:
    """Makes the router of an output folder, or finds it there already.

    Args:
        source: The dense model.
        splits: The texts of each task to tell apart, two tasks or more.
        variants: The finished variants of the folder as its manifest has them: `task` and `requested_ratio` of each.
        settings: How it is made.
        workspace: The output folder, locked.
        progress: Told what happens.
        fallback: Name of the mixture of tasks whose variants answer prompts of no clear task.

    Returns:
        Its classes, threshold, ratios and fallback, and the figures on held-out prompts.

    Raises:
        InputError: No prompt of a task has a token.
        UsageError: The folder's router knows tasks that are not among `splits`, and there is no --force.
        ArtifactError: The files of the folder's router were changed, and there is no --force.
        ParityFailure: The ONNX graph does not compute what the classifier computes.
    """
    targets = router_targets(variants, splits, fallback)
    key = router_key(source, splits, settings, targets)
    if _is_made(workspace, key, splits):
        progress.say("router: reused")
    else:
        label = f"router: fitting {', '.join(sorted(splits))}"
        with (
            progress.step(label, name=ROUTER_FOLDER),
            workspace.writing(ROUTER_FOLDER, key, folder=True) as folder,
        ):
            _write(folder, source, splits, settings, targets)
    return _describe(read_router(workspace.folder / ROUTER_FOLDER))


def refuse_lost_tasks(workspace: Workspace, tasks: Collection[str]) -> None:
    """Refuses, before any work, an export of several tasks whose router would forget others.

    Raises:
        UsageError: The folder's router knows other tasks than `tasks`, and there is no --force.
        ArtifactError: The folder's router is damaged, and there is no --force.
    """
    folder = workspace.folder / ROUTER_FOLDER
    if workspace.force or len(tasks) < 2 or ROUTER_FOLDER not in workspace.manifest.steps or not folder.exists():
        return
    lost = sorted(set(read_router(folder).classes) - set(tasks))
    if lost:
        raise UsageError(
            f"{folder} leads to {', '.join(lost)} too; give all the tasks together, use another --out, "
            "or --force to replace it"
        )


def router_targets(variants: Mapping[str, Mapping[str, Any]], tasks: Collection[str], fallback: str | None) -> Targets:
    """The ratios at which every task has a variant, in order, and what there is at these.

    Raises:
        ValueError: There is no such ratio.
    """
    ratios = sorted({variant["requested_ratio"] for variant in variants.values() if variant.get("task") in tasks})
    by_ratio = {f"{ratio:g}": {task: variant_name(task, ratio) for task in sorted(tasks)} for ratio in ratios}
    whole = {ratio: names for ratio, names in by_ratio.items() if variants.keys() >= set(names.values())}
    if not whole:
        raise ValueError(f"there is no ratio at which all of {sorted(tasks)} have a variant")
    mixtures = {f"{ratio:g}": variant_name(fallback, ratio) for ratio in ratios if fallback is not None}
    return Targets(whole, {ratio: name if (name := mixtures.get(ratio)) in variants else None for ratio in whole})


def router_key(source: Source, splits: Mapping[str, Split], settings: RouterSettings, targets: Targets) -> str:
    """The key of the step: it changes with the model, any prompt, a setting or a target."""

    def digests(samples: tuple[Sample, ...]) -> list[str]:
        return sorted(text_digest(prompt_of(sample)) for sample in samples)

    prompts = {task: [digests(split.calibration), digests(split.held_out)] for task, split in splits.items()}
    return sha256_json([ROUTER_SCHEMA, _ROUTER, source.digest, prompts, asdict(settings), asdict(targets)])


def _is_made(workspace: Workspace, key: str, tasks: Collection[str]) -> bool:
    """Whether the folder's router is the one that is asked for; False if one may be made in its place."""
    recorded = workspace.manifest.steps.get(ROUTER_FOLDER)
    if recorded in (None, key):
        return workspace.is_done(ROUTER_FOLDER, key)
    if workspace.is_done(ROUTER_FOLDER, str(recorded)):  # whole as it was made: no change of a user's gets lost
        refuse_lost_tasks(workspace, tasks)
    return False


def _write(
    folder: Path, source: Source, splits: Mapping[str, Split], settings: RouterSettings, targets: Targets
) -> None:
    source.write_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    prompts = router_prompts(splits, lambda prompt: list(tokenizer.encode(prompt).ids[: settings.max_length]))
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
    """Compares the graph, as the runtime runs it, with the classifier on every held-out prompt.

    Raises:
        ParityFailure: A probability differs by more than `_TOLERANCE`.
    """
    for task, token_ids in prompts.held_out.items():
        if not token_ids:
            continue
        difference = np.abs(router.probabilities(token_ids) - classifier.probabilities(held_out[task])).max()
        if not difference <= _TOLERANCE:
            raise ParityFailure(
                f"router: a probability of the ONNX graph is off by {difference:.1e} on prompts of '{task}', "
                f"more than {_TOLERANCE:g}; report it"
            )


def _describe(manifest: RouterManifest) -> dict[str, Any]:
    return {
        "classes": list(manifest.classes),
        "threshold": manifest.threshold,
        "held_out": {name: manifest.held_out[name] for name in ("prompts", "accuracy", "below_threshold")},
        "ratios": list(manifest.variants),
        "fallback": dict(manifest.fallback),
    }
