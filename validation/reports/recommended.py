"""The recommendation in one or two sentences, for the terminal, the page, the card and the job summary."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from validation.estimate import wilson
from validation.reports.document import Cell
from validation.reports.numbers import NOTHING, accuracy, figure, megabytes, milliseconds, percent, times, with_error
from validation.reports.reading import Json

#: Questions from which on right answers count: of 48, an interval of 95 in 100 is at most 28 points wide.
ENOUGH = 48
#: A model that is clearly less often right than this does not do its task.
_HALF = 0.5
#: Speeds that differ by less are called the same.
_ALIKE = 0.03


def in_words(found: Json, close: Collection[str] = ()) -> str:
    """The sentences on one task: what to ship and why, what else there is, and what was not measured.

    Args:
        found: The recommendation of a task as a report has it.
        close: The files whose KL is too close to that of the recommended one to tell which is nearer.
    """
    return " ".join(_sentences(found, close))


@dataclass(frozen=True)
class Answers:
    """The answers of several models to one held-out prompt."""

    task: str
    prompt: str
    answers: tuple[tuple[str, str], ...]


def command(report: Json, found: Json) -> str:
    """The command that makes the recommended file; "" if it is in the folder, or there is none."""
    row = (report.get("whole") or {}).get(found["file"] or "")
    return "" if row is None or row.get("folder") else str(row["command"])


def answers(report: Json) -> list[Answers]:
    """The answers of the dense model and of the variants to the same prompts, by task and prompt."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name, variant in report["variants"].items():
        if sample := (variant["quality"] or {}).get("sample"):
            of_prompt = found.setdefault((variant["task"], sample["prompt"]), {"Dense model": sample["dense"]})
            of_prompt[name] = sample["variant"]
    return [Answers(task, prompt, tuple(by_name.items())) for (task, prompt), by_name in found.items()]


def title(file: Json) -> str:
    """A file in words: where it lies, and that it is the whole model, if it is."""
    if not file["is_whole"]:
        return file["name"] if file["precision"] in file["folder"] else f"{file['name']} in {file['precision']}"
    where = "" if file["folder"] is None else f", {file['name']},"
    return f"the whole model{where} in {file['precision']}"


def _sentences(found: Json, close: Collection[str]) -> Iterator[str]:
    files = {file["name"]: file for file in found["files"]}
    asked = min((of["questions"] for file in files.values() for of in file["accuracy"].values()), default=ENOUGH)
    if asked < ENOUGH:
        yield f"{asked} questions are too few to tell files apart; ask more with --set held_out={ENOUGH}."
    if _by_answers(found):
        yield from _doubts(found)
    if found["file"] is None:
        near = files[found["nearest"]]
        yield f"Ship none of these files: none is within {_limits(found)}."
        best = "Right most often" if _by_answers(found) else "The nearest to the original"
        yield f"{best} is {_told(near, found)}."
    else:
        chosen = files[found["file"]]
        yield f"Ship {title(chosen)} ({_size_and_speed(chosen)}): {_why(found, files)}."
        yield from _close(found, files, close)
        if others := _others(found, files):
            yield others
    if _by_answers(found) and any(file["accuracy"] for file in files.values()):
        yield "Models that have not learnt the task were shown up to ten right answers before each question."
    if found["not_measured"]:
        yield f"Not measured: {', '.join(found['not_measured'])}."


def _doubts(found: Json) -> Iterator[str]:
    """What makes all files doubtful: that they cannot do a task, or that it needs no language model."""
    for task in dict.fromkeys(task for file in found["files"] for task in file["accuracy"]):
        of_task = [file["accuracy"][task] for file in found["files"] if task in file["accuracy"]]
        best = max(of_task, key=lambda of: float(of["share"]))
        right, number = round(best["share"] * best["questions"]), best["questions"]
        low, high = wilson(best["share"], number)
        simple = found.get("baselines", {}).get(task)
        if simple is not None and low <= simple["frequent"] / number:
            frequent = f"the most frequent answer alone has {simple['frequent']}"
            yield f"No file does {task}: the best has {right} of {number} right, and {frequent}."
        elif simple is None and high < _HALF:
            yield f"No file does {task}: the best has {right} of {number} right."
        if simple is not None and simple["linear"] / number >= low:
            linear = f"{simple['linear']} of {number} right"
            yield f"A linear classifier of n-grams of letters does {task} as well ({linear}), and needs no model."


def _why(found: Json, files: Json) -> str:
    chosen, beside = files[found["file"]], files.get(found["beside"] or "")
    kl = f"KL {_kl(chosen)}"
    if _by_answers(found):
        smallest = "smallest" if len(files) > 1 else "only"
        within = f" within {_limits(found)}" if _limits(found) else ""
        if found["rule"] == "limits":
            return f"the {smallest} file{within}{_compared(chosen, beside)}"
        return f"the {smallest} file{within} that is about as often right as the best{_compared(chosen, beside)}"
    if found["rule"] == "limits":
        return f"the smallest file within {_limits(found)}, with {kl}{_compared(chosen, beside)}"
    if found["rule"] == "nearest":
        fits = f" of those within {_limits(found)}" if _limits(found) else ""
        which = f"the nearest to the original{fits}" if len(files) > 1 else "the only file that was measured"
        return f"{which}, with {kl}{_compared(chosen, beside)}"
    if beside is None or chosen == beside:
        return f"no smaller file is as near to the original ({kl})"
    near = f"about as near to the original as {title(beside)} ({kl} instead of {_kl(beside)})"
    size, speed = _beside(chosen, beside)
    return f"{near}, at {size} of its size{f' and {speed} its speed' if speed else ''}"


