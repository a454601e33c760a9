"""The speed of variants: each is timed against the dense model, both in the same runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seap_export.pipeline.evaluation.bench import Other, time_variants
from seap_export.pipeline.evaluation.speed import speed_json, speed_request, speed_setting
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.joint.whole import WholeStep
from seap_export.pipeline.steps.step import Made, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps, sound


@dataclass(frozen=True)
class SpeedStep(Step):
    """Adds the speed of each variant that passed parity to performance.json, once for a machine.

    Attributes:
        settings: The execution provider and the threads; the rest concerns parity.
        whole: The whole models that are timed in the same session; None: there are none.
    """

    variants: Mapping[str, VariantSteps]
    settings: ParitySettings
    whole: WholeStep | None = None
    prompts: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return ("speed",)

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
