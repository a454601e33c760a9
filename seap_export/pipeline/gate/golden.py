"""Records what a validated variant computes, for machines without torch."""

from __future__ import annotations

from pathlib import Path

from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError
from seap_export.pipeline.folder.contents import Export, Variant
from seap_export.pipeline.folder.outputs import refuse_part_of_export
from seap_export.pipeline.gate.parity import prompts_of
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.runtime.files import GRAPH
from seap_export.runtime.golden import write_golden


def refuse_golden(path: Path, target: Path, *, force: bool) -> None:
    """Checks before validation that the golden file can be written afterwards.

    Raises:
        UsageError: The path is not a single variant that `generate` runs, or the target exists and `force` is not set.
    """
    if Export(path).exists:
        raise UsageError(f"--save-golden records a single variant; give one of those in {path}")
    if not (Variant(path).own.path / GRAPH).is_file():
        raise UsageError(f"{path}: no {OWN_FORMAT}/{GRAPH} for --save-golden to record; give a variant's folder")
    refuse_part_of_export(target)
    if target.exists() and not force:
        raise UsageError(f"{target} already exists; use --force to replace it, or another --save-golden")


def save_golden(
    variant: Variant, target: Path, settings: ParitySettings, prompt_file: Path | None, progress: Progress
) -> None:
    """Writes the golden file of a variant that has passed validation.

    Another machine adds in another order, as torch does, so the limits are those of parity with torch.

    Args:
        target: The .npz file to write.
        settings: Prompts, steps, provider and limits.
        prompt_file: A corpus of prompts; None: the held-out texts of the export.
        progress: Receives progress messages.
    """
    progress.say(f"{variant.name}: writing the golden file")
    limits = settings.limits.of(variant.own.format.arithmetic.name)
    figure = "mean_kl" if "mean_kl" in limits else "max_abs"
    prompts = prompts_of(variant, prompt_file, settings.prompts)
    write_golden(
        variant.own.path,
        target,
        prompts,
        settings.decode_steps,
        (figure, limits[figure]),  # type: ignore[index]
        settings.provider,
        settings.threads,
    )
