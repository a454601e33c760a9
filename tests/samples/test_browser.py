"""The sample page in a real browser, which runs a micro model in WebAssembly, and on WebGPU in software."""

from __future__ import annotations

import html
import importlib.util
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.corpora import WORDS
from support.models import write_micro_model, write_source
from support.needs import find
from support.processes.browser import browser_command
from support.product import TorchRunner
from tokenizers import Tokenizer

from converters.web import WebFormat

pytestmark = pytest.mark.needs("browser", "transformers.js")
ROOT = Path(__file__).parents[2]
SERVE = ROOT / "samples" / "browser" / "serve.py"
SCRIPTS = (ROOT / "tests" / "validation" / "reports" / "measure.js", Path(__file__).with_name("drive.js"))
PROMPT, TOKENS = "the cat sat on", 8
#: So long that WebGPU takes another kernel of attention.
LONG = " ".join(["the cat sat on"] * 16)
#: With convolutions, with layers that attend to keys and values of another one, and with recurrences.
HYBRIDS = ("lfm2-all", "gemma4-all", pytest.param("qwen3_5-all", marks=pytest.mark.full))
WIDTHS, HEIGHT = (390, 1280), 900
# WCAG 2 AA
TEXT_CONTRAST, LEAST_SIZE = 4.5, 11.0
Seen = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    """The sample's server."""
    spec = importlib.util.spec_from_file_location("serve", SERVE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "hf"
    values = {"vocab_size": len(WORDS) + 4, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    return write_micro_model(folder, model_type="llama", **values)


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    WebFormat("fp32").write(source, folder, lambda _: None)
    return folder


def _frame(name: str, width: int, scheme: str, query: str = "", **use: Any) -> str:
    style = f"width:{width}px;height:{HEIGHT}px;border:0;color-scheme:{scheme}"
    told = html.escape(json.dumps({"prompt": PROMPT, "tokens": TOKENS, "key": False, "stop": False, **use}))
    return f'<iframe id="{name}" style="{style}" data-use="{told}" src="/index.html{query}"></iframe>'


@pytest.fixture(scope="module")
def show(serve: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Seen]:
    """Shows the page in frames, one after the other; what each shows at the end, by its name."""

    def show(model: Path, modules: Path, *frames: str) -> Seen:
        seen: queue.Queue[Seen] = queue.Queue()
        scripts = "".join(f"<script>{path.read_text('utf-8')}</script>" for path in SCRIPTS)
        page = f'<!doctype html><meta charset="utf-8">{scripts}<pre id="measured" hidden></pre>{"".join(frames)}'

        class Handler(serve.Handler):  # type: ignore[name-defined, misc]
            def do_GET(self) -> None:  # noqa: N802 - as the base class calls it
                if self.path != "/drive.html":
                    return super().do_GET()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())

            def do_POST(self) -> None:  # noqa: N802
                seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

        running = serve.server(model, modules, handler=Handler)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        profile = tmp_path_factory.mktemp("profile")
        address = f"http://127.0.0.1:{running.server_port}/drive.html"
        command = browser_command(profile, address)
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            answer = seen.get(timeout=240)
        finally:
            browser.kill()
            browser.wait()
            running.shutdown()
            running.server_close()
        assert "error" not in answer, answer["error"]
        return answer

    return show


@pytest.fixture(scope="module")
def modules() -> Path:
    return Path(str(find("transformers.js"))).parents[1]


@pytest.fixture(scope="module")
def pages(show: Callable[..., Seen], model: Path, modules: Path) -> Seen:
    narrow, wide = WIDTHS
    return show(
        model,
        modules,
        _frame("narrow", narrow, "light"),
        _frame("wide", wide, "dark", key=True),
        _frame("stopped", wide, "light", tokens=4000, stop=True),
        _frame("graphics", wide, "light", "?device=webgpu", prompt=LONG),
    )


def _answer(source: Path, prompt: str) -> list[str]:
    """The words that torch answers with."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    (expected,) = TorchRunner(source).continuations([tokenizer.encode(prompt).ids], TOKENS, stops=(2,))
    words = str(tokenizer.decode(list(expected))).split()
    assert len(words) > 1
    return words


def test_answer_is_the_models_and_can_be_stopped(pages: Seen, source: Path) -> None:
    for name, prompt in (("narrow", PROMPT), ("wide", PROMPT), ("graphics", LONG)):
        assert pages[name]["answer"].split() == _answer(source, prompt)
        assert pages[name]["problem"] is None
        assert pages[name]["status"] == "The answer is complete."
    assert pages["narrow"]["isolated"]
    stopped = pages["stopped"]
    assert stopped["status"] == "The answer is complete."
    assert 1 <= int(stopped["speed"].split()[0]) < 4000


@pytest.mark.parametrize("variation", HYBRIDS)
def test_hybrids_answer_on_webgpu(show: Callable[..., Seen], modules: Path, tmp_path: Path, variation: str) -> None:
    """Pruned, with the states and the kernels that dense models lack."""
    words = {"vocab_size": len(WORDS) + 4, "max_position_embeddings": 4096}
    source, written = write_source(tmp_path / "hf", variation, pruned=True, **words), tmp_path / "web"
    written.mkdir()
    WebFormat("fp32").write(source, written, lambda _: None)
    page = show(written, modules, _frame("only", 390, "light", "?device=webgpu", prompt=LONG))["only"]
    assert page["problem"] is None
    assert page["answer"].split() == _answer(source, LONG)


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_page_fits_and_can_be_read(pages: Seen, name: str) -> None:
    page = pages[name]
    assert page["width"] == WIDTHS[name == "wide"]
    assert page["dark"] == (name == "wide")
    assert page["scrollWidth"] <= page["width"]
    assert page["beyond"] == []
    assert len(page["texts"]) > 15
    assert [text for text in page["texts"] if text["contrast"] < TEXT_CONTRAST] == []
    assert [text for text in page["texts"] if text["size"] < LEAST_SIZE] == []
    assert page["unnamed"] == []


def test_errors_are_said_in_words(show: Callable[..., Seen], model: Path, modules: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(model, tmp_path / "cut"))
    for path in (cut / "onnx").iterdir():
        path.write_bytes(path.read_bytes()[:-4096])
    page = show(cut, modules, _frame("only", 390, "light"))["only"]
    assert "The model does not load." in page["problem"]
    assert page["status"] == "The model is not loaded."
    assert page["scrollWidth"] <= page["width"]
