"""A plan: what a variant keeps of every sublayer of every layer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.model.families import Family, LayerSpec, ModelSpec
from seap_export.model.families.names import OUTPUTS, Projection
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.plan.sparsity import Sparsity
from seap_export.pruning.plan.sublayers import KEPT, Kept, alike

K = TypeVar("K", bound=Kept)

PLAN_SCHEMA = "seap-export/plan/6"
#: Task names become folder names: none may lead out of the export folder.
_NAME = re.compile(r"(?!\.+$)[^/\\\0]+")
#: Settings that plan.json has before the ratios, and after them; it has the rest after these if they are no defaults.
_BEFORE_RATIOS = ("score", "sparsity", "align", "balance", "compensation", "ridge", "distillation")
_AFTER_RATIOS = ("layout", "mix", "min_tokens")


@dataclass(frozen=True)
class LayerPlan:
    """The part of a plan for one layer.

    Attributes:
        sublayers: The plans of its sublayers, in the order of use.
    """

    sublayers: tuple[Kept, ...]

    def __post_init__(self) -> None:
        if not self.sublayers or len({type(kept) for kept in self.sublayers}) != len(self.sublayers):
            raise ValueError("a layer keeps something of each of its sublayers, which are of different kinds")

    def __getitem__(self, kind: type[K]) -> K:
        """The plan for the sublayer of a kind; raises `KeyError` if there is none."""
        for kept in self.sublayers:
            if isinstance(kept, kind):
                return kept
        raise KeyError(kind.__name__)

    def named(self, output: Projection) -> Kept:
        """The plan for the sublayer with this output projection; raises `KeyError` if there is none."""
        return {kept.kind.output: kept for kept in self.sublayers}[output]

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that are left, by the usual keys of config.json."""
        return {key: size for kept in self.sublayers for key, size in kept.sizes.items()}

    def fits(self, dense: LayerSpec) -> bool:
        """Whether the dense layer has these sublayers, and what is kept of each."""
        return tuple(kept.kind.output for kept in self.sublayers) == dense.outputs and all(
            kept.fits(sublayer) for kept, sublayer in zip(self.sublayers, dense.sublayers, strict=True)
        )

    def is_cut(self, output: Projection, dense: LayerSpec) -> bool:
        """Whether the input of an output projection loses channels."""
        return self.spec(dense, frozenset()).named(output).channels < dense.named(output).channels

    def spec(self, dense: LayerSpec, biases: frozenset[Projection]) -> LayerSpec:
        """The shape of the shrunk layer, whose projections in `biases` have a bias whatever the dense layer has."""
        shrunk = zip(self.sublayers, dense.sublayers, strict=True)
        layer = LayerSpec(tuple(kept.spec(sublayer) for kept, sublayer in shrunk))
        return layer.changed(biases=dense.biases | biases)

    def to_json(self) -> dict[str, Any]:
        """What is kept of each sublayer, by its output projection."""
        return {kept.kind.output: asdict(kept) for kept in self.sublayers}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LayerPlan:
        """Reads what `to_json` returned; raises `KeyError`, `TypeError` or `ValueError`."""
        kinds: Mapping[str, type[Kept]] = {kind.kind.output: kind for kind in KEPT}
        return cls(tuple(kinds[output].from_json(values) for output, values in row.items()))


