"""`seap-export doctor`: what this machine can do, and what to install if it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand
from seap_export.cli.options import output_options
from seap_export.cli.window import Table, prose
from seap_export.common.providers import PROVIDERS

if TYPE_CHECKING:
    from seap_export.runtime.doctor import Diagnosis


@click.command("doctor", cls=GroupedCommand)
@click.option(
    "--require", type=click.Choice(list(PROVIDERS)), help="Exit with 6 unless this execution provider works."
)
@output_options
def doctor_command(console: Console, require: str | None) -> None:
    """Show what this machine can run, and what to install if something is missing.

    Runs a matrix product and attention in float16 on each execution provider of ONNX Runtime, each in a separate
    process, and asks the NVIDIA driver. Installs nothing. A machine without a GPU passes, unless --require asks for
    one. Also lists the runtimes of written variants, and the extras of this package.

    \b
    Examples:
      seap-export doctor
      seap-export doctor --require cuda --quiet
    """
    diagnosis = _diagnose()(on_progress=console.say)
    if require and not diagnosis.provider(require).works:
        console.text(_summary(diagnosis))
        diagnosis.require(require)
    for warning in diagnosis.warnings:
        console.warn(warning)
    runtimes, extras = _runtimes(), _extras()
    values = {**diagnosis.to_json(), "runtimes": runtimes, "extras": extras}
    console.result(values, _summary(diagnosis, _optional(runtimes, extras)))


def _runtimes() -> dict[str, str | None]:
    """The reason why each runtime of written variants cannot run here, by name; None if it can."""
    from validation.runtimes.table import RUNTIMES, runtime_lack

    return {name: runtime_lack(name) for name in RUNTIMES}


def _extras() -> dict[str, list[str]]:
    """The missing packages of each optional extra, by its name."""
    from seap_export.common.extras import missing_packages, optional_extras

    return {name: missing_packages(name) for name in optional_extras()}


def _optional(runtimes: dict[str, str | None], extras: dict[str, list[str]]) -> str:
    from seap_export.common.extras import install_remedy

    facts = {name: "ready" if lack is None else lack for name, lack in runtimes.items()}
    for name, missing in extras.items():
        facts[f"[{name}]"] = install_remedy(name) if missing else "installed"
    return _aligned(facts)


def _diagnose() -> Callable[..., Diagnosis]:
    """The function that examines the machine; other modules need ONNX Runtime, which may be broken."""
    from seap_export.errors import EnvironmentFailure

    try:
        from seap_export.runtime.doctor import diagnose
    except (ImportError, AttributeError) as error:
        if "onnxruntime" not in str(error):
            raise
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu"
        raise EnvironmentFailure(
            f"onnxruntime cannot be imported ({error}); run '{fix}', then install seap-export again"
        ) from error
    return diagnose


def _summary(diagnosis: Diagnosis, *tables: str) -> str:
    return "\n\n".join(
        [_facts(diagnosis), _provider_table(diagnosis), *tables, "\n".join(map(prose, _remarks(diagnosis)))]
    )


def _facts(diagnosis: Diagnosis) -> str:
    machine, driver = diagnosis.machine, diagnosis.driver
    versions = (
        ", ".join(f"{name} {version}" for name, version in named.items())
        for named in (diagnosis.packages, diagnosis.onnxruntime)
    )
    packages, onnxruntime = versions
    gpus = ", ".join(f"{gpu.name} with {_size(gpu.memory_bytes)}" for gpu in driver.gpus)
    facts = {
        "machine": f"{machine.processor}, {machine.cores} of {machine.all_cores} cores, {machine.system}",
        "memory": f"{_size(machine.free_memory_bytes)} free",
        "disk": f"{_size(machine.free_disk_bytes)} free in {machine.temp_folder}",
        "Python": machine.python,
        "packages": packages,
        "not installed": ", ".join(diagnosis.missing),
        "ONNX Runtime": onnxruntime or "from an unknown distribution",
        "NVIDIA GPU": f"{gpus}; the driver runs CUDA {driver.cuda_version}" if gpus else f"none: {driver.reason}",
        **{f"on {each.name}": each.device or "" for each in diagnosis.providers},
    }
    return _aligned({name: fact for name, fact in facts.items() if fact})


def _aligned(facts: dict[str, str]) -> str:
    """A line for each fact, with the facts aligned after their names."""
    width = max(map(len, facts))
    return "\n".join(prose(f"{name.ljust(width)}  {fact}", hang=width + 2) for name, fact in facts.items())


def _provider_table(diagnosis: Diagnosis) -> str:
    rows = [
        [state.name, "works" if state.works else "fails", f"{state.difference:.1e}" if state.works else "-"]
        for state in diagnosis.providers
    ]
    return Table(["provider", "product and attention", "max error"], rows).text


def _remarks(diagnosis: Diagnosis) -> list[str]:
    """Lines on providers that do not work and on missing parts, or that everything works; warnings name the rest."""
    lines = [state.failure for state in diagnosis.providers if state.failure]
    if not diagnosis.driver.gpus and diagnosis.provider("cpu").works:
        lines.append("Without a GPU, variants run on the CPU.")
    if diagnosis.missing:
        lines.append("Without all packages, `generate`, `route` and the Python runner work; making variants does not.")
    return lines or ["Everything works."]


def _size(number: int | None) -> str:
    """Formats a size in bytes as gigabytes (10^9 bytes)."""
    return "unknown" if number is None else f"{number / 1e9:.1f} GB"
