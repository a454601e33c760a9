from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from support.exports import Run
from support.processes import Tool

from seap_export.runtime import Generator


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_variants_of_an_export_until_it_is_ended(tool: Tool, done: Path, end: signal.Signals) -> None:
    running = tool.start(done.parent, "serve", "out", "--port", "0", "--json", "--max-new-tokens", "6")
    deadline = time.monotonic() + 60
    while not (running.out.exists() and running.out.read_text().endswith("}\n")):
        assert time.monotonic() < deadline, running.err.read_text()
        time.sleep(0.05)
    told = json.loads(running.out.read_text())
    assert told["models"] == ["a-0.2", "a-0.4", "b-0.2", "b-0.4"]
    body = json.dumps({"model": "b-0.4", "prompt": "the cat"}).encode()
    request = urllib.request.Request(f"{told['address']}/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    assert answer["choices"][0]["text"] == Generator(done / "b-0.4" / "onnx", threads=1).generate("the cat", 6)
    with socket.create_connection(("127.0.0.1", int(told["address"].split(":")[2].partition("/")[0]))) as unfinished:
        unfinished.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
        unfinished.sendall(b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert b" 100 " in unfinished.recv(100)
        os.kill(running.process, end)
        outcome = running.wait()
    assert outcome.code == 0
    assert "Traceback" not in outcome.err


def test_a_port_that_is_taken_and_a_file_that_was_changed(run: Run, done: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run("serve", "out", "--port", port).refused(6, f"127.0.0.1:{port} cannot be listened at")
    (done / "b-0.2" / "onnx" / "tokenizer_config.json").write_text("{}")
    run("serve", "out", "--port", 0).refused(7, "b-0.2", "tokenizer_config.json")
