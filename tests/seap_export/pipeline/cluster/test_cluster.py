"""Which machine a step goes to, what a worker refuses, and what it says to its driver."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.product import PathStep, open_source

from seap_export.errors import InputError
from seap_export.pipeline.cluster.connection import Cluster, Share, share_of
from seap_export.pipeline.cluster.worker import Event, Events, Failed, Finished, Order, make_order
from seap_export.pipeline.folder import outputs
from seap_export.pipeline.folder.manifest import package_versions

HEAD, SMALL, LARGE, GPU = {"memory": 1e9}, {"CPU": 4.0}, {"CPU": 16.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("options", "machines", "share"),
    [
        ({}, (HEAD, SMALL, LARGE), Share(4, 0, "cpu")),
        ({"threads": 8}, (SMALL, LARGE), Share(8, 0, "cpu")),
        ({}, (SMALL, GPU), Share(4, 1, "cuda")),
        ({"device": "cpu"}, (SMALL, GPU), Share(4, 0, "cpu")),
        ({"device": "cpu", "provider": "cuda"}, (SMALL, GPU), Share(4, 1, "cpu")),
    ],
)
@pytest.mark.needs("ray")
def test_all_steps_get_the_same_share(options: dict[str, Any], machines: tuple[Any, ...], share: Share) -> None:
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    nodes += [{"Alive": False, "Resources": {"CPU": 1.0}}]
    ray: Any = SimpleNamespace(nodes=lambda: nodes)
    assert share_of(ray, Cluster("local", "m", **options)) == share


@dataclass(frozen=True)
class Written(PathStep):
    """Writes a file, or does something else."""

    kind = "written"
    act: Callable[[Path], object]
    name = "v/written"
    needs = ()
    tasks = ()
    label = "writing"

    def _inputs(self) -> dict[str, Any]:
        return {}

    def make(self, work: Any, path: Path, advance: Callable[[object], None]) -> None:
        self.act(path)


class Unreadable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("both")


@pytest.fixture
def order(inputs: Path, tmp_path: Path) -> Order:
    path = tmp_path / "out" / "scratch" / "written"
    path.mkdir(parents=True)
    digest = open_source(str(inputs / "m")).digest
    step = Written(lambda path: (path / "file").write_text("new"))
    share = Share(1, 0, "cpu")
    return Order(step, path, tmp_path / "out", str(inputs / "m"), digest, share, None, 64, package_versions())


def made(order: Order) -> tuple[Finished | Failed, list[Event]]:
    events = Events()
    result = make_order(order, SimpleNamespace(add=SimpleNamespace(remote=events.add)))
    return result, events.take()


def test_a_step_is_made_anew_in_the_place_that_a_lost_worker_left(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    (order.path / "half").write_text("old")
    monkeypatch.setattr(outputs, "_PATIENCE", 0.1)
    with outputs.alone(order.path):  # as long as it writes
        assert "another process still writes" in str(getattr(made(order)[0], "error", None))
    result, events = made(order)
    assert isinstance(result, Finished)
    assert [path.name for path in order.path.iterdir()] == ["file"]
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
    def act(path: Path) -> None:
        raise error

    result, _ = made(replace(order, step=Written(act)))
    assert isinstance(result, Failed)
    received = pickle.loads(pickle.dumps(result)).error
    assert (type(received), received.args, str(received)) == (type(expected), expected.args, str(expected))
    assert "in act" in received.__notes__[-1]  # where it was raised
