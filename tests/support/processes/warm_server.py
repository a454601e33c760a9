"""A process that has imported everything once and runs programs in forks of itself, one request a line.

A start of Python with torch takes seconds, so that thirty killed runs, or fifty runs with limited memory, need this.
Requests and answers are JSON. What a run prints goes to the files `out` and `err`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What an export imports on its way.
MODULES = (
    "gguf", "onnx", "onnx_ir", "onnxruntime", "pyarrow.parquet", "safetensors.torch", "sklearn.linear_model",
    "transformers", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "seap_export.cli", "seap_export.model.modeling.modeling_seap", "seap_export.pipeline.export",
    "seap_export.pipeline.inspect", "seap_export.model.sources.gguf.tokenizers", "validation.parity.run",
)  # fmt: skip
#: What the file system is changed by, as Python announces it (sys.addaudithook).
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def start(
    program: str,
    arguments: list[str],
    cwd: str,
    out: str,
    err: str,
    environment: dict[str, str],
    memory: int | None = None,
    before: str = "",
    events: str | None = None,
    records: int = 0,
    kill_at: int | None = None,
    kill_after: float = 0.0,
) -> int:
    """Runs `python -c PROGRAM ARGUMENTS` in a fork, with stdout and stderr in files; its process id.

    It may use `memory` bytes of address space beyond what is there. The code `before` runs first, and is not watched.
    The pipe `events` gets a line for every change of the file system under `cwd`/out, before it is made. Before the
    change of the number `kill_at`, from 1, it kills itself, or lives on for `kill_after` seconds; the count begins
    when manifest.json has been replaced `records` times.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(cwd)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["-c", *arguments]
        tempfile.tempdir = None  # TMPDIR may be another
        if memory is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        names = {"__name__": "__main__"}
        exec(before, names)
        watch(None if events is None else os.open(events, os.O_WRONLY), records, kill_at, kill_after)
        exec(program, names)
        code = 0
    except SystemExit as status:
        code = status.code if isinstance(status.code, int) else int(status.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch(pipe: int | None, records: int, kill_at: int | None, kill_after: float) -> None:
    """Announces or counts the changes of the output folder."""
    seen = 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen, records
        opened = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if not (opened or event in CHANGES) or not str(details[0]).startswith(("out", f"{os.getcwd()}/out")):
            return
        if records:
            records -= event == "os.rename" and str(details[1]).endswith("out/manifest.json")
        else:
            seen += 1
        if seen == kill_at and kill_after:
            signal.setitimer(signal.ITIMER_REAL, kill_after)  # nothing handles SIGALRM, so it ends the process
        elif seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if pipe is not None:
            os.write(pipe, f"{event} {details[1 if event == 'os.rename' else 0]}\n".encode())

    if pipe is not None or kill_at is not None:
        sys.addaudithook(hook)


def wait(process: int, timeout: float) -> int | None:
    """The exit code, negative for a signal; None: it did not end in time and was killed."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def shell(command: list[str]) -> str:
    """Runs a command beside the runs, where their mounts are seen; what it said if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr or f"exit code {done.returncode}"


def serve() -> None:
    import torch

    torch.set_num_threads(1)
    os.sched_getaffinity = lambda process: {0}  # one thread of ONNX Runtime, too
    os.fsync = lambda fd: None  # as in conftest.py
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each fork that collects garbage would copy all that was imported
    print(json.dumps("ready"), flush=True)
    operations: dict[str, Callable[..., object]] = {"start": start, "wait": wait, "shell": shell}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(operations[request.pop("operation")](**request)), flush=True)
    os._exit(0)  # unloading everything takes seconds


if __name__ == "__main__":
    serve()
