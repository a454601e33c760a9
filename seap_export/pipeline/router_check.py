"""Whether an output folder's router leads where it should."""

from __future__ import annotations

from pathlib import Path

from seap_export.activations.statistics import Calibration
from seap_export.errors import SeapError
from seap_export.pipeline.manifest import Manifest
from seap_export.pipeline.settings import calibration_step
from seap_export.runtime.manifest import ROUTER_FOLDER, RouterManifest
from seap_export.runtime.router import Router

__all__ = ["router_damages"]

#: Prompts that are also calibration prompts do not count in router.json, and do here, so that the two shares of right
#: answers differ a little; classes that were mistaken for one another make them differ by far.
_TOLERANCE = 0.25


def router_damages(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the router, in words: its files, its targets, or its answers to held-out prompts."""
    found = manifest.damages(folder, ROUTER_FOLDER)
    if found:
        return found
    try:
        router = Router(folder / ROUTER_FOLDER)
        return [*_lost_targets(router.manifest, folder, manifest), *_wrong_answers(router, folder)]
    except SeapError as error:
        return [str(error)]


def _lost_targets(router: RouterManifest, folder: Path, manifest: Manifest) -> list[str]:
    targets = {name for names in router.variants.values() for name in names.values()}
    targets |= {name for name in router.fallback.values() if name is not None}
    lost = sorted(name for name in targets if name not in manifest.variants or not (folder / name).is_dir())
    unknown = sorted(set(router.classes) - manifest.tasks.keys())
    swapped = [
        name
        for names in router.variants.values()
        for task, name in names.items()
        if name in manifest.variants and manifest.variants[name].get("task") != task
    ]
    return [
        *(f"router.json leads to '{name}', which is no variant of {folder}" for name in lost),
        *(f"router.json knows a task '{task}', which {folder} does not" for task in unknown),
        *(f"router.json leads to '{name}' for another task than it was made for" for name in sorted(swapped)),
    ]


def _wrong_answers(router: Router, folder: Path) -> list[str]:
    right = asked = 0
    for number, task in enumerate(router.manifest.classes):
        place = folder / calibration_step(task)
        if not place.is_dir():
            return []
        samples = Calibration(place).record.held_out
        prompts = [ids for ids in (router.token_ids(s["prompt"] or s["completion"]) for s in samples) if ids]
        if prompts:
            right += int((router.probabilities(prompts).argmax(axis=1) == number).sum())
            asked += len(prompts)
    recorded = router.manifest.held_out.get("accuracy")
    if not asked or not isinstance(recorded, int | float) or right / asked >= recorded - _TOLERANCE:
        return []
    return [f"the router is right on {right / asked:.0%} of the held-out prompts; router.json says {recorded:.0%}"]
