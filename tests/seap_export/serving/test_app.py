"""What OpenAI's own client gets, and what those get who ask otherwise."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from support.exports import export_with_router
from support.tokenizers import add_chat_template, name_all_tokens

from seap_export.runtime import Generator, Sampling, Stream
from seap_export.runtime.decoding.decoder import Decoding
from seap_export.serving import app as serving
from seap_export.serving.answers import Answer
from seap_export.serving.app import host_names, make_app

MOST_TOKENS = 24
TALK: Any = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two variants by their models' names: one with a chat template, and one without."""
    out = export_with_router(tmp_path_factory.mktemp("served"), ratios=(0.2,))
    shutil.copytree(out / "a-0.2" / "onnx", out / "plain" / "onnx")
    add_chat_template(name_all_tokens(out / "a-0.2" / "onnx"))
    return {"a-0.2": out / "a-0.2" / "onnx", "plain": name_all_tokens(out / "plain" / "onnx")}


@pytest.fixture(scope="module")
def port(folders: dict[str, Path]) -> Iterator[int]:
    models = {name: Generator(folder, threads=1) for name, folder in folders.items()}
    app = make_app(models, most_tokens=MOST_TOKENS, hosts=host_names("localhost", "127.0.0.1"))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(port: int) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> Generator:
    return Generator(folders["plain"], threads=1)


def test_a_conversation_is_answered_whole_and_in_pieces(client: openai.OpenAI, expected: Generator) -> None:
    (whole,) = expected.complete(["cat the cat home dog"], 9)
    answer = client.chat.completions.create(model="a-0.2", messages=TALK, max_tokens=9)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", whole.text, "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 9, 14)
    asked: Any = {"max_completion_tokens": 9, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="a-0.2", messages=TALK, **asked))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(filter(None, pieces)) == whole.text
    assert sum(map(bool, pieces)) > 4
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage == answer.usage


def test_a_text_goes_on(client: openai.OpenAI, expected: Generator) -> None:
    """As it is, whatever template the model has."""
    sampling = Sampling(1.5, seed=7, min_p=0.01)
    text = expected.generate("the cat", 9, sampling)
    how: dict[str, Any] = {"temperature": 1.5, "seed": 7, "extra_body": {"min_p": 0.01}, "max_tokens": 9}
    for model in ("a-0.2", "plain"):
        answer = client.completions.create(model=model, prompt="the cat", **how)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, "length")
    word = text.split()[3]
    stopped = client.completions.create(model="plain", prompt="the cat", stop=[word, "no such text"], **how).choices[0]
    assert (stopped.text, stopped.finish_reason) == (text.partition(word)[0], "stop")
    chunks = client.completions.create(model="plain", prompt="the cat", stream=True, **how)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    long = client.completions.create(model="plain", prompt="the cat", temperature=0, top_p=0.9)
    assert long.usage is not None
    assert long.usage.completion_tokens == MOST_TOKENS


