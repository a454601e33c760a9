"""Figures of an export: reads the inputs, and writes the figures and their numbers into one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seap_export.common.extras import install_remedy
from seap_export.common.json_file import read_artifact, read_json, write_json
from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, UsageError
from seap_export.model.families import ModelSpec, dense_config, model_spec
from seap_export.pipeline.folder.contents import Export, Variant, open_folder
from seap_export.pipeline.folder.names import PLAN
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.plots.data import (
    DrawnVariant,
    Overlap,
    Removed,
    by_ratio,
    kinds_of,
    number_kept,
    overlap,
    removed_by_layer,
)
from seap_export.pipeline.plots.quality import QualityPoint, parse_evaluation, refuse_incomparable, series_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS_FILE, _VALIDATION = "plots.json", "validation.json"
PLOTS_SCHEMA = "seap-export/plots/1"
PictureFormat = Literal["svg", "png"]


def require_matplotlib() -> None:
    """Checks, before any work, that matplotlib is installed.

    Raises:
        EnvironmentFailure: It is not installed or cannot be imported.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise EnvironmentFailure(
            f"matplotlib, which draws the figures, is missing; {install_remedy('plots')}"
        ) from error


def read_variants(paths: Sequence[Path]) -> tuple[DrawnVariant, ...]:
    """Reads the variants at some paths, each once.

    Args:
        paths: Export folders (all finished variants in the order of the manifest), variant folders, plan.json files.

    Raises:
        ArtifactError: A plan or the config.json of its pruned model is missing, damaged or belongs to another model.
        InputError: A path is none of these.
        UsageError: Two variants have the same name, or belong to different models.
    """
    folders = {variant.path.resolve(): variant for path in paths for variant in _variants_at(path)}
    variants = tuple(map(_read_variant, folders.values()))
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two variants are called '{name}'; plot them into two folders, or rename one")
    for variant in variants[1:]:
        if variant.plan.source_sha256 != variants[0].plan.source_sha256 or variant.dense != variants[0].dense:
            raise UsageError(
                f"{variants[0].name} and {variant.name} belong to different models "
                f"('{variants[0].plan.source_name}', '{variant.plan.source_name}'); plot them into two folders"
            )
    return variants


def _variants_at(path: Path) -> Sequence[Variant]:
    contents = open_folder(path)
    if isinstance(contents, Export):
        if not contents.variants:
            raise ArtifactError(f"{path}: no variant is finished yet; run the export again to continue it")
        for variant in contents.variants:
            for file in (variant.plan_file, variant.config_file):
                for damage in contents.manifest.damages(path, file.relative_to(path).as_posix()):
                    raise ArtifactError(f"{damage}; export again with --force")
        return contents.variants
    if contents is not None:
        return [contents]
    if path.is_file() and path.name == PLAN:
        return [Variant(path.parent)]
    raise InputError(
        f"{path}: not an export, a variant's folder or a {PLAN}; give an output folder of 'seap-export export'"
    )


def _read_variant(variant: Variant) -> DrawnVariant:
    plan, config_file = variant.plan, variant.config_file
    if not config_file.is_file():
        raise ArtifactError(
            f"{config_file}, which describes the dense layers, is missing; make it with 'seap-export prune'"
        )
    config = read_artifact(config_file)
    try:
        pruned = model_spec(config)
        dense = model_spec(dense_config(config))
        if plan.vocabulary is not None:  # config.json names the kept tokens only
            dense = dense.with_tokens(plan.vocabulary.of)
    except InputError as error:
        raise ArtifactError(f"{config_file}: {error}") from error
    if _shapes(plan.shrunk_spec(dense)) != _shapes(pruned):
        raise ArtifactError(
            f"{variant.path}: {PLAN} and {config_file.relative_to(variant.path)} belong to different variants; run "
            "'seap-export prune' again"
        )
    return DrawnVariant(variant.path.resolve().name, plan, dense)


def _shapes(spec: ModelSpec) -> list[dict[str, int]]:
    return [layer.sizes for layer in spec.layers]


