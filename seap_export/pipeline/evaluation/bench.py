"""Times variants and their dense model, starting from the files of an export."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

from converters.format import Format
from converters.formats import format_class, row_of
from seap_export.common.checksums import shipped_bytes
from seap_export.common.providers import OWN_RUNTIME
from seap_export.errors import ArtifactError, UsageError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.open import open_source
from seap_export.pipeline.evaluation.bench_request import BenchRequest, default_depths, refuse_long_prompts
from seap_export.pipeline.folder.contents import Export, FormatFolder, Variant, open_folder
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.names import HF
from seap_export.pipeline.folder.origin import refuse_another_model
from seap_export.pipeline.progress import Progress, Silent
from seap_export.runtime.doctor.machine import processor
from seap_export.runtime.providers import device_name
from seap_export.runtime.session import probe
from validation.runtimes.table import REFERENCE, claim_runtime, require_runtime, with_providers
from validation.session_memory import Calls
from validation.speed.engines import EngineName, open_engine
from validation.speed.ideal import ModelWork, model_work
from validation.speed.measure import SpeedCell, measure_speed
from validation.speed.memory import PeakMemory, peak_memory
from validation.speed.report import DENSE, SpeedReport, SubjectFigures

_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "seap-export")


@dataclass(frozen=True)
class Other:
    """The dense model in another format than the variants, which is timed beside them."""

    name: str
    folder: Path
    format: Format | None


@dataclass(frozen=True)
class _Model:
    """The folders of a model: of transformers, and of each engine with its format; None: torch runs that of `hf`."""

    name: str
    hf: Path
    folders: Mapping[EngineName, Path]
    formats: Mapping[EngineName, Format | None]

    @property
    def spec(self) -> ModelSpec:
        return read_spec(self.hf)


def bench(paths: Sequence[str], dense: str, request: BenchRequest, progress: Progress | None = None) -> SpeedReport:
    """Times variants and their dense model in turn, one model in memory at a time.

    Files of other forms than the requested, or than the first variant's if none is requested and it was written for
    the provider, are written again, into a temporary folder.

    Args:
        paths: Output folders of `export`, or variants' folders.
        dense: The dense model of the variants.
        request: Prompt lengths, batch sizes, engines and formats.
        progress: Receives progress messages.

    Raises:
        UsageError: A path is not a variant, or a prompt is longer than the model's context.
        InputError: A variant was made from another model.
        ArtifactError: A variant is damaged.
        EnvironmentFailure: The provider is not available on this machine.
    """
    progress = progress or Silent()
    for engine in request.engines:
        if engine != REFERENCE:
            require_runtime(engine)
    if with_providers(request.engines):
        probe(request.provider)
    variants = _variants(paths)
    request = replace(request, formats=(*request.formats, *_written_for(request.provider, variants)))
    source = open_source(dense)
    for variant in variants:
        if not variant.config_file.is_file():
            raise ArtifactError(f"{variant.path}: hf is missing; export the variant again")
        refuse_another_model(source, variant.plan, variant.name)
    request = replace(request, depths=request.depths or default_depths(source.spec, request.steps))
    refuse_long_prompts(source.spec, request)
    progress.say(f"opening {source.name}")
    with dense_folder(source) as folder:
        return time_variants(variants, folder, request, progress)


def time_variants(
    variants: Sequence[Variant],
    dense: Path,
    request: BenchRequest,
    progress: Progress,
    others: Sequence[Other] = (),
) -> SpeedReport:
    """Times variants and their dense model in turn, after all checks.

    A variant's folder that has the request's format is timed as it is; others are written to a temporary folder.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        models = [_model(DENSE, dense, (), Path(scratch), request, progress)]
        models += [
            _model(variant.name, variant.hf, tuple(variant.folders.values()), Path(scratch), request, progress)
            for variant in variants
        ]
        models += [
            _Model(
                other.name,
                dense,
                dict.fromkeys(request.engines, other.folder),
                {engine: other.format or request.written(engine) for engine in request.engines},
            )
            for other in others
        ]
        figures = _measure(models, request, progress)
    return SpeedReport(figures, request.cells, _setting(request))


def _variants(paths: Sequence[str]) -> list[Variant]:
    variants = [variant for path in paths for variant in _variants_at(Path(os.path.expanduser(path)))]
    names = [variant.name for variant in variants]
    twice = next((name for name in names if names.count(name) > 1 or name == DENSE), None)
    if twice:
        raise UsageError(f"'{twice}' is given more than once; give each variant once")
    return variants


def _variants_at(path: Path) -> Sequence[Variant]:
    contents = open_folder(path)
    if isinstance(contents, Export):
        return contents.variants
    if contents is not None and contents.hf.is_dir():
        return [Variant(path.resolve())]
    raise UsageError(f"{path} is not a variant; give an output folder of 'seap-export export' or a variant in it")


