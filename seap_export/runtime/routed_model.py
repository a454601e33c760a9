"""An export as one model: each prompt is answered by the variant of its task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seap_export.errors import ArtifactError, UsageError
from seap_export.runtime.generator import Generator
from seap_export.runtime.manifest import ROUTER_FOLDER, RouterManifest
from seap_export.runtime.providers import check_session_options
from seap_export.runtime.router import Router

__all__ = ["Route", "RoutedModel"]


@dataclass(frozen=True)
class Route:
    """Where a prompt goes.

    Attributes:
        task: The most likely task.
        confidence: Its probability.
        variant: The folder of the variant that answers.
        is_fallback: Whether that is not the task's variant but the one for prompts of no clear task.
        is_uncertain: Whether the confidence is below the threshold or the prompt has no token; where there is
            no fallback, the most likely task's variant answers all the same.
        probabilities: The probability of every task.
    """

    task: str
    confidence: float
    variant: Path
    is_fallback: bool
    is_uncertain: bool
    probabilities: Mapping[str, float]


class RoutedModel:
    """An export's router and variants; sessions are opened when they are needed, one variant at a time.

    Example:
        model = RoutedModel("pruned", ratio=0.2)
        print(model.route("Question: Is water wet?").task, model.generate("Question: Is water wet?"))
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        ratio: float | None = None,
        provider: str = "cpu",
        threads: int | None = None,
        threshold: float | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Opens the router.

        Args:
            folder: An output folder of `seap-export export`, made from two tasks or more.
            ratio: Which variants; None: those of the only ratio there is.
            provider: Execution provider of the variants, "cpu", "cuda" or "tensorrt"; the router runs on the CPU.
            threads: Threads of a session; None: all cores this process may use.
            threshold: Replaces the confidence threshold of router.json, 0 to 1.
            provider_options: Options of the execution provider, as ONNX Runtime documents them.

        Raises:
            UsageError: A value is out of range, or `ratio` does not name one of the ratios.
            ArtifactError: There is no router in the folder, or it is damaged.
        """
        check_session_options(provider, threads, provider_options)
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold:g} is out of range; give 0 to 1")
        self._folder = Path(folder)
        place = self._folder / ROUTER_FOLDER
        if not place.is_dir():
            raise ArtifactError(
                f"{self._folder}: no router here; export two tasks or more into one folder to make one"
            )
        self._router = Router(place, threads)
        self.manifest = self._router.manifest
        self._threshold = self.manifest.threshold if threshold is None else threshold
        self._ratio = _choose_ratio(self.manifest, ratio)
        self._session_options = (provider, threads, provider_options)
        self._generator: tuple[Path, Generator] | None = None

    def route(self, prompt: str) -> Route:
        """Which variant answers a prompt.

        Raises:
            ArtifactError: The router does not run, or that variant is not in the folder.
        """
        ids = self._router.token_ids(prompt)
        found = self._router.probabilities([ids])[0].tolist()
        probabilities = dict(zip(self.manifest.classes, found, strict=True))
        task = max(probabilities, key=probabilities.__getitem__)
        is_uncertain = not ids or probabilities[task] < self._threshold
        fallback = self.manifest.fallback[self._ratio] if is_uncertain else None
        variant = self._folder / (fallback or self.manifest.variants[self._ratio][task])
        if not variant.is_dir():
            raise ArtifactError(f"{variant}: this variant is missing; export again, or copy its folder there")
        return Route(task, probabilities[task], variant, fallback is not None, is_uncertain, probabilities)

    def generate(self, prompt: str, max_new_tokens: int = 64) -> str:
        """The text that the prompt's variant gives after it, decoded greedily; special tokens are left out.

        Raises:
            SeapError: As `route` and `Generator.generate`.
        """
        return self.generator(self.route(prompt)).generate(prompt, max_new_tokens)

    def generator(self, route: Route) -> Generator:
        """The opened variant of a route; the one opened before is closed if it is another.

        Raises:
            ArtifactError: A file of the variant is missing or damaged.
            EnvironmentFailure: There is no such provider here.
        """
        if self._generator is None or self._generator[0] != route.variant:
            self._generator = None  # its memory is given back before the next one is read
            self._generator = (route.variant, Generator(route.variant / "onnx", *self._session_options))
        return self._generator[1]


def _choose_ratio(manifest: RouterManifest, ratio: float | None) -> str:
    ratios = list(manifest.variants)
    if ratio is None and len(ratios) == 1:
        return ratios[0]
    if ratio is None:
        raise UsageError(f"there are variants at several ratios; choose one of {', '.join(ratios)} with --ratio")
    if f"{ratio:g}" not in ratios:
        raise UsageError(f"ratio {ratio:g} is not in the router; there is {', '.join(ratios)}")
    return f"{ratio:g}"
