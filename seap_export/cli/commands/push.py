"""`seap-export push`: uploads variants to the Hugging Face hub."""

from __future__ import annotations

from typing import Any

import click

from seap_export.api.push import PushOptions, push
from seap_export.cli.console import Console, megabytes
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import options_of, output_options
from seap_export.cli.values import ExistingPath
from seap_export.cli.window import Table


@click.command("push", cls=GroupedCommand)
@click.argument("path", type=ExistingPath())
@click.argument("repository", metavar="REPO")
@titled("Upload", *options_of(PushOptions, "public", "dry_run", "force"), output_options)
def push_command(console: Console, **options: Any) -> None:
    """Upload a variant, or all variants of an export, to the Hugging Face hub, if they pass the checks of `validate`.

    PATH is an output folder of `export` or a variant in it. REPO is OWNER/NAME; if there are several
    variants, the name of each is appended. If there is no such repository, it is created as a private one. The token
    is that of `hf auth login`, or HF_TOKEN. After an interruption, run the same command again.

    \b
    Examples:
      seap-export push pruned/maths-0.2 me/maths-small --dry-run
      seap-export push pruned/maths-0.2 me/maths-small
      seap-export push pruned me/maths --public
    """
    pushed = push(**options, progress=console)
    values = {name: {**vars(variant), "bytes": variant.bytes} for name, variant in pushed.items()}
    rows = [
        [f"{variant.repository}/{path}", megabytes(size)]
        for variant in pushed.values()
        for path, size in variant.files.items()
    ]
    addresses = [
        f"{name}: {variant.address or f'to {variant.repository} (not uploaded)'}, {megabytes(variant.bytes)}"
        for name, variant in pushed.items()
    ]
    console.result({"variants": values}, "\n".join([Table(["file", "size"], rows).text, *addresses]))
