"""What `generate`, `chat` and `serve` share: their options, and the opened variant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from seap_export.cli.console import Console, quoted
from seap_export.cli.groups import option, titled
from seap_export.cli.options import option_of, output_options
from seap_export.common.providers import OWN_FORMAT, PROVIDERS
from seap_export.pipeline.request.options import ComputeOptions

if TYPE_CHECKING:
    from seap_export.runtime import Generator


#: The options of the machine that a variant runs on, and of the output.
machine_options = titled(
    "Machine",
    option(
        "--provider",
        type=click.Choice(list(PROVIDERS)),
        default="cpu",
        show_default=True,
        help="Execution provider of ONNX Runtime that runs the variant.",
    ),
    option_of(ComputeOptions, "threads"),
    output_options,
)


def refuse_system(folder: Path, generator: Generator, system: str | None, raw: bool | None) -> None:
    """Raises `UsageError` for a system prompt that no template would take."""
    from seap_export.errors import UsageError

    if raw and system is not None:
        raise UsageError("--system and --raw exclude each other; leave one out")
    if system is not None and generator.chat_template is None:
        raise UsageError(f"{folder}: this model has no chat template, which --system needs; leave it out")


def open_generator(console: Console, folder: Path, provider: str, threads: int | None) -> Generator:
    """Opens a variant; says so if its files could not be checked."""
    from seap_export.runtime import Generator

    own = own_folder(folder)
    generator = Generator(own, provider, threads)
    if not generator.is_checked:
        console.say(f"{own} has no SHA256SUMS, so its files were not checked; an export writes it at its end")
    return generator


def own_folder(folder: Path) -> Path:
    """The folder itself, or the one in it of the format that is run here."""
    from seap_export.errors import ArtifactError, UsageError
    from seap_export.runtime.files import GRAPH

    own = _own_folder(folder)
    if own is not None:
        return own
    if (folder / "hf").is_dir():
        raise ArtifactError(
            f"{folder}: contains neither {GRAPH} nor {OWN_FORMAT}/{GRAPH}; run its export again, to the end, or "
            f"'seap-export convert {quoted(folder / 'hf')} --out {quoted(folder / OWN_FORMAT)}'"
        )
    variants = [folder.parent] if _own_folder(folder.parent) else variants_in(folder)
    remedy = f"give {', or '.join(map(str, variants))}" if variants else "give a folder that export has written"
    raise UsageError(f"{folder} is not a variant, such as OUT/TASK-0.2; {remedy}")


def variants_in(folder: Path) -> list[Path]:
    """The variants in an output folder that can be run here."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if path.is_dir() and _own_folder(path)]


def _own_folder(folder: Path) -> Path | None:
    from seap_export.runtime.files import GRAPH

    return next((path for path in (folder, folder / OWN_FORMAT) if (path / GRAPH).is_file()), None)
