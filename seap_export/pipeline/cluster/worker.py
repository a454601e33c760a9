"""The worker of a cluster: opens the model by itself and makes one step in the shared output folder."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from seap_export.errors import EnvironmentFailure
from seap_export.model.layers.compute import Compute, choose_compute
from seap_export.model.sources.open import open_source
from seap_export.model.sources.source import Source
from seap_export.pipeline.cluster.connection import Share
from seap_export.pipeline.folder.manifest import package_versions
from seap_export.pipeline.folder.outputs import alone
from seap_export.pipeline.folder.performance import StepFigures, Timed
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.runtime.session import available_threads

_SECONDS_BETWEEN_COUNTS = 1.0


@dataclass(frozen=True)
class Order:
    """One step to make.

    Attributes:
        memory: Memory that the step may take, such as `8GiB`; None: its share of what is free.
    """

    step: PathStep
    path: Path
    folder: Path
    model: str
    digest: str
    share: Share
    memory: str | None
    batch_tokens: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Finished:
    """The time and memory of a step that a worker has made."""

    figures: StepFigures


@dataclass(frozen=True)
class Failed:
    """The error that stopped a step, which the driver raises."""

    error: Exception


@dataclass(frozen=True)
class Event:
    """A worker's report: `begin` with its host, `count` with units done, `say` or `warn` with a line."""

    step: str
    kind: str
    text: str


class Events:
    """A Ray actor that collects the workers' reports until the driver asks for them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def add(self, event: Event) -> None:
        """Stores an event until the driver takes it."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """Returns the stored events, oldest first, and removes them."""
        taken, self._events = self._events, []
        return taken


class _Forwarded:
    """A `Progress` that sends everything to the driver."""

    def __init__(self, step: str, events: Any) -> None:
        self._step, self._events = step, events

    def send(self, kind: str, text: str) -> None:
        self._events.add.remote(Event(self._step, kind, text))

    @contextmanager
    def step(
        self, label: str, total: int | None = None, unit: str = "layers", *, name: str | None = None
    ) -> Iterator[Advance]:
        """Sends the number of units that are done, at most once a second."""
        done, sent = 0, time.monotonic()

        def advance(_: object) -> None:
            nonlocal done, sent
            done += 1
            if time.monotonic() - sent >= _SECONDS_BETWEEN_COUNTS:
                sent = time.monotonic()
                self.send("count", str(done))

        yield advance

    def say(self, message: str) -> None:
        self.send("say", message)

    def warn(self, message: str) -> None:
        """Sends a warning to the driver."""
        self.send("warn", message)


def make_order(order: Order, events: Any) -> Finished | Failed:
    """Makes a step. An error is returned and not raised: another worker would meet it, too, and Ray would wrap it."""
    progress = _Forwarded(order.step.name, events)
    progress.send("begin", socket.gethostname())
    try:
        return Finished(_make(order, progress))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library panics with what is no `Exception`
        sent = _portable(error)
        sent.add_note(f"on {socket.gethostname()}:\n{traceback.format_exc()}")
        return Failed(sent)


def _make(order: Order, progress: _Forwarded) -> StepFigures:
    _refuse_what_differs(order)
    torch.set_num_threads(order.share.threads)
    timed = Timed(progress)
    with alone(order.path):
        if not order.step.resumes:
            _clear(order.path)
        work = StepContext(_source(order.model, order.digest), order.folder, _compute(order), progress)
        with timed.step(order.step.label, order.step.units, order.step.unit, name=order.step.name) as advance:
            order.step.make_or_continue(work, order.path, advance)
    return timed.steps[order.step.name]


def _refuse_what_differs(order: Order) -> None:
    host = socket.gethostname()
    if not order.path.parent.is_dir():
        raise EnvironmentFailure(
            f"{host} does not see {order.folder}; give an --out on a disk that all machines see under the same path"
        )
    if os.path.isabs(order.model) and not os.path.exists(order.model):
        raise EnvironmentFailure(
            f"{host} does not see {order.model}; put the model on a disk that all machines see under the same path"
        )
    versions = package_versions()
    for name in sorted({*versions, *order.versions}):
        if versions.get(name) != order.versions.get(name):
            raise EnvironmentFailure(
                f"{host} has {name} {versions.get(name, 'not at all')}, this machine "
                f"{order.versions.get(name, 'not at all')}; install the same versions on all machines"
            )


def _clear(path: Path) -> None:
    """Removes a lost worker's remains of a step that cannot resume."""
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _source(model: str, digest: str) -> Source:
    """The model, hashed once in each worker process."""
    source = open_source(model)
    if source.digest != digest:
        raise EnvironmentFailure(
            f"{socket.gethostname()} has other files at {model} than this machine; "
            "put the model on a disk that all machines see under the same path"
        )
    return source


def _compute(order: Order) -> Compute:
    """Steps that run beside each other share a machine's memory as they share its CPUs."""
    compute = choose_compute(order.share.device, order.memory, order.batch_tokens)
    if order.memory is not None:
        return compute
    share = min(1.0, order.share.threads / available_threads())
    return replace(compute, memory=max(1, int(compute.memory * share)))


def _portable(error: BaseException) -> Exception:
    """The error, if the driver can read it; else its text."""
    try:
        if isinstance(error, Exception):
            pickle.loads(pickle.dumps(error))
            return error
    except Exception:  # whatever the class of the error does when it is copied
        return RuntimeError(f"{type(error).__name__}: {error}")
    return Exception(str(error))
