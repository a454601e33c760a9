"""An export as a single model: the variant of the prompt's task answers each prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import ArtifactError, UsageError
from seap_export.runtime.chat import Prompt, last_user_text
from seap_export.runtime.generator import Generator
from seap_export.runtime.manifest import CHOSEN, ROUTER_FOLDER, RouterManifest
from seap_export.runtime.providers import check_session_options
from seap_export.runtime.router import Router


@dataclass(frozen=True)
class Route:
    """The variant chosen for a prompt.

    Attributes:
        task: The most likely task.
        variant: The folder of the chosen variant.
        is_fallback: Whether the variant is the fallback for uncertain prompts instead of the task's.
        is_uncertain: Whether the confidence is below the threshold or the prompt has no tokens; if there is no
            fallback, the variant of the most likely task is chosen anyway.
        probabilities: The probability of every task.
    """

    task: str
    confidence: float
    variant: Path
    is_fallback: bool
    is_uncertain: bool
    probabilities: Mapping[str, float]


class RoutedModel:
    """The router and the variants of an export. Opens a variant when it is needed, one at a time.

    Example:
        model = RoutedModel("pruned", ratio=0.2)
        print(model.route("What is 12 + 30?").task, model.generate("What is 12 + 30?"))
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
            folder: An output folder of `seap-export export` with at least two tasks.
            ratio: Ratio of the variants; None: the only one.
            provider: Execution provider of the variants, a key of `PROVIDERS`; the router runs on the CPU.
            threads: Threads of a session; None: all cores available to this process.
            threshold: Overrides the confidence threshold of router.json, 0 to 1.
            provider_options: Options of the execution provider, as ONNX Runtime documents them.

        Raises:
            UsageError: A value is out of range, `ratio` selects none of the ratios, or the folder has no router.
            ArtifactError: The router is damaged.
        """
        check_session_options(provider, threads, provider_options)
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold:g} is out of range; give 0 to 1")
        self._folder = Path(folder)
        router_folder = self._folder / ROUTER_FOLDER
        if not router_folder.is_dir():
            around = self._folder.parent
            is_inside = (around / ROUTER_FOLDER).is_dir()
            remedy = f"give {around}" if is_inside else "export two or more tasks into one folder to make one"
            raise UsageError(f"{self._folder}: there is no router here; {remedy}")
        self._router = Router(router_folder, threads)
        self.manifest = self._router.manifest
        self._threshold = self.manifest.threshold if threshold is None else threshold
        self._ratio = _choose_ratio(self.manifest, ratio)
        self._session_options = (provider, threads, provider_options)
        self._generator: tuple[Path, Generator] | None = None

    def route(self, prompt: Prompt) -> Route:
        """Chooses the variant for a prompt.

        Args:
            prompt: A text, or messages, of which the last user turn decides.

        Raises:
            ArtifactError: The router does not run, or the variant is missing.
        """
        ids = self._router.token_ids(prompt if isinstance(prompt, str) else last_user_text(prompt))
        shares = self._router.probabilities([ids])[0].tolist()
        probabilities = dict(zip(self.manifest.classes, shares, strict=True))
        task = max(probabilities, key=probabilities.__getitem__)
        is_uncertain = not ids or probabilities[task] < self._threshold
        fallback = self.manifest.fallback[self._ratio] if is_uncertain else None
        variant = self._folder / (fallback or self.manifest.variants[self._ratio][task])
        if not variant.is_dir():
            raise ArtifactError(f"{variant}: this variant is missing; export again, or copy its folder there")
        return Route(task, probabilities[task], variant, fallback is not None, is_uncertain, probabilities)

    def generate(self, prompt: Prompt, max_new_tokens: int = 64, *, raw: bool | None = None) -> str:
        """Generates the answer to a prompt greedily with the variant of its task, as `Generator.generate` does.

        Raises:
            UsageError: `max_new_tokens` is not positive, or messages are given for a model without a chat template.
            InputError: The prompt has no tokens, or too many for the model's context, or the chat template refuses it.
            ArtifactError: The router or the variant is missing, damaged or does not run.
            EnvironmentFailure: The provider is not available, or there is not enough memory.
        """
        return self.generator(self.route(prompt)).generate(prompt, max_new_tokens, raw=raw)

    def generator(self, route: Route) -> Generator:
        """Opens the variant of a route; another one that is open is closed first.

        Raises:
            ArtifactError: A file of the variant is missing or damaged.
            EnvironmentFailure: The provider is not available on this machine.
        """
        if self._generator is None or self._generator[0] != route.variant:
            self._generator = None  # frees its memory before the next variant is read
            self._generator = (route.variant, Generator(route.variant / OWN_FORMAT, *self._session_options))
        return self._generator[1]


def _choose_ratio(manifest: RouterManifest, ratio: float | None) -> str:
    ratios = list(manifest.variants)
    if ratio is None and len(ratios) == 1:
        return ratios[0]
    if ratio is None:
        raise UsageError(f"there are variants at several ratios; choose one of {', '.join(ratios)} with --ratio")
    if f"{ratio:g}" not in ratios and ratios == [CHOSEN]:
        raise UsageError("the variants were chosen to meet targets and have different ratios; leave out --ratio")
    if f"{ratio:g}" not in ratios:
        raise UsageError(f"the router has no ratio {ratio:g}; choose one of {', '.join(ratios)}")
    return f"{ratio:g}"
