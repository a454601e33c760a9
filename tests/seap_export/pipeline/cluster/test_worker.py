"""What a worker refuses, and what it says to its driver."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.product import PathStep, Step, open_source

from seap_export.errors import InputError
from seap_export.pipeline.cluster.connection import Share
from seap_export.pipeline.cluster.run import _make_here
from seap_export.pipeline.cluster.worker import Event, Events, Failed, Finished, Order, make_order
from seap_export.pipeline.folder import outputs
from seap_export.pipeline.folder.manifest import package_versions


@dataclass(frozen=True)
class Written(PathStep):
    """Writes a file, or does something else."""

    kind = "written"
    act: Callable[[Any, Path], None]
    name = "v/written"
    needs = ()
    tasks = ()
    label = "writing"

    def _inputs(self) -> dict[str, Any]:
        return {}

    def make(self, work: Any, path: Path, advance: Callable[[object], None]) -> None:
        self.act(work, path)


class Unreadable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("both")


def failing(error: BaseException) -> Callable[[Any, Path], None]:
    def act(work: Any, path: Path) -> None:
        raise error

    return act


@pytest.fixture
def order(inputs: Path, tmp_path: Path) -> Order:
    path = tmp_path / "out" / "scratch" / "written"
    path.mkdir(parents=True)
    digest = open_source(str(inputs / "m")).digest
    step = Written(lambda work, path: (path / "file").write_text("new"))
    share = Share(1, 0, "cpu")
    return Order(step, path, tmp_path / "out", str(inputs / "m"), digest, share, None, 64, package_versions())


def made(order: Order) -> tuple[Finished | Failed, list[Event]]:
    events = Events()
    result = make_order(order, SimpleNamespace(add=SimpleNamespace(remote=events.add)))
    return result, events.take()


def test_a_step_is_made_anew_in_the_place_that_a_lost_worker_left(order: Order) -> None:
    (order.path / "half").write_text("old")
    result, events = made(order)
    assert isinstance(result, Finished)
    assert {path.name for path in order.path.iterdir()} == {"file"}
    assert [event.kind for event in events] == ["begin"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": Path("/nowhere/scratch/written")}, "does not see"),
        ({"model": "/nowhere/m"}, "does not see /nowhere/m"),
        ({"digest": "0" * 64}, "other files"),
        ({"versions": {**package_versions(), "torch": "0.1"}}, "this machine 0.1"),
    ],
)
def test_a_machine_that_differs_is_refused(order: Order, changes: dict[str, Any], said: str) -> None:
    result, _ = made(replace(order, **changes))
    assert isinstance(result, Failed)
    assert said in str(result.error)
    assert list(order.path.iterdir()) == []


def test_two_workers_never_write_to_one_place(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_PATIENCE", 0.1)
    with outputs.alone(order.path):
        result, _ = made(order)
    assert isinstance(result, Failed)
    assert "another process still writes" in str(result.error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("bad weights"), InputError("bad weights")),
        (OSError(28, "No space left on device", "file"), OSError(28, "No space left on device", "file")),
        (Unreadable(1, 2), RuntimeError("Unreadable: both")),
        (BaseException("panic"), Exception("panic")),
    ],
)
def test_errors_reach_the_driver(order: Order, error: BaseException, expected: Exception) -> None:
    result, _ = made(replace(order, step=Written(failing(error))))
    assert isinstance(result, Failed)
    received = pickle.loads(pickle.dumps(result)).error
    assert (type(received), received.args, str(received)) == (type(expected), expected.args, str(expected))
    assert "in act" in received.__notes__[-1]  # where it was raised


def test_what_is_for_this_process_waits_for_all_before_it() -> None:
    @dataclass(frozen=True)
    class Here(Step):
        name: str

        def run(self, made: Any) -> None:
            ran.append(self.name)

    @dataclass(frozen=True)
    class Sent(Written):
        name: str = ""

    ran, nothing = list[str](), failing(AssertionError("of a worker"))
    left = deque[Step]([Sent(nothing, "a"), Here("after a"), Sent(nothing, "b"), Sent(nothing, "c"), Here("last")])
    for done, expected in ((set(), []), ({"a", "c"}, ["after a"]), ({"a", "b", "c"}, ["after a", "last"])):
        _make_here(left, done, cast(Any, None))
        assert ran == expected
    assert not left