def _compared(file: Json, beside: Json | None) -> str:
    """The size and the speed of a file as those of the whole model in 4 bits; "" if it is that, or there is none."""
    if beside is None or file == beside:
        return ""
    size, speed = _beside(file, beside)
    return f", at {size} of the size{f' and {speed} the speed' if speed else ''} of {title(beside)}"


def _beside(file: Json, beside: Json) -> tuple[str, str]:
    """The size and the speed of a file as shares of another one's; "": one was not timed, or both are as fast."""
    size = percent(file["bytes"] / beside["bytes"])
    if file["decode_speedup"] is None or beside["decode_speedup"] is None:
        return size, ""
    speed = file["decode_speedup"] / beside["decode_speedup"]
    return size, "" if abs(speed - 1) < _ALIKE else f"{times(speed)} times"


def _close(found: Json, files: Json, close: Collection[str]) -> Iterator[str]:
    """From which of the other named files the recommended one cannot be told, and by what."""
    names = dict.fromkeys(found[key] for key in ("beside", "nearest", "smallest"))
    titles: dict[str, list[str]] = {}
    for other in (files[name] for name in names if name not in (None, found["file"])):
        by = ["KL"] if other["name"] in close and not _by_answers(found) else []
        by += ["right answers"] if _overlap(files[found["file"]]["accuracy"], other["accuracy"]) else []
        titles.setdefault(" and ".join(by), []).append(title(other))
    for by_what, of in titles.items():
        if by_what:
            yield f"In {by_what}, it is too close to tell from {' and '.join(of)}."


def _overlap(one: Json, other: Json) -> bool:
    """Whether the intervals of two files' right answers overlap in every task that both were asked."""
    both = [[wilson(of[task]["share"], of[task]["questions"]) for of in (one, other)] for task in one if task in other]
    return bool(both) and all(max(first[0], second[0]) <= min(first[1], second[1]) for first, second in both)


def _others(found: Json, files: Json) -> str:
    """Names a better file that is larger, if there is one, and the smallest file that nothing beats."""
    chosen = files[found["file"]]
    keys = ("nearest",) if _by_answers(found) else ("beside", "nearest")
    larger = [files[found[key]] for key in keys if found[key] is not None]
    larger = [file for file in larger if file["bytes"] > chosen["bytes"] and not file["beaten"]]
    parts = []
    if larger:
        file = larger[0]
        best = "right most often" if _by_answers(found) else "the nearest to the original"
        nearest = f", {best}" if file["name"] == found["nearest"] else ""
        parts.append(f"if {megabytes(file['bytes'])} fit, ship {title(file)}{nearest} ({_quality(file, found)})")
    if found["smallest"] != found["file"]:
        parts.append(f"the smallest is {_told(files[found['smallest']], found)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _told(file: Json, found: Json) -> str:
    return f"{title(file)} ({megabytes(file['bytes'])}, {_quality(file, found)})"


def _quality(file: Json, found: Json) -> str:
    """What files are judged by: right answers, or KL."""
    right = "; ".join(f"{words} right" for words, _ in _by_task(file))
    return right if _by_answers(found) else f"KL {_kl(file)}"


def _by_answers(found: Json) -> bool:
    return found.get("judged_by") == "right answers"


def _size_and_speed(file: Json) -> str:
    speed, right = file["tokens_per_second"], accuracy_in_words(file)
    return ", ".join(filter(None, [megabytes(file["bytes"]), speed and f"{figure(speed)} tokens/s", right]))


def accuracy_in_words(file: Json) -> str:
    """How often a file is right, with Wilson's interval, beside the dense model; "" if no questions were asked."""
    right = (
        f"{of_task} right ({accuracy(of['share'], of['questions'])[1]}), the dense model {_number(of, 'dense')}"
        for of_task, of in _by_task(file)
    )
    return "; ".join(right)


def right_cell(file: Json | None) -> Cell:
    """How often a file is right, with Wilson's interval, and the dense model; a dash if none were asked."""
    right = [] if file is None else list(_by_task(file))
    main = (f"{words} ({accuracy(of['share'], of['questions'])[1]})" for words, of in right)
    return Cell("; ".join(main) or NOTHING, "; ".join(f"dense {_number(of, 'dense')}" for _, of in right))


def _by_task(file: Json) -> Iterator[tuple[str, Json]]:
    """How many of its questions a file answers rightly, with the name of the task if there are several."""
    for task, of in file["accuracy"].items():
        name = f"{task} " if len(file["accuracy"]) > 1 else ""
        yield f"{name}{_number(of, 'share')} of {of['questions']}", of


def _number(of: Json, whose: str) -> str:
    return NOTHING if of[whose] is None else f"{of[whose] * of['questions']:.0f}"


def _kl(file: Json) -> str:
    return with_error(file["mean_kl_nats"], file["mean_kl_nats_stderr"])


def _limits(found: Json) -> str:
    """The limits in words; "" if there are none."""
    keys = "bytes", "max_kl", "min_accuracy_retained", "decode_speedup", "first_token"
    size, kl, least, faster, sooner = (found["limits"].get(key) for key in keys)
    parts = [
        *([] if size is None else [megabytes(size)]),
        *([] if kl is None else [f"a KL of {figure(kl)}"]),
        *([] if least is None else [f"{percent(least)} of the dense model's accuracy"]),
        *([] if faster is None else [f"{times(faster)} times the dense model's speed"]),
        *([] if sooner is None else [_first_token(sooner)]),
    ]
    return " and ".join(parts)


def _first_token(target: Json) -> str:
    asked = milliseconds(target["ms"]) if target["ms"] else f"1/{times(target['speedup'])} of the dense model's time"
    return f"{asked} to the first token of a prompt of {target['tokens']}"