def _ask(client: openai.OpenAI, **changes: Any) -> object:
    return client.chat.completions.create(**{"model": "a-0.2", "messages": TALK, "max_tokens": 3, **changes})


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": "b"}, openai.NotFoundError, "there is no model 'b'; give one of a-0.2, plain"),
        ({"model": "plain"}, openai.BadRequestError, "this model has no chat template"),
        ({"messages": [{"role": "x", "content": "the"}]}, openai.BadRequestError, "no message has the role 'x'"),
        ({"messages": [{"role": "user", "content": "cat " * 200}]}, openai.BadRequestError, "context is 128"),
        ({"extra_body": {"max_completion_tokens": 99}}, openai.BadRequestError, "1 to 24 tokens, or .*-new-tokens"),
        ({"temperature": -1}, openai.BadRequestError, "temperature -1 is out of range"),
        ({"n": 2}, openai.BadRequestError, "'n' is not supported"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "'tools' is not supported"),
        ({"extra_body": {"sed": 1}}, openai.BadRequestError, "there is no parameter 'sed'"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    client: openai.OpenAI, changes: dict[str, Any], kind: type[openai.APIStatusError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        _ask(client, **changes)
    assert caught.value.body["type"] == "invalid_request_error"
    assert _ask(client, tools=[], n=1, presence_penalty=0.0, user="someone")  # what asks for nothing


def _request(port: int, method: str, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    text = text.rpartition(b"data: ")[2]  # the last event
    return response.status, json.loads(text) if text.startswith(b"{") else {}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/v1/completions", b"{", {}, 400),
        ("POST", "/v1/completions", b"[" * 100_000, {}, 400),
        ("POST", "/v1/completions", b'{"model": "plain", "prompt": "\\ud800"}', {}, 400),
        ("POST", "/v1/completions", b'{"model": "plain", "prompt": "the", "user": "\xed\xa0\x80"}', {}, 400),
        ("POST", "/v1/completions", b'{"model": "plain", "prompt": "the"}', {"Content-Type": "text/plain"}, 415),
        ("POST", "/v1/completions", b" " * 2000, {}, 413),
        ("GET", "/v1/completions", b"", {}, 405),
        ("GET", "/v1/nowhere", b"", {}, 404),
    ],
)
def test_errors_have_the_form_of_openai(
    port: int, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: bytes, headers: Any, status: int
) -> None:
    monkeypatch.setattr(serving, "MOST_BYTES", 1000 if status == 413 else 2**20)
    code, values = _request(port, method, path, body, **headers)
    assert code == status
    assert values["error"]["message"]
    assert values["error"]["type"] == "invalid_request_error"


def test_a_page_of_another_site_is_not_answered(port: int) -> None:
    assert _request(port, "GET", "/v1/models", b"", Host="testserver")[0] == 400
    assert _request(port, "GET", "/health", b"", Host=f"localhost:{port}") == (200, {"status": "ok"})
    own = ["127.0.0.1", "localhost", "[::1]"]
    assert host_names("localhost", "::1") == ["localhost", "[::1]", *own]
    assert host_names("home.example", "192.168.0.7") == ["home.example", "192.168.0.7"]
    assert host_names("0.0.0.0", "0.0.0.0") == host_names("::", "::") == ["*"]


def _send(port: int, body: str = "", **values: Any) -> socket.socket:
    """A connection whose request has been sent, with the body given or made of the values."""
    body = body or json.dumps({"model": "plain", "prompt": "the cat", "max_tokens": MOST_TOKENS, **values})
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body) if values or not body else 1000}\r\n\r\n{body}".encode())
    return connection


@pytest.mark.parametrize("is_streamed", [True, False])
def test_clients_that_go_away_end_their_answers(
    port: int, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    """Also those that are in line, which are not even begun. The next request waits for its turn, so that what was
    counted by then is all of the others."""
    begun, gone, steps, starts = threading.Event(), threading.Event(), list[int](), list[int]()
    step: Callable[..., None] = Decoding.step
    start: Callable[..., Stream] = Generator.stream

    def counted(self: Decoding, tokens: Sequence[int], *more: Any) -> None:
        steps.append(1)
        begun.set()
        gone.wait(0.05 if gone.is_set() else 10)
        step(self, tokens, *more)

    def counted_start(*arguments: Any, **options: Any) -> Stream:
        starts.append(1)
        return start(*arguments, **options)

    monkeypatch.setattr(Decoding, "step", counted)
    monkeypatch.setattr(Generator, "stream", counted_start)
    with _send(port, stream=is_streamed):
        assert begun.wait(10)
        for _ in range(3):
            _send(port, stream=is_streamed).close()
    for _ in range(2):
        _request(port, "GET", "/health", b"")  # by then, the server knows that they have gone
    gone.set()
    client.completions.create(model="plain", prompt="the cat", max_tokens=1)
    assert 0 < len(steps) < MOST_TOKENS - 1
    assert len(starts) == 2


def test_a_client_that_does_not_read_its_answer_holds_up_nobody(
    port: int, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {"choices": ["x" * 2**23]}  # more than the buffers of a connection take
    monkeypatch.setattr(Answer, "piece", lambda self, text: long)
    with _send(port, stream=True):
        assert client.with_options(timeout=30).completions.create(model="plain", prompt="a", max_tokens=1)


def test_uploads_that_stop_leave_no_trace(
    port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        _send(port, "{").close()
    monkeypatch.setattr(serving, "MOST_SECONDS", 0.1)
    with _send(port, "{") as waiting:
        assert waiting.recv(100).startswith(b"HTTP/1.1 408")
    assert not [record for record in caplog.records if record.levelname != "INFO"]


@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_error_of_the_server_is_logged_in_one_line(
    port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("of a\nbug")

    monkeypatch.setattr(Decoding, "step", fail)
    body = {"model": "plain", "prompt": "the cat", "stream": is_streamed}
    status, values = _request(port, "POST", "/v1/completions", json.dumps(body).encode())
    assert values["error"]["type"] == "server_error"
    assert status == (200 if is_streamed else 500)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == "POST '/v1/completions': ValueError: of a bug"
    assert record.exc_info is None
