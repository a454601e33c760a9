"""Errors for targets that cannot be met, before any work or after the search, and warnings for close calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from seap_export.errors import QualityFailure, SeapError, SpeedFailure, UsageError
from seap_export.model.families import ModelSpec
from seap_export.pipeline.budget.baseline import baseline_format, longest_prompt, prompts_of, timed_depth
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.targets.candidate import Candidate, Point, ways
from seap_export.pipeline.targets.first_token import FirstToken
from seap_export.pipeline.targets.frontier import Frontier
from seap_export.pipeline.targets.targets import Targets
from seap_export.pruning.plan.sublayers import smallest_layer

#: A time is out of reach if it is predicted to be missed by this factor: predictions are rough, and machines busy.
_SURELY = 10.0
#: What standard errors are over.
_TEXTS = "held-out texts"


def refuse_unreachable(spec: ModelSpec, request: ExportRequest) -> None:
    """Refuses targets that no ratio reaches in any format, before any work."""
    targets, plan = request.targets, request.plan
    assert targets is not None
    curve = plan.sparsity.curve(len(spec.layers))
    smallest = spec.with_layers(
        tuple(
            smallest_layer(spec, layer, plan.align, plan.layout) if share > 0.0 else layer
            for layer, share in zip(spec.layers, curve, strict=True)
        )
    )
    for tokens in request.timed_prompts:
        most = longest_prompt(spec, request)
        if tokens > most:
            raise UsageError(
                f"{FirstToken.name} is out of reach: a prompt of {tokens} tokens and the steps after it exceed the "
                f"model's context of {spec.max_position_embeddings}; give at most {most} tokens"
            )
    baseline, depth = baseline_format(request.formats), timed_depth(spec, request)
    prompts = prompts_of(request)
    least = Predictor(lambda way: _cut(smallest, way) if way.ratio else spec, 0.5, baseline, depth, None, prompts)
    ends = [replace(way.smallest, ratio=0.5) for way in ways(request.formats, request.vocabulary)]
    if targets.size is not None and targets.size < min(map(least.bytes, ends)):
        end = min(ends, key=least.bytes)
        raise UsageError(
            f"--target-size {_size(targets.size)} is out of reach: even without everything that can be removed, "
            f"the weights take {_size(least.bytes(end))} in {end.label}; give a larger size"
        )
    fastest = max(map(least.ideal_speedup, ends))
    if targets.decode_speedup is not None and targets.decode_speedup > fastest:
        raise UsageError(
            f"--target-decode-speedup {targets.decode_speedup:g} is out of reach: a decode step would have to read "
            f"fewer bytes than what cannot be removed, which allows {fastest:.2f}; give a lower speed-up"
        )
    if targets.first_token is not None:
        soonest = max(map(least.prompt_time, ends), key=targets.first_token.margin)
        if targets.first_token.margin(soonest) * _SURELY < 1.0:
            raise UsageError(
                f"{FirstToken.name} is out of reach: even without everything that can be removed, this machine would "
                f"need about {soonest.ms:.3g} ms for a prompt of {targets.first_token.tokens} tokens "
                f"({soonest.speedup:.2g} times as fast as the dense model); give a longer time or a shorter prompt"
            )


def _cut(spec: ModelSpec, candidate: Candidate) -> ModelSpec:
    """The fewest tokens that a candidate may keep, before its texts are read."""
    kept = {"all": spec.vocab_size, "auto": 1}.get(str(candidate.vocabulary), candidate.vocabulary)
    return spec.with_tokens(int(kept))


def nothing_fits(targets: Targets, tasks: Mapping[str, Frontier]) -> SeapError | None:
    """The error about tasks without a choice, with the nearest candidates; None: each has a choice.

    It has the exit code of the first such task: 2 if nothing is small enough, 5 if all that is small enough is too
    slow, 4 if the rest is too far from the dense model.
    """
    unmet = {name: frontier for name, frontier in tasks.items() if frontier.chosen is None}
    failures = [_failure(targets, name, frontier) for name, frontier in unmet.items()]
    if not failures:
        return None
    kind = failures[0][0]
    return kind("; ".join(text for _, text in failures))


def close_calls(targets: Targets, tasks: Mapping[str, Frontier]) -> Iterator[str]:
    """A line for each figure of a chosen variant that is too close to its target to tell."""
    chosen = [
        (name, point)
        for name, frontier in tasks.items()
        for point in frontier.points
        if point.candidate == frontier.chosen
    ]
    for task, point in chosen:
        name, limit, wanted = _name(task, point.candidate), targets.max_kl, targets.decode_speedup
        if limit is not None and (close := point.figures.kl.close_words(limit, _TEXTS)):
            yield f"{name}: KL {point.figures.kl.mean:.4g} is within --max-kl {limit:g}; {close}"
        if wanted is not None and point.interval is not None and point.interval.low < wanted:
            yield (
                f"{name}: decode speed-up {_speed(point)} reaches --target-decode-speedup {wanted:g}; its interval "
                "does not, so this is too close to tell; time it again with 'seap-export bench'"
            )
        sooner, prompt = targets.first_token, point.prompt
        if sooner is not None and prompt is not None and not sooner.surely(prompt):
            yield (
                f"{name}: {prompt.words} meets {FirstToken.name}; its interval does not, so this is too close to "
                "tell; time it again with 'seap-export bench'"
            )


def _failure(targets: Targets, task: str, frontier: Frontier) -> tuple[type[SeapError], str]:
    points = frontier.points
    if not points:
        return QualityFailure, f"{task}: no candidate could be made and run; see the warnings"
    small = [point for point in points if targets.size is None or point.figures.bytes <= targets.size]
    margins = {id(point): targets.margins(_speedup(point), point.prompt) for point in small}
    fast = [point for point in small if min(margins[id(point)].values(), default=1.0) >= 1.0]
    if not small:
        nearest = min(points, key=lambda point: point.figures.bytes)
        line = _line(targets, task, nearest, "is small enough", "--target-size")
        if frontier.smallest_bytes is not None:
            line += (
                f"; even without everything that can be removed, it would take about {_size(frontier.smallest_bytes)}"
            )
        return UsageError, line
    if not fast:
        nearest = max(small, key=lambda point: min(margins[id(point)].values()))
        of_nearest = margins[id(nearest)]
        slowest = min(of_nearest, key=lambda name: of_nearest[name])
        line = _line(targets, task, nearest, "is fast enough", slowest)
        if slowest == FirstToken.name and frontier.soonest_ms is not None:
            line += f"; even without everything that can be removed, it would take about {frontier.soonest_ms:.3g} ms"
        return SpeedFailure, line
    nearest = min(fast, key=lambda point: point.figures.kl.mean)
    line = _line(targets, task, nearest, "is near enough to the dense model", "--max-kl")
    close = "" if targets.max_kl is None else nearest.figures.kl.close_words(targets.max_kl, _TEXTS)
    return QualityFailure, f"{line}; {close}" if close else line


def _speed(point: Point) -> str:
    """The measured speed-up and its interval, as text."""
    interval = "" if point.interval is None else f" ({point.interval.low:.2f} to {point.interval.high:.2f})"
    return f"{point.speedup:.2f}{interval}"


def _speedup(point: Point) -> float:
    return point.ideal_speedup if point.speedup is None else point.speedup


def _line(targets: Targets, task: str, nearest: Point, what: str, option: str) -> str:
    limits = []
    if targets.size is not None:
        limits.append(f"at most {_size(targets.size)}")
    if targets.decode_speedup is not None:
        limits.append(f"decode speed-up at least {targets.decode_speedup:g}")
    if targets.first_token is not None:
        limits.append(targets.first_token.words)
    if targets.max_kl is not None:
        limits.append(f"KL at most {targets.max_kl:g}")
    others = " or another target" * (len(limits) > 1 and option != "--target-size")  # no other makes a file smaller
    figures = nearest.figures
    speed = "" if nearest.speedup is None else f", decode speed-up {_speed(nearest)}"
    speed += "" if nearest.prompt is None else f", {nearest.prompt.words}"
    error = "" if figures.kl.stderr is None else f" +- {figures.kl.stderr:.2g}"
    lost = f" ({figures.lost_kl:.3f} of it for dropped tokens)" if figures.lost_kl else ""
    return (
        f"{task}: nothing {what} ({', '.join(limits)}); {_name(task, nearest.candidate)} comes nearest: "
        f"{_size(figures.bytes)}, KL {figures.kl.mean:.3f}{error}{lost}{speed}; change {option}{others}"
    )


def _name(task: str, candidate: Candidate) -> str:
    return f"{variant_name(task, candidate.ratio)} in {candidate.label}"


def _size(number: float) -> str:
    return f"{number / 1e6:.3g} MB" if number >= 1e6 else f"{number / 1e3:.3g} kB"
