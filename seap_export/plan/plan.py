"""A plan: which query heads, KV groups and neurons of every layer a variant keeps."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.families import LayerSpec, ModelSpec
from seap_export.plan.sparsity import Sparsity
from seap_export.scores import Score
from seap_export.sources.config import read_json

__all__ = ["COMPENSATIONS", "PLAN_SCHEMA", "Compensation", "LayerPlan", "Plan", "read_plan", "write_plan"]

PLAN_SCHEMA = "seap-export/plan/1"
Compensation = Literal["bias", "none"]
COMPENSATIONS: tuple[Compensation, ...] = get_args(Compensation)


@dataclass(frozen=True)
class LayerPlan:
    """What one layer keeps, as indices into the dense layer, each list sorted.

    Attributes:
        num_heads_per_group: Query heads of a KV group in the dense layer.
        kv_groups: Kept key/value heads.
        heads: Kept query heads; every kept group keeps the same number.
        neurons: Kept MLP neurons.
    """

    num_heads_per_group: int
    kv_groups: tuple[int, ...]
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("kv_groups", "heads", "neurons"):
            kept = getattr(self, name)
            if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0:
                raise ValueError(f"{name} must be a sorted list of distinct indices, not empty")
        if self.num_heads_per_group < 1:
            raise ValueError("num_heads_per_group must be positive")
        in_group = Counter(head // self.num_heads_per_group for head in self.heads)
        if set(in_group) != set(self.kv_groups) or len(set(in_group.values())) != 1:
            raise ValueError("every kept KV group must keep the same number of query heads, others none")

    def spec(self, dense: LayerSpec, compensation: Compensation) -> LayerSpec:
        """The shape of the shrunk layer; a bias is added where compensation moves something into it."""
        biases = set(dense.biases)
        if compensation == "bias":
            biases |= {"o_proj"} if len(self.heads) < dense.num_attention_heads else set()
            biases |= {"down_proj"} if len(self.neurons) < dense.intermediate_size else set()
        return LayerSpec(
            num_attention_heads=len(self.heads),
            num_key_value_heads=len(self.kv_groups),
            intermediate_size=len(self.neurons),
            biases=frozenset(biases),
            sliding_window=dense.sliding_window,
        )


@dataclass(frozen=True)
class Plan:
    """A variant before it is made.

    Attributes:
        task: Name of the variant's task, or of the mixture of tasks.
        weights: The tasks whose statistics decided, and their weights.
        source_name: Name of the dense model.
        source_sha256: Digest of the dense model's files.
        score: Importance score.
        sparsity: Sparsity setting, protection spelled out.
        align: Neuron counts are multiples of this, where a layer is cut.
        compensation: `bias` or `none`.
        requested_ratio: Fraction of prunable weights (attention and MLP projections) asked to be removed.
        achieved_ratio: The fraction that this plan removes.
        layers: One `LayerPlan` a layer.
    """

    task: str
    weights: Mapping[str, float]
    source_name: str
    source_sha256: str
    score: Score
    sparsity: Sparsity
    align: int
    compensation: Compensation
    requested_ratio: float
    achieved_ratio: float
    layers: tuple[LayerPlan, ...]

    def __post_init__(self) -> None:
        if not 0.0 <= self.requested_ratio < 1.0:
            raise ValueError("requested_ratio must be at least 0 and below 1")
        if self.compensation not in COMPENSATIONS:
            raise ValueError(f"compensation must be one of {COMPENSATIONS}")
        if not self.weights or not all(0.0 < weight < math.inf for weight in self.weights.values()):
            raise ValueError("weights must name at least one task, each with a positive weight")

    def shrunk_spec(self, dense: ModelSpec) -> ModelSpec:
        """The shapes of the variant.

        Raises:
            ArtifactError: The plan was made for a model of another shape.
        """
        if len(self.layers) != len(dense.layers):
            raise ArtifactError(f"the plan has {len(self.layers)} layers, the model {len(dense.layers)}")
        for index, (layer, own) in enumerate(zip(self.layers, dense.layers, strict=True)):
            fits = (
                layer.num_heads_per_group == own.heads_per_group
                and layer.heads[-1] < own.num_attention_heads
                and layer.neurons[-1] < own.intermediate_size
            )
            if not fits:
                raise ArtifactError(f"the plan does not fit the model: layer {index} has another shape")
        return dense.with_layers(
            tuple(p.spec(own, self.compensation) for p, own in zip(self.layers, dense.layers, strict=True))
        )


def write_plan(plan: Plan, path: Path) -> None:
    """Writes a plan as JSON, one layer a line."""
    head = {"schema": PLAN_SCHEMA, **{key: value for key, value in asdict(plan).items() if key != "layers"}}
    rows = [json.dumps(asdict(layer), separators=(",", ":")) for layer in plan.layers]
    opening = json.dumps(head, indent=1).removesuffix("\n}")
    path.write_text(f'{opening},\n "layers": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n", "utf-8")


def read_plan(path: Path) -> Plan:
    """Reads a plan.

    Raises:
        ArtifactError: There is no such file, it is not a plan of this schema, or it contradicts itself.
    """
    try:
        values: dict[str, Any] = read_json(path)
    except InputError as error:
        raise ArtifactError(f"{error}; make the plan with 'seap-export plan'") from error
    schema = values.pop("schema", None)
    if schema != PLAN_SCHEMA:
        raise ArtifactError(f"{path}: plan schema is {schema!r}, expected {PLAN_SCHEMA!r}")
    try:
        layers = tuple(_parse_layer(row) for row in values.pop("layers"))
        return Plan(**{**values, "sparsity": Sparsity(**values["sparsity"])}, layers=layers)
    except (TypeError, ValueError, KeyError, AttributeError, UsageError) as error:
        raise ArtifactError(f"{path}: not a valid plan ({error}); make it again with 'seap-export plan'") from error


def _parse_layer(row: dict[str, Any]) -> LayerPlan:
    lists = {name: tuple(row[name]) for name in ("kv_groups", "heads", "neurons")}
    return LayerPlan(num_heads_per_group=row["num_heads_per_group"], **lists)