@dataclass(frozen=True)
class Plan:
    """A variant before it is made.

    Attributes:
        task: Name of the variant's task, or of the mixture of tasks.
        weights: The tasks whose statistics decided, and their weights.
        source_name: Name of the dense model.
        source_sha256: Digest of the dense model's files.
        method: Name of the recipe, or `custom`.
        settings: How it was chosen, protection spelled out, and how it is made.
        requested_ratio: Fraction of the budget (of `sparsity`) asked to be removed.
        achieved_ratio: The fraction that this plan removes.
        layers: One `LayerPlan` per layer.
        vocabulary: The tokens that are kept; None: all.
    """

    task: str
    weights: Mapping[str, float]
    source_name: str
    source_sha256: str
    method: str
    settings: PlanSettings
    requested_ratio: float
    achieved_ratio: float
    layers: tuple[LayerPlan, ...]
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.requested_ratio < 1.0:
            raise ValueError("requested_ratio must be at least 0 and below 1")
        if self.settings.layout == "uniform" and not alike(kept for layer in self.layers for kept in layer.sublayers):
            raise ValueError("in a uniform layout all layers must keep the same number of heads and neurons")
        if self.settings.distillation != self.settings.passes:
            raise ValueError("distillation goes with the sequential compensation alone")
        for name in (self.task, *self.weights):
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name:.40}' is not a valid task name")
        if not self.weights or not all(0.0 < weight < math.inf for weight in self.weights.values()):
            raise ValueError("weights must name at least one task, each with a positive weight")

    def shrunk_spec(self, dense: ModelSpec) -> ModelSpec:
        """The shapes of the variant.

        Raises:
            ArtifactError: The plan was made for a model of another shape.
        """
        if len(self.layers) != len(dense.layers):
            raise ArtifactError(
                f"the plan has {len(self.layers)} layers, but the model has {len(dense.layers)}; "
                "make the plan again for this model"
            )
        if self.vocabulary is not None and self.vocabulary.of != dense.vocab_size:
            raise ArtifactError(
                f"the plan was made for {self.vocabulary.of} tokens, but the model has {dense.vocab_size}; "
                "make the plan again for this model"
            )
        for index, (layer, dense_layer) in enumerate(zip(self.layers, dense.layers, strict=True)):
            if not layer.fits(dense_layer):
                raise ArtifactError(
                    f"the plan does not fit the model: layer {index} has another shape; "
                    "make the plan again for this model"
                )
        layers = tuple(
            kept.spec(whole, biases)
            for kept, whole, biases in zip(self.layers, dense.layers, self._biases(dense), strict=True)
        )
        tokens = dense.vocab_size if self.vocabulary is None else len(self.vocabulary)
        return dense.with_layers(layers).with_tokens(tokens)

    def has_intercept(self, output: Projection, family: Family) -> bool:
        """Whether compensation may give an output projection a bias."""
        has_place = (self.settings.layout == "per-layer" and output in OUTPUTS) or family.can_have_bias(output)
        return has_place and self.settings.biases == "added"

    def _biases(self, dense: ModelSpec) -> tuple[frozenset[Projection], ...]:
        """For each layer the projections to which compensation gives a bias, or a place for one."""
        family, compensated = dense.family, self.compensated(dense)
        if self.settings.biases == "none":
            return (frozenset[Projection](),) * len(self.layers)
        if self.settings.layout == "per-layer":
            return tuple(outputs & frozenset(OUTPUTS) for outputs in compensated)
        outputs = frozenset[Projection]().union(*compensated)
        switched = [family.switched_with(output) for output in outputs if self.has_intercept(output, family)]
        return (frozenset[Projection]().union(*switched),) * len(self.layers)

    def compensated(self, dense: ModelSpec) -> tuple[frozenset[Projection], ...]:
        """For each layer the output projections that get new weights or a bias: those whose input is cut.

        In the sequential mode this includes all projections after the first of them, since their input has changed.
        With `bias`, only where the layout has a place for one.
        """
        changed, chosen = False, []
        for layer, whole in zip(self.layers, dense.layers, strict=True):
            here = []
            for output in whole.outputs:
                is_cut = layer.is_cut(output, whole)
                changed = changed or is_cut
                has_intercept = self.has_intercept(output, dense.family)
                alone = is_cut and whole.named(output).has_covariance
                refitted = {"none": False, "sequential": changed, "one-shot": alone, "bias": alone and has_intercept}
                here += [output] if refitted[self.settings.compensation] else []
            chosen.append(frozenset(here))
        return tuple(chosen)


def write_plan(plan: Plan, path: Path) -> None:
    """Writes a plan as JSON, one layer per line; without a whole vocabulary and most defaults."""
    values = {key: value for key, value in vars(plan).items() if key not in ("settings", "layers", "vocabulary")}
    ratios = {key: values.pop(key) for key in ("requested_ratio", "achieved_ratio")}
    settings, usual = asdict(plan.settings), PlanSettings()
    before, after = ({key: settings.pop(key) for key in keys} for keys in (_BEFORE_RATIOS, _AFTER_RATIOS))
    rest = {key: value for key, value in settings.items() if value != getattr(usual, key)}
    head = {"schema": PLAN_SCHEMA, **values, **before, **ratios, **after, **rest}
    if plan.vocabulary is not None:
        head["vocabulary"] = plan.vocabulary.to_json()
    rows = [json.dumps(layer.to_json(), separators=(",", ":")) for layer in plan.layers]
    opening = json.dumps(head, indent=1).removesuffix("\n}")
    path.write_text(f'{opening},\n "layers": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n", "utf-8", newline="\n")


def read_plan(path: Path) -> Plan:
    """Reads a plan.

    Raises:
        ArtifactError: There is no such file, it is not a plan of this schema, or it contradicts itself.
    """
    try:
        values: dict[str, Any] = read_json(path, "make the plan with 'seap-export plan'")
    except InputError as error:
        raise ArtifactError(str(error)) from error
    schema = values.pop("schema", None)
    if schema != PLAN_SCHEMA:
        raise ArtifactError(
            f"{path}: plan schema is {schema!r}, expected {PLAN_SCHEMA!r}; make it again with 'seap-export plan'"
        )
    try:
        layers = tuple(LayerPlan.from_json(row) for row in values.pop("layers"))
        if (vocabulary := values.pop("vocabulary", None)) is not None:
            values["vocabulary"] = Vocabulary.from_json(vocabulary)
        names = {field.name for field in fields(PlanSettings)}
        settings = {name: values.pop(name) for name in names if name in values or name in _BEFORE_RATIOS}
        settings["sparsity"] = Sparsity(**settings["sparsity"])
        return Plan(**values, settings=PlanSettings(**settings), layers=layers)
    except (TypeError, ValueError, KeyError, AttributeError, UsageError) as error:
        raise ArtifactError(f"{path}: not a valid plan ({error}); make it again with 'seap-export plan'") from error
