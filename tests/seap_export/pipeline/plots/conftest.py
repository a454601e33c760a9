"""Plans of a micro model, written down by hand: 3 layers of 6 heads in 3 KV groups and 80 neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from support.plans import kept_layer
from support.product import Plan, PlanSettings, Sparsity
from support.variations import micro_config

from seap_export.model.families import model_spec
from seap_export.pipeline.plots.data import DrawnVariant

Layer = tuple[Iterable[int], Iterable[int], Iterable[int]]
WHOLE: Layer = (range(3), range(6), range(80))


@pytest.fixture
def make_variant() -> Callable[..., DrawnVariant]:
    """`make_variant("a", "a-0.2", layers)`, each layer as its kept KV groups, heads and neurons; the rest is whole."""

    def make(task: str, name: str, layers: dict[int, Layer], **values: Any) -> DrawnVariant:
        dense = model_spec(micro_config(model_type="llama"))
        rows = [layers.get(index, WHOLE) for index in range(3)]
        plan = Plan(
            **{
                "task": task,
                "weights": {task: 1.0},
                "source_name": "micro",
                "source_sha256": "00",
                "method": "seap",
                "settings": PlanSettings("wifv", Sparsity(), balance="alike", compensation="bias", distillation=0.0),
                "requested_ratio": 0.2,
                "achieved_ratio": 0.2,
                "layers": tuple(kept_layer(2, *row) for row in rows),
                **values,
            }
        )
        return DrawnVariant(name, plan, dense)

    return make