def _model(
    name: str, hf: Path, exported: Sequence[FormatFolder], scratch: Path, request: BenchRequest, progress: Progress
) -> _Model:
    """A model's folders: those that there are in the right form, and for the others new ones.

    Bits for each matrix are chosen with texts: there may be other ones, and a new folder has the same bits for all.
    """
    folders, formats = dict[EngineName, Path](), dict[EngineName, Format | None]()
    for engine in request.engines:
        format = request.written(engine)
        if format is None:
            folders[engine], formats[engine] = hf, None
            continue
        known = _of_format(format, exported)
        if known is None:
            uniform = format.uniform()
            known = _of_format(uniform, exported) or (_converted(uniform, name, hf, scratch, progress), uniform)
        folders[engine], formats[engine] = known
    return _Model(name, hf, folders, formats)


def _of_format(format: Format, exported: Sequence[FormatFolder]) -> tuple[Path, Format] | None:
    """The folder that an export has written in exactly this format, or else with other bits for each matrix."""
    found = []
    for folder in exported:
        with suppress(ArtifactError):
            found.append((folder.path, folder.format))
    exact = [one for one in found if one[1] == format]
    mixed = [one for one in found if one[1].name == format.name and None not in (format.average, one[1].average)]
    return next(iter(exact + mixed), None)


def _written_for(provider: str, variants: Sequence[Variant]) -> tuple[Format, ...]:
    """The first format of a variant that was written for an execution provider; empty: there is none."""
    for folder in (folder for variant in variants for folder in variant.folders.values()):
        with suppress(ArtifactError):
            if folder.format.provider == provider:
                return (folder.format,)
    return ()


def _converted(format: Format, name: str, hf: Path, scratch: Path, progress: Progress) -> Path:
    folder = scratch / name / format.name
    if not folder.is_dir():
        folder.mkdir(parents=True)
        progress.say(f"{name}: writing {row_of(format).title} in {format.precision}")
        format.write(hf, folder, lambda layer: None)
    return folder


def _measure(models: Sequence[_Model], request: BenchRequest, progress: Progress) -> list[SubjectFigures]:
    subjects = [(model, engine) for model in models for engine in request.engines]
    openers = {
        f"{model.name} {engine}": partial(
            open_engine, engine, model.folders[engine], model.spec.max_position_embeddings, request.execution
        )
        for model, engine in subjects
    }
    calls = [Calls(cell.batch, cell.depth, cell.depth + request.steps) for cell in request.cells]
    for model, engine in subjects:
        if engine != REFERENCE:
            claim_runtime(engine, model.folders[engine], calls, request.execution, progress.say, can_map=False)
    label = f"timing {', '.join(model.name for model in models)}"
    with progress.step(label, request.runs * len(openers), "runs", name="speed") as advance:
        timings = measure_speed(
            openers,
            request.cells,
            vocab_size=min(model.spec.vocab_size for model in models),  # all are given the same tokens
            runs=request.runs,
            steps=request.steps,
            on_progress=advance,
        )
    nothing = PeakMemory(None, None)
    peaks = [_peak(*subject, request, progress) if request.memory else nothing for subject in subjects]
    return [
        SubjectFigures(
            model=model.name,
            engine=engine,
            disk_bytes=shipped_bytes(model.folders[engine]),
            peak_bytes=peak.host,
            gpu_bytes=peak.gpu,
            timings=timings[f"{model.name} {engine}"],
            works={cell: _work(model, engine, cell) for cell in timings[f"{model.name} {engine}"]},
        )
        for (model, engine), peak in zip(subjects, peaks, strict=True)
    ]


def _peak(model: _Model, engine: EngineName, request: BenchRequest, progress: Progress) -> PeakMemory:
    progress.say(f"{model.name}: peak memory on {engine}")
    context = model.spec.max_position_embeddings
    return peak_memory(engine, model.folders[engine], context, request.execution, request.cells[0])


def _work(model: _Model, engine: EngineName, cell: SpeedCell) -> ModelWork:
    format = model.formats[engine] or format_class(HF)("fp32")
    last_logits = format.gives_last_logits
    return model_work(model.spec, format.arithmetic, cell.batch, cell.depth, last_logits=last_logits)


def _form(request: BenchRequest) -> dict[str, object]:
    """The settings of the format that our own runtime is timed with; empty if it is not timed."""
    format = request.written(OWN_RUNTIME)
    return {} if format is None else {key: value for key, value in format.settings().items() if key != "version"}


def _setting(request: BenchRequest) -> dict[str, object]:
    installed = {name.metadata["Name"] for name in metadata.distributions()}
    return {
        "provider": request.provider,
        "threads": request.execution.thread_count,
        "runs": request.runs,
        "steps": request.steps,
        "form": _form(request),
        "machine": {
            "processor": processor(),
            "gpu": device_name(request.provider),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: metadata.version(name) for name in _PACKAGES if name in installed},
    }
