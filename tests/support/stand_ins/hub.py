"""A stand-in for the Hugging Face hub on this machine, which receives what the real huggingface_hub uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

TOKEN, OWNER = "hf_secret", "me"
#: What the hub keeps as large files.
_LARGE = (".safetensors", ".onnx", ".data", ".gguf")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


@dataclass
class Hub:
    """What was received; after `most` large files (None: all), the hub refuses further ones."""

    repositories: dict[str, Repository] = field(default_factory=dict)  # by OWNER/NAME
    objects: dict[str, bytes] = field(
        default_factory=dict
    )  # large files by SHA-256, also of a commit that did not come
    received: list[str] = field(default_factory=list)  # their SHA-256, in the order of receipt
    most: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a request; a fault of the client is an error of the test."""
        match [method, *path.partition("?")[0].strip("/").split("/")]:
            case ["PUT", "objects", digest]:
                return self._receive(digest, body)
            case _ if token != f"Bearer {TOKEN}":
                return 401, {"error": "Invalid credentials in Authorization header"}
            case ["POST", "api", "validate-yaml"]:
                ModelCard(json.loads(body)["content"])
                return 200, {"errors": [], "warnings": []}
            case ["POST", "api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["GET", "api", "models", owner, name] | ["GET", "api", "models", owner, name, "revision", "main"]:
                repository = self.repositories.get(f"{owner}/{name}")
                if repository is None:
                    return 404, {"error": "Repository not found"}
                return 200, {"id": f"{owner}/{name}", "private": repository.private, "sha": "0" * 40}
            case ["POST", "api", "models", owner, name, "preupload", "main"]:
                stored, paths = self.repositories[f"{owner}/{name}"].files, json.loads(body)["files"]
                return 200, {"files": [self._mode(file["path"], stored.get(file["path"])) for file in paths]}
            case ["POST", _, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                return 200, {"objects": list(map(self._action, json.loads(body)["objects"])), "transfer": "basic"}
            case ["POST", "api", "models", owner, name, "commit", "main"]:
                self._commit(self.repositories[f"{owner}/{name}"], body)
                return 200, {"commitUrl": f"{self.address}/{owner}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}
        raise AssertionError(f"{method} {path}")

    address = ""

    def _create(self, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = f"{values.get('organization') or OWNER}/{values['name']}"
        if not name.startswith(f"{OWNER}/"):
            return 403, {"error": f"You don't have the rights to create a model under the namespace of {name}"}
        if name.endswith("/large"):
            return 422, {"error": "Storage limit reached"}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        self.repositories[name] = Repository(values.get("private", values.get("visibility") == "private"))
        return 200, {"url": f"{self.address}/{name}", "name": name}

    def _mode(self, path: str, content: bytes | None) -> dict[str, Any]:
        is_large = path.endswith(_LARGE)
        known = None if content is None else _oid(content, is_large)
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": known}

    def _action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.address}/objects/{wanted['oid']}"}}}

    def _receive(self, digest: str, body: bytes) -> tuple[int, dict[str, Any]]:
        assert hashlib.sha256(body).hexdigest() == digest
        with self.lock:
            if self.most is not None and len(self.received) >= self.most:
                return 400, {"error": "the connection broke off"}
            self.received.append(digest)
            self.objects[digest] = body
        return 200, {}

    def _commit(self, repository: Repository, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.objects[value["oid"]]
        repository.commits += 1


def _oid(content: bytes, is_large: bool) -> str:
    if is_large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def standing_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, which huggingface_hub asks in this process, with a token that it accepts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, values = hub.answer(self.command, self.path, self.headers.get("Authorization"), body)
            content = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status >= 400:
                self.send_header("X-Error-Message", values["error"])
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files go by the protocol of Git LFS
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
