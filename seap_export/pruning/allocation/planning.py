"""From a ranking to a plan: by the predicted losses alone, or by the best of the plans that were tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from seap_export.model.layers.compute import Compute
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.allocation.search import TrialLog, directions, multipliers, search
from seap_export.pruning.allocation.texts import draw_texts
from seap_export.pruning.allocation.trials import Trials
from seap_export.pruning.plan.make import plan_variant
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.ranked import Ranking
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.plan.sublayers import whole_words

_LOG = "trials.jsonl"


def choose_plan(
    source: Source,
    statistics: TaskMixture,
    ranking: Ranking,
    settings: PlanSettings,
    ratio: float,
    folder: Path,
    on_trial: Callable[[object], None] = lambda trial: None,
    *,
    vocabulary: Vocabulary | None = None,
    compute: Compute,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """The plan of one variant.

    With `trials` in the settings, plans of other sensitivities are tried as well: each is refitted on some calibration
    texts, and the plan with the least divergence on others is taken.

    Args:
        source: The dense model.
        ranking: `rank` of the same statistics and settings.
        ratio: Fraction to remove.
        folder: An existing folder for what is needed to go on after an interruption.
        on_trial: Called after each trial.
        vocabulary: The tokens that are kept; None: all.
        say: Called with a line about the result.
    """

    for line in whole_words(source.spec) if ratio else ():
        say(line)
    if ratio and settings.passes and not settings.passes_over(statistics.num_tokens):
        say(
            f"not distilled: {statistics.num_tokens} calibration tokens, fewer than min_tokens = {settings.min_tokens}"
        )

    def at(steps: Mapping[str, float]) -> Plan:
        weighted = ranking.weighted(multipliers(len(source.spec.layers), steps))
        return plan_variant(source, statistics, weighted, settings, ratio, vocabulary)

    texts = draw_texts(statistics) if settings.tried and ratio else None
    if settings.tried and ratio and texts is None:
        say("too few calibration texts to try plans on")
    if texts is None:
        return at({})
    log, trials = TrialLog(folder / _LOG), list[Trials]()

    def divergence(steps: Mapping[str, float]) -> float:
        if not trials:
            trials.append(Trials(source, texts, folder, compute))
        return trials[0].divergence(at(steps))

    def measure(steps: Mapping[str, float]) -> float:
        value = log.next(lambda: divergence(steps))
        on_trial(None)
        return value

    best = search(tuple(directions(len(source.spec.layers))), lambda steps: at(steps).layers, measure, settings.tried)
    for _ in range(settings.tried - best.trials):
        on_trial(None)
    say(
        f"the best of {best.trials} plans has a KL of {best.after:.4f} instead of {best.before:.4f} nats "
        f"on {texts.judged_tokens:,} calibration tokens"
    )
    return at(best.steps)
