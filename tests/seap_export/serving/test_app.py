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

from seap_export.runtime import Generator, Sampling
from seap_export.runtime.decoding.decoder import Decoding
from seap_export.serving import app as serving
from seap_export.serving.app import Model, make_app

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
    models = {name: Model.of(Generator(folder, threads=1)) for name, folder in folders.items()}
    app = make_app(models, most_tokens=MOST_TOKENS, is_local=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
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
    chunks = list(
        client.chat.completions.create(
            model="a-0.2",
            messages=TALK,
            max_completion_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
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
    most: dict[str, Any] = {"max_tokens": 10**6, "extra_body": {"max_completion_tokens": 10**6}}
    long = client.completions.create(model="plain", prompt="the cat", temperature=0, top_p=0.9, **most)
    assert long.usage is not None
    assert long.usage.completion_tokens == MOST_TOKENS


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["a-0.2", "plain"]
    assert client.models.retrieve("plain").id == "plain"


def _ask(client: openai.OpenAI, **changes: Any) -> object:
    return client.chat.completions.create(**{"model": "a-0.2", "messages": TALK, "max_tokens": 3, **changes})


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": "b"}, openai.NotFoundError, "there is no model 'b'; give one of a-0.2, plain"),
        ({"model": "plain"}, openai.BadRequestError, "this model has no chat template"),
        ({"messages": [{"role": "x", "content": "the"}]}, openai.BadRequestError, "no message has the role 'x'"),
        ({"messages": []}, openai.BadRequestError, "messages need a role"),
        ({"messages": "the cat"}, openai.BadRequestError, "'messages' must be a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, openai.BadRequestError, "must be text"),
        ({"messages": [{"role": "user", "content": "cat " * 200}]}, openai.BadRequestError, "context is 128"),
        ({"max_tokens": 0}, openai.BadRequestError, "0 tokens are asked for"),
        ({"max_tokens": "many"}, openai.BadRequestError, "'max_tokens' is 'many'"),
        ({"temperature": -1}, openai.BadRequestError, "temperature -1 is out of range"),
        ({"stop": [""]}, openai.BadRequestError, "'stop' must be"),
        ({"stop": ["x"] * 17}, openai.BadRequestError, "'stop' has 17 texts"),
        ({"stream": "yes"}, openai.BadRequestError, "'stream' is 'yes'"),
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
    assert _ask(client, tools=[], n=1, user="someone")  # what asks for nothing


def _request(port: int, method: str, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text) if text.startswith(b"{") else {}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/v1/completions", b"{", {}, 400),
        ("POST", "/v1/completions", b"[" * 100_000, {}, 400),
        ("POST", "/v1/completions", b"[]", {}, 400),
        ("POST", "/v1/completions", b'{"model": "plain", "prompt": "the", "temperature": %d}' % 10**400, {}, 400),
        ("POST", "/v1/completions", b'{"prompt": "the"}', {}, 400),  # which of two models?
        ("POST", "/v1/completions", b'{"model": "plain", "prompt": ["the", "cat"]}', {}, 400),
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
    assert _request(port, "GET", "/v1/models", b"", Host="example.com")[0] == 400
    assert _request(port, "GET", "/health", b"", Host=f"localhost:{port}") == (200, {"status": "ok"})


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_away_ends_its_answer(
    port: int, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    """The next request waits for its turn, so that what was counted by then is all of the first one."""
    begun, gone, steps = threading.Event(), threading.Event(), list[int]()
    step: Callable[..., None] = Decoding.step

    def counted(self: Decoding, tokens: Sequence[int], *more: Any) -> None:
        steps.append(1)
        begun.set()
        gone.wait(0.05 if gone.is_set() else 10)
        step(self, tokens, *more)

    monkeypatch.setattr(Decoding, "step", counted)
    body = json.dumps({"model": "plain", "prompt": "the cat", "max_tokens": MOST_TOKENS, "stream": is_streamed})
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert begun.wait(10)
    gone.set()
    client.completions.create(model="plain", prompt="the cat", max_tokens=1)
    assert 0 < len(steps) < MOST_TOKENS - 1
