"""The model card of a variant: README.md as the Hugging Face hub shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converters.formats import FORMATS, format_name
from seap_export.model.families import ModelSpec
from seap_export.model.sources.metadata import ModelMetadata
from seap_export.model.sources.source import Source
from seap_export.pipeline.card.recipe import RECIPE
from seap_export.pipeline.card.whole import whole_lines
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.manifest import Manifest
from seap_export.pipeline.request.measured import measured_title
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.sublayers import kinds_in, whole_words
from validation.reports.elsewhere import loss_table
from validation.reports.figures import QUALITY, SPEED
from validation.reports.markdown import markdown_table
from validation.reports.numbers import count, figure, megabytes, percent
from validation.runtimes.runner import Figure
from validation.runtimes.table import RUNTIMES, runtime_title

_HUB = "https://huggingface.co"
_TAGS = ("seap-export", "pruned")
_USAGE = "How to run it"


@dataclass(frozen=True)
class CalibrationText:
    """The texts of a task that a variant was fitted to.

    Attributes:
        sha256: The digest of the sorted digests of the texts.
    """

    given_as: str
    sha256: str


@dataclass(frozen=True)
class CardFacts:
    """The data that a card is made from; none of it, such as a time, differs from run to run.

    Attributes:
        model: The dense model's name, as `export` takes it.
        metadata: Metadata of the dense model, such as its licence.
        recommended: Which of these and of the variant's folders to ship, in words; "": nothing was measured.
    """

    source: Source
    model: str
    metadata: ModelMetadata
    variant: Variant
    entry: Mapping[str, Any]
    manifest: Manifest
    texts: Mapping[str, CalibrationText]
    datasets: Sequence[str]
    needed: Sequence[str]
    whole: Sequence[Mapping[str, Any]] = ()
    recommended: str = ""
    dense_bytes: Mapping[str, int] = field(default_factory=dict)


def card_text(facts: CardFacts) -> str:
    """The card, with the metadata of the hub as YAML before the text."""
    sections = {
        "": _introduction,
        "What was removed": _removed,
        "Size and parity": _formats,
        "Quality": _quality,
        "Quality on other texts": _elsewhere,
        _USAGE: _usage,
        "Calibration data": _calibration,
        "Made with": _made,
    }
    parts = [f"---\n{_front_matter(facts)}\n---"]
    for title, lines in sections.items():
        text = "\n".join(lines(facts))
        if text:
            parts.append(f"## {title}\n\n{text}" if title else text)
    return "\n\n".join(parts) + "\n"


def with_speed(card: str, speed: Mapping[str, Any]) -> str:
    """Adds the speed-ups, which differ from run to run, before the section on how to run the variant."""
    cells = {row.head: row.cell({"speed": speed}) for row in SPEED}
    rows = [[title, f"{cell.main}×", "<br>".join(cell.details)] for title, cell in cells.items()]
    words = f"Speed-up of {measured_title(speed)} over that of the dense model, timed on the machine of the export:"
    section = "\n".join(["## Speed", "", words, "", markdown_table(["", "", ""], rows)])
    return card.replace(f"\n## {_USAGE}\n", f"\n{section}\n\n## {_USAGE}\n", 1)


def _front_matter(facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    said = facts.metadata
    data = ModelCardData(
        base_model=_one_or_list(said.base_model),
        base_model_relation="finetune" if said.base_model else None,
        datasets=list(facts.datasets) or None,
        language=_one_or_list(said.languages),
        library_name="transformers",
        license=said.license,
        license_name=said.license_name,
        license_link=said.license_link,
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys((*said.tags, *_TAGS))),
    )
    return str(data.to_yaml()).strip()


def _one_or_list(values: tuple[str, ...]) -> str | list[str] | None:
    return list(values) if len(values) > 1 else next(iter(values), None)


def _introduction(facts: CardFacts) -> Iterator[str]:
    entry, dense = facts.entry, facts.manifest.source
    name, noun = " ".join(facts.model.split()), "task" if len(facts.texts) == 1 else "tasks"
    yield f"# {name}, pruned for {entry['task']}"
    yield ""
    source = facts.source
    commit = f"/tree/{source.revision}" if source.revision else ""
    origin = f"[{name}]({_HUB}/{source.hub_id}{commit})" if source.hub_id else name
    if entry["num_parameters"] == dense.get("num_parameters"):
        yield f"This is {origin} with all of its {count(entry['num_parameters'])} parameters."
        return
    pruned = " and ".join(kind.name for kind in kinds_in(layer.sizes for layer in facts.variant.plan.layers))
    yield (
        f"This is {origin} with {percent(entry['achieved_ratio'])} of the weights of its {pruned} "
        f"projections removed; it has {count(entry['num_parameters'])} parameters instead of "
        f"{count(dense.get('num_parameters'))}. It was fitted to texts of the {noun} {_list(facts.texts)}. Use it for "
        "texts like these only, and expect it to be worse on others."
    )


def _removed(facts: CardFacts) -> Iterator[str]:
    plan, dense = facts.variant.plan, facts.source.spec
    yield markdown_table(
        ["", "kept", "of", "per layer"],
        [
            *(
                _kept(words, plan, dense, size)
                for kind in kinds_in(layer.sizes for layer in plan.layers)
                for size, (_, words) in kind.size_words.items()
            ),
            *(
                []
                if plan.vocabulary is None
                else [["tokens", f"{len(plan.vocabulary):,}", f"{plan.vocabulary.of:,}", ""]]
            ),
        ],
    )
    for line in whole_words(dense):
        yield ""
        yield f"{line[0].upper()}{line[1:]}."
    yield ""
    fitted = {
        "sequential": "What is left was refitted layer by layer",
        "one-shot": "What is left was refitted",
        "bias": "Biases make up for the mean of what was removed",
        "none": "What is left is unchanged",
    }[plan.settings.compensation]
    distilled = " and distilled from the dense model" if plan.settings.distillation else ""
    yield f"Recipe: `{plan.method}`, layout `{plan.settings.layout}`. {fitted}{distilled}."


def _kept(title: str, plan: Plan, dense: ModelSpec, size: str) -> list[str]:
    kept = [layer.sizes[size] for layer in plan.layers if size in layer.sizes]
    whole = sum(layer.sizes.get(size, 0) for layer in dense.layers)
    least, most = min(kept), max(kept)
    return [title, f"{sum(kept):,}", f"{whole:,}", f"{least:,}" if least == most else f"{least:,} to {most:,}"]


def _formats(facts: CardFacts) -> Iterator[str]:
    rows, spec = [], facts.variant.spec
    for name, size in facts.entry["bytes"].items():
        format = facts.variant.folders[name].format
        dense = megabytes(facts.dense_bytes[name])
        parity = facts.entry["parity"].get(name)
        compared = "" if parity is None else _parity(parity)
        rows.append(
            [f"`{name}`", f"{FORMATS[format.name].title}, {format.precision}", megabytes(size), dense, compared]
        )
    yield markdown_table(["folder", "format", "size", "size of the whole model", "compared with torch"], rows)
    if facts.entry["parity"]:
        yield ""
        yield (
            "Each format was run in its own runtime, and its logits were compared with those of torch, which computed "
            "with the weights that the format stores. In int8 and int4, runtimes may round activations, too. KL is "
            f"the mean of the worst prompt in nats per token and includes this rounding, but not for {_exact('kl')}. "
            f"The difference of a logit does not include it for {_exact('difference')}."
        )
    for remark in dict.fromkeys(folder.format.remark(spec) for folder in facts.variant.folders.values()):
        if remark is not None:
            yield f"\n- {remark}"


def _exact(what: Figure) -> str:
    """The runtimes whose rounding of activations a figure of parity does not show."""
    *others, last = [runtime_title(name) for name, row in RUNTIMES.items() if what not in row.shows_rounding]
    return f"{', '.join(others)} and {last}" if others else last


def _parity(parity: Mapping[str, Any]) -> str:
    words = f"{parity['verdict']} in {runtime_title(parity['runtime'])}"
    if parity["max_abs"] is None:
        return words
    return f"{words}: logits differ by at most {figure(parity['max_abs'])}, KL {figure(parity['mean_kl_nats'])}"


def _quality(facts: CardFacts) -> Iterator[str]:
    quality = facts.entry["quality"]
    if quality is None:
        yield "Not measured."
        return
    yield (
        f"{_capital(measured_title(quality))}, compared with the dense model on texts that were held out from "
        "calibration. KL is the Kullback-Leibler divergence of the next token's distribution, in nats per token; the "
        "number after ± is a standard error over the texts."
    )
    yield ""
    cells = {row.head: row.cell({"quality": quality}) for row in QUALITY}
    yield markdown_table(
        ["", "", ""], [[title, cell.main, "<br>".join(cell.details) or cell.brief] for title, cell in cells.items()]
    )
    yield from whole_lines(facts.whole)
    if facts.recommended:
        yield ""
        yield f"**What to ship**, of this variant and the whole model: {facts.recommended}"


def _elsewhere(facts: CardFacts) -> Iterator[str]:
    losses = loss_table({facts.entry["task"]: facts.entry["quality"]})
    if losses is None:
        return
    ((_, *cells),), (_, *names) = losses.rows, losses.head
    yield f"{losses.caption}. Bits per byte are what a model needs to predict the texts."
    yield ""
    number = len(names) // 2
    rows = zip(names[:number], cells[:number], cells[number:], strict=True)
    yield markdown_table(["texts", "KL", "bits per byte"], [list(map(str, row)) for row in rows])


def _usage(facts: CardFacts) -> Iterator[str]:
    yield (
        "Run this in the folder that holds `hf`. On the Hugging Face hub, the files of `hf` are at the top of the "
        "repository: write the repository's name instead of `hf`, and download it to use the other folders."
    )
    for name in facts.entry["bytes"]:
        row = FORMATS[format_name(name)]
        yield f"\n`{name}` ({row.title}):\n"
        yield row.usage.replace("FOLDER", name).rstrip()


def _calibration(facts: CardFacts) -> Iterator[str]:
    rows = []
    for task, text in facts.texts.items():
        known, weight = facts.manifest.tasks[task], facts.entry["weights"][task]
        answers = ", answered by the dense model" if "answers" in known else ""
        numbers = [f"{known[key]:,}" for key in ("calibration_texts", "calibration_tokens")]
        rows.append([f"`{task}`", f"{weight:g}", f"`{text.given_as}`{answers}", *numbers, f"`{text.sha256}`"])
    yield markdown_table(["task", "weight", "source", "texts", "tokens", "SHA-256 of their list of SHA-256"], rows)


def _made(facts: CardFacts) -> Iterator[str]:
    yield ", ".join(f"{package} {version}" for package, version in facts.manifest.versions.items()) + "."
    yield ""
    yield f"In a folder with {_list(facts.needed)}, this makes the same variant again:"
    yield ""
    yield f"```sh\nseap-export export --config {RECIPE} --out pruned\n```"
    yield ""
    yield f"The SHA-256 of the dense model is `{facts.source.digest}`."
    if facts.metadata.licence_files:
        names = ", ".join(f"[{name}]({name})" for name in facts.metadata.licence_files)
        yield f"\nThe dense model's licence also applies to this variant: {names}."


def _list(names: Iterable[str]) -> str:
    """Joins names as `a`, `b` and `c`."""
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} and {last}" if others else last


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
