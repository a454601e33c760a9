"""A table of where a run of `.ci/run` or `make test` took its time: `python tests/times.py test-times`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

_DEAREST = 25


def table(folder: Path) -> str:
    """The stages, the folders of tests and the dearest tests, in seconds, as Markdown."""
    lines = ["| seconds | stage |", "| --- | --- |"]
    stages = folder / "stages"
    if stages.exists():
        lines += [f"| {line.replace(' ', ' | ', 1)} |" for line in stages.read_text("utf-8").splitlines()]
    tests: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for report in sorted(folder.glob("*.xml")):
        cases = list(ElementTree.parse(report).iter("testcase"))
        skipped = sum(case.find("skipped") is not None for case in cases)
        seconds = sum(float(case.get("time", 0)) for case in cases)
        lines.append(f"| {seconds:.0f} of one process | {report.stem}: {len(cases)} tests, {skipped} skipped |")
        for case in cases:
            module = case.get("classname", "")
            tests[f"{module}::{case.get('name', '')}"] += float(case.get("time", 0))
            folders[".".join(module.split(".")[1:-1][:2])] += float(case.get("time", 0))
    for title, times in (("folder", folders.most_common()), ("test", tests.most_common(_DEAREST))):
        lines += ["", f"| seconds | {title} |", "| --- | --- |", *(f"| {time:.1f} | {name} |" for name, time in times)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
