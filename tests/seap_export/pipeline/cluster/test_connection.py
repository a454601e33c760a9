"""Which machine a step goes to, and what happens where there is no Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from seap_export.errors import EnvironmentFailure
from seap_export.pipeline.cluster.connection import Cluster, Share, share_of

pytestmark = pytest.mark.needs("ray")


def ray_of(*machines: dict[str, float], lost: dict[str, float] | None = None) -> Any:
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    nodes += [{"Alive": False, "Resources": lost}] if lost else []
    return SimpleNamespace(nodes=lambda: nodes)


HEAD = {"memory": 1e9}
SMALL, LARGE, GPU = {"CPU": 4.0}, {"CPU": 16.0}, {"CPU": 8.0, "GPU": 2.0}


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
def test_all_steps_get_the_same_share(options: dict[str, Any], machines: tuple[Any, ...], share: Share) -> None:
    assert share_of(ray_of(*machines, lost={"CPU": 1.0}), Cluster("local", "m", **options)) == share


@pytest.mark.parametrize(
    ("options", "machines", "said"),
    [
        ({}, (HEAD,), "no machine has a CPU"),
        ({"threads": 17}, (SMALL, LARGE), "--threads 16 or less"),
        ({"device": "cuda"}, (SMALL, LARGE), "a GPU"),
        ({"threads": 12}, (LARGE, GPU), "12 CPUs and a GPU"),
    ],
)
def test_a_step_for_which_no_machine_is_large_enough_is_refused(
    options: dict[str, Any], machines: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(EnvironmentFailure, match=said):
        share_of(ray_of(*machines), Cluster("local", "m", **options))
