"""`seap-export serve`: answers requests of OpenAI's interface with variants."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from seap_export.cli.console import Console
from seap_export.cli.generation import machine_options, open_generator, variants_in
from seap_export.cli.groups import GroupedCommand, number_option, option, titled
from seap_export.cli.values import ExistingPath

#: How long answers in progress may take once the server is to end, in seconds.
_PATIENCE = 1


@click.command("serve", cls=GroupedCommand)
@click.argument("folders", nargs=-1, required=True, type=ExistingPath(), metavar="FOLDER...")
@titled(
    "Server",
    option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is open to others."),
    number_option("--port", "Port to listen at; 0: any that is free.", default=8000, show_default=True),
    number_option("--max-new-tokens", "Largest number of tokens of an answer.", default=1024, show_default=True),
)
@machine_options
def serve_command(
    console: Console,
    folders: tuple[Path, ...],
    host: str,
    port: int,
    max_new_tokens: int,
    provider: str,
    threads: int | None,
) -> None:
    """Answer requests of OpenAI's interface with the variants in FOLDER.

    FOLDER is a variant, or an output folder of `export`, all of whose variants are opened. The name of each is that of
    a model. There are /v1/chat/completions, /v1/completions and /v1/models. Answers are given one at a time. There are
    no passwords, so only this machine is served by default. With --json, the address is printed as JSON.

    \b
    Examples:
      seap-export serve pruned
      seap-export serve pruned/support-0.2 --port 8080 --max-new-tokens 256
    """
    from seap_export.common.extras import import_of_extra
    from seap_export.errors import UsageError, refuse_less

    refuse_less(1, max_new_tokens=max_new_tokens)
    if not 0 <= port < 2**16:
        raise UsageError(f"--port {port} is out of range; give 0 to 65535")
    import_of_extra("serve", "starlette")
    uvicorn: Any = import_of_extra("serve", "uvicorn")
    from seap_export.serving.app import host_names, make_app

    named = _named(folders)
    with _listening(host, port) as listening:
        models = {name: open_generator(console, path, provider, threads) for name, path in named.items()}
        bound, port = listening.getsockname()[:2]
        app = make_app(models, most_tokens=max_new_tokens, hosts=host_names(host, bound))
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        console.result({"address": address, "models": list(models)}, f"{', '.join(models)}: {address}; Ctrl-C ends")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=_PATIENCE
        )
        logging.getLogger("uvicorn.error").addFilter(_is_no_end)
        with suppress(KeyboardInterrupt):  # that is how a server ends
            uvicorn.Server(config).run(sockets=[listening])


def _is_no_end(record: logging.LogRecord) -> bool:
    """Whether a message is more than the traceback of an answer that the end of the server has ended."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _named(folders: tuple[Path, ...]) -> dict[str, Path]:
    """The variants to serve, by name."""
    from seap_export.common.providers import OWN_FORMAT
    from seap_export.errors import UsageError
    from seap_export.runtime.files import GRAPH

    named: dict[str, Path] = {}
    for folder in folders:
        is_variant = (folder / GRAPH).is_file() or (folder / OWN_FORMAT).is_dir()
        for path in [folder] if is_variant else variants_in(folder) or [folder]:
            real = path.resolve()
            name = real.parent.name if real.name == OWN_FORMAT else real.name
            if name in named:
                raise UsageError(f"{named[name]} and {path} are both called '{name}'; rename one of the folders")
            named[name] = path
    return named


def _listening(host: str, port: int) -> socket.socket:
    """A socket at an address, before anything is opened."""
    from seap_export.errors import EnvironmentFailure

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or error
        raise EnvironmentFailure(f"{host}:{port} cannot be listened at ({reason}); give another --port") from error