def read_recommended(paths: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    """What the reports of export folders recommend, by task or mixture: all files that were measured."""
    reports = [path / _VALIDATION for path in paths if isinstance(open_folder(path), Export)]
    told = [read_artifact(report).get("recommended") or {} for report in reports if report.is_file()]
    return {task: of_task for of_export in told for task, of_task in of_export.items()}


def read_evaluations(paths: Sequence[Path]) -> tuple[QualityPoint, ...]:
    """Reads evaluation reports, each file once.

    Raises:
        ArtifactError: A file is missing or not an evaluation report.
        UsageError: Reports of one task have different results for the dense model.
    """
    files = {path.resolve(): path for path in paths}
    points = tuple(_read_evaluation(path) for path in files.values())
    refuse_incomparable(points)
    return points


def _read_evaluation(path: Path) -> QualityPoint:
    try:
        report = read_json(path, "make a report with 'seap-export evaluate'")
    except InputError as error:
        raise ArtifactError(str(error)) from error
    return parse_evaluation(report, str(path))


def write_plots(
    variants: Sequence[DrawnVariant],
    points: Sequence[QualityPoint],
    out: Path,
    picture_format: PictureFormat,
    *,
    recommended: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Draws everything that the inputs allow into a new folder, with the numbers in plots.json.

    Args:
        points: Results of evaluations.
        out: Folder to create.
        recommended: What to ship for each task; see `read_recommended`.
        force: Replace a folder written by an earlier call.

    Returns:
        The content of plots.json.

    Raises:
        UsageError: `out` exists and must not be replaced.
    """
    from seap_export.pipeline.plots.figures import kept_figure, overlap_figure, sparsity_figure
    from seap_export.pipeline.plots.quality_figure import quality_figure
    from seap_export.pipeline.plots.size_figure import size_figure
    from seap_export.pipeline.plots.style import house_style, save

    removed = {variant.name: removed_by_layer(variant) for variant in variants}
    overlaps = {ratio: _overlaps(group) for ratio, group in by_ratio(variants).items() if len(group) > 1}
    pictures: list[str] = []

    with write_whole(out, marker=PLOTS_FILE, force=force) as folder, house_style():

        def add(name: str, figure: Figure) -> None:
            pictures.append(f"{name}.{picture_format}")
            save(figure, folder / pictures[-1])

        for ratio, group in by_ratio(variants).items():
            add(f"sparsity-{ratio:g}", sparsity_figure(group, [removed[variant.name] for variant in group]))
            if ratio in overlaps:
                add(f"overlap-{ratio:g}", overlap_figure(group, overlaps[ratio]))
        for task, of_task in (recommended or {}).items():
            add(f"size-{task}", size_figure(task, of_task))
        for variant in variants:
            add(f"kept-{variant.name}", kept_figure(variant))
        if points:
            add("quality", quality_figure(points))
        numbers = _numbers(variants, removed, overlaps, points, pictures)
        write_json(folder / PLOTS_FILE, numbers)
    return numbers


def _overlaps(group: Sequence[DrawnVariant]) -> dict[str, Overlap]:
    return {kind.unit: overlap(group, kind) for kind in kinds_of(group[0])}


def _numbers(
    variants: Sequence[DrawnVariant],
    removed: dict[str, Removed],
    overlaps: dict[float, dict[str, Overlap]],
    points: Sequence[QualityPoint],
    pictures: Sequence[str],
) -> dict[str, Any]:
    return {
        "schema": PLOTS_SCHEMA,
        "pictures": list(pictures),
        "variants": {
            variant.name: {
                "task": variant.plan.task,
                "requested_ratio": variant.plan.requested_ratio,
                "achieved_ratio": variant.plan.achieved_ratio,
                "removed": {**removed[variant.name].sublayers, "total": removed[variant.name].total},
                **{f"{kind.unit}_kept": number_kept(variant, kind) for kind in kinds_of(variant)},
            }
            for variant in variants
        },
        "overlap": {
            f"{ratio:g}": {part: vars(shared) for part, shared in parts.items()} for ratio, parts in overlaps.items()
        },
        "quality": [{"series": name, **vars(point)} for point, name in zip(points, series_names(points), strict=True)],
    }
