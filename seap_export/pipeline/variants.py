"""Makes the variants of one task or mixture, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from converters.form import OnnxForm
from converters.widths import width_warning
from seap_export.activations.mixture import Mixture
from seap_export.families import ModelSpec
from seap_export.pipeline.convert import convert_folder
from seap_export.pipeline.keys import hf_key, onnx_key, parity_key, plan_key
from seap_export.pipeline.manifest import read_artifact
from seap_export.pipeline.mixtures import MixtureSpec
from seap_export.pipeline.parity import check_parity, held_out_prompts, write_report
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.quality import settled_quality
from seap_export.pipeline.settings import ParitySettings, calibration_step, variant_name
from seap_export.pipeline.workspace import Workspace
from seap_export.plan.make import Ranking
from seap_export.plan.plan import Plan, read_plan, write_plan
from seap_export.plan.planning import plan_variant, rank
from seap_export.plan.recipes import PlanSettings
from seap_export.shrink.write import write_shrunk_model
from seap_export.sources.source import Source

__all__ = ["VariantMaker"]


class VariantMaker:
    """The steps from statistics to checked artifacts; a step that was done before is reused."""

    def __init__(
        self,
        source: Source,
        settings: PlanSettings,
        form: OnnxForm,
        parity: ParitySettings,
        batch_tokens: int,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        self._source = source
        self._settings = settings
        self._form = form
        self._parity_settings = parity
        self._batch_tokens = batch_tokens
        self._workspace = workspace
        self._progress = progress

    def variants(self, mixture: MixtureSpec, statistics: Mixture, ratios: Sequence[float]) -> dict[str, Any]:
        """Makes the variants of a task or a mixture at all ratios."""
        made = {}
        ranking: Ranking | None = None
        steps = self._workspace.manifest.steps
        keys = {task: steps[calibration_step(task)] for task in mixture.weights}
        for ratio in ratios:
            name = variant_name(mixture.name, ratio)
            key = plan_key(keys, mixture, self._settings, ratio, len(self._source.spec.layers))
            if not self._workspace.is_done(f"{name}/plan.json", key):
                ranking = ranking or self._rank(statistics)
                self._plan(name, key, statistics, ranking, ratio)
            made[name] = self._variant(name, key, statistics)
            self._workspace.manifest.variants[name] = made[name]
        return made

    def _rank(self, statistics: Mixture) -> Ranking:
        label, layers = f"ranking {statistics.name}", len(self._source.spec.layers)
        with self._progress.step(label, layers, name=f"ranking/{statistics.name}") as advance:
            return rank(self._source, statistics, self._settings, advance)

    def _plan(self, name: str, key: str, statistics: Mixture, ranking: Ranking, ratio: float) -> None:
        plan = plan_variant(self._source, statistics, ranking, self._settings, ratio)
        with self._workspace.writing(f"{name}/plan.json", key, folder=False) as path:
            write_plan(plan, path)

    def _variant(self, name: str, key: str, statistics: Mixture) -> dict[str, Any]:
        folder = self._workspace.folder / name
        plan = read_plan(folder / "plan.json")
        self._warn_of_few_tokens(name, plan, statistics)
        if slow := width_warning(plan.shrunk_spec(self._source.spec), self._form):
            self._progress.warn(f"{name}: {slow}")
        key_of_hf = hf_key(key)
        key_of_onnx = onnx_key(key_of_hf, self._form)
        shrink = partial(
            write_shrunk_model,
            self._source,
            plan,
            statistics,
            max_batch_tokens=self._batch_tokens,
        )
        self._layer_by_layer(f"{name}/hf", key_of_hf, f"{name}: shrinking", shrink)
        convert = partial(convert_folder, folder / "hf", form=self._form)
        self._layer_by_layer(f"{name}/onnx", key_of_onnx, f"{name}: writing ONNX", convert)
        return self._describe(name, plan, key_of_onnx, self._parity(name, key_of_onnx, statistics))

    def _warn_of_few_tokens(self, name: str, plan: Plan, statistics: Mixture) -> None:
        channels = _refitted_channels(plan, self._source.spec)
        if statistics.effective_tokens < channels:
            self._progress.warn(
                f"{name}: {statistics.effective_tokens:.0f} calibration tokens for {channels} channels; "
                "the refit depends on its ridge; use more calibration texts (samples)"
            )

    def _layer_by_layer(self, step: str, key: str, label: str, make: Callable[..., None]) -> None:
        if self._workspace.is_done(step, key):
            return
        with (
            self._progress.step(label, len(self._source.spec.layers), name=step) as advance,
            self._workspace.writing(step, key, folder=True) as folder,
        ):
            make(folder, on_layer=advance)

    def _parity(self, name: str, key_of_onnx: str, statistics: Mixture) -> dict[str, Any]:
        settings = self._parity_settings
        folder = self._workspace.folder / name
        prompts = held_out_prompts(list(statistics.calibrations.values()), settings.prompts)
        key = parity_key(key_of_onnx, settings, prompts)
        if self._workspace.is_done(f"{name}/parity.json", key):
            self._progress.say(f"{name}: reused")
        else:
            label = f"{name}: comparing ONNX Runtime with torch"
            with self._progress.step(label, name=f"{name}/parity.json") as advance:
                report = check_parity(folder, prompts, settings, advance)
            with self._workspace.writing(f"{name}/parity.json", key, folder=False) as path:
                write_report(report, path)
        return read_artifact(folder / "parity.json")

    def _describe(self, name: str, plan: Plan, key_of_onnx: str, parity: dict[str, Any]) -> dict[str, Any]:
        files = self._workspace.manifest.files
        spec = plan.shrunk_spec(self._source.spec)
        return {
            "task": plan.task,
            "weights": dict(plan.weights),
            "method": plan.method,
            "requested_ratio": plan.requested_ratio,
            "achieved_ratio": plan.achieved_ratio,
            "num_parameters": spec.num_parameters(),
            "precision": self._form.precision.name,
            "bytes": {
                part: sum(entry["bytes"] for path, entry in files.items() if path.startswith(f"{name}/{part}/"))
                for part in ("hf", "onnx")
            },
            "parity": {
                key: parity[key] for key in ("verdict", "failure", "max_abs", "top1_agreement", "mean_kl_nats")
            },
            "quality": settled_quality(self._workspace, name, key_of_onnx),
        }


def _refitted_channels(plan: Plan, dense: ModelSpec) -> int:
    """Input channels of the widest projection that is refitted to the calibration tokens; 0 if none is."""
    if plan.compensation not in ("one-shot", "sequential"):
        return 0
    widths = [
        {"o_proj": len(layer.heads) * dense.head_dim, "down_proj": len(layer.neurons)}[half]
        for layer, halves in zip(plan.layers, plan.compensated(dense), strict=True)
        for half in halves
    ]
    return max(widths, default=0)
