"""The speed of variants: each is timed against the dense model, both in the same runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from seap_export.pipeline.cost.cost import Cost, Disk, Rates, prompt_factor
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts
from seap_export.pipeline.evaluation.bench import Other, time_variants
from seap_export.pipeline.evaluation.speed import speed_json, speed_request, speed_setting
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.performance import read_performance
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.joint.whole import WholeStep
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.step import Made, PathStep, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps, sound


def _seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    prefill = 2 * 128 * model.active / rates.operations
    return model.work.runs * (prefill + 24 * model.bytes / rates.memory_bytes)


def _disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """The dense model in the format of the variants."""
    dense = KeptPart(model.work, 1.0)
    return Disk(temporary=dense.folder_bytes(model.work.format) + dense.dense_folder_bytes)


@dataclass(frozen=True)
class SpeedStep(Step):
    """Adds the speed of each variant that passed parity to performance.json, once for a machine.

    Attributes:
        settings: The execution provider and the threads; the rest concerns parity.
        whole: The whole models that are timed in the same session; None: there are none.
    """

    cost = Cost("speed", _seconds, effort=2.5, always=0.8, format_factor=prompt_factor, count_disk=_disk)

    variants: Mapping[str, VariantSteps]
    settings: ParitySettings
    whole: WholeStep | None = None
    prompts: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return ("speed",)

    def planned_work(self, variant: VariantSteps, folder: Path, missing: Collection[PathStep]) -> list[PlannedWork]:
        return [] if variant.plan.variant in read_performance(folder).speed else [variant.planned_work(self.cost)]

    def run(self, made: Made) -> None:
        """Times the variants that were not timed on this machine yet, alternating with the dense model."""
        speed, export = made.performance.speed, Export(made.work.folder)
        for measured, keys in sound(self.variants, made.variants, every=False).items():
            request = speed_request(made.work.source.spec, measured, self.settings, self.prompts)
            setting, missing = speed_setting(request), []
            for name, key in keys.items():
                entry = speed.get(name, {})
                if (entry.get(measured.folder), entry.get("setting")) != (key, setting):
                    missing.append(name)
            whole = {} if self.whole is None else self.whole.to_time(made, measured)
            if not missing and not whole:
                continue
            others = [Other(name, made.whole[name], steps.model.format) for name, steps in whole.items()]
            report = time_variants(
                [export.variant(name) for name in missing], made.dense(), request, made.work.progress, others
            )
            for name, steps in whole.items():
                figures = {**measured.to_json(), **speed_json(report, name, engine=measured.runtime)}
                speed[name] = {"whole": steps.key, "setting": setting, "figures": figures}
            for name in missing:
                figures = {**measured.to_json(), **speed_json(report, name, engine=measured.runtime)}
                speed[name] = {measured.folder: keys[name], "setting": setting, "figures": figures}
