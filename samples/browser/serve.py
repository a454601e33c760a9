"""Shows a variant in the browser: serves this folder, the variant's files and transformers.js on this machine.

python samples/browser/serve.py VARIANT/web [--modules FOLDER/node_modules] [--port 8000]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).parent
LIBRARY = Path("@huggingface/transformers/dist/transformers.min.js")


class Handler(SimpleHTTPRequestHandler):
    """Maps `/model/` and `/node_modules/` to folders, and the rest to the page.

    The headers let the page use threads in WebAssembly.
    """

    extensions_map = {  # noqa: RUF012 - as in the base class
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(self, *arguments: object, folders: dict[str, Path], **options: object) -> None:
        self._folders = folders
        super().__init__(*arguments, directory=str(PAGE), **options)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """The file that a request means."""
        for start, folder in self._folders.items():
            if path.startswith(f"/{start}/"):
                self.directory = str(folder)
                return super().translate_path(path.removeprefix(f"/{start}"))
        self.directory = str(PAGE)
        return super().translate_path(path)

    def end_headers(self) -> None:
        """Adds the headers of every answer."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing of what is served."""


class Server(ThreadingHTTPServer):
    """A server that does not mind pages which are closed while they load."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Shows what is not a closed connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def server(model: Path, modules: Path, port: int = 0, handler: type[Handler] = Handler) -> Server:
    """A server on this machine alone, which does not answer yet; port 0: any that is free."""
    folders = {"model": model, "node_modules": modules}
    return Server(("127.0.0.1", port), partial(handler, folders=folders))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description="Shows a variant in the browser.")
    parser.add_argument("model", type=Path, metavar="FOLDER", help="the folder 'web' of a variant")
    parser.add_argument("--modules", type=Path, default=Path("node_modules"), help="the folder node_modules")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    if not (options.model / "config.json").is_file():
        parser.error(f"{options.model} has no config.json; give the folder 'web' of a variant")
    if not (options.modules / LIBRARY).is_file():
        print(
            f"{options.modules} has no transformers.js; run 'npm install @huggingface/transformers@4.3 "
            "--ignore-scripts', or use the CDN, as worker.js says",
            file=sys.stderr,
        )
    try:
        running = server(options.model, options.modules, options.port)
    except OSError as error:
        parser.error(f"port {options.port} cannot be used ({error}); give another with --port")
    print(f"Open http://127.0.0.1:{running.server_port}/ in a browser. Ctrl+C ends.")
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        running.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
