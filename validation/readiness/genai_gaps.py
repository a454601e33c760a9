"""Compares the tokens that ONNX Runtime GenAI chose with the logits of this package's runner.

    python -m validation.readiness.genai_gaps FOLDER TOKENS.json --provider cuda --out GAPS.json

Two programs may round differently, so their most likely tokens may differ where two are almost equally likely. A token
that the runner finds clearly less likely than another shows an error. The exit code is then 3.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from seap_export.common.json_file import write_json
from seap_export.errors import ArtifactError, SeapError
from seap_export.runtime.decoding.decoder import OnnxDecoder
from seap_export.runtime.files import model_limits

#: Logits that differ by less are no clear choice, as in the comparison with torch.
LARGEST_GAP = 0.1


def gaps(folder: Path, prompt: list[int], generated: list[int], provider: str) -> list[float]:
    """How far below the runner's largest logit each token is.

    Raises:
        ArtifactError: No token was generated, or the logits are not finite or all the same.
        EnvironmentFailure: The provider is not available on this machine.
    """
    if not generated:
        raise ArtifactError(f"{folder}: GenAI generated no token; see the log of the command before")
    _, context_length = model_limits(folder / "genai_config.json")
    decoding = OnnxDecoder(folder / "model.onnx", context_length, provider).start([prompt], len(generated))
    below_largest = []
    for token in generated:
        logits = decoding.logits[0]
        if not np.isfinite(logits).all():
            raise ArtifactError(f"{folder}: the runner's logits are not finite; check parity first")
        if logits.max() == logits.min():  # every token would be the best one
            raise ArtifactError(f"{folder}: the runner's logits are all the same; check parity first")
        below_largest.append(float(logits.max() - logits[token]))
        decoding.step([token])
    return below_largest


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("tokens", type=click.Path(path_type=Path))
@click.option("--provider", default="cuda", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
def genai_gaps(folder: Path, tokens: Path, provider: str, out: Path) -> None:
    """Write the comparison to OUT, and fail if GenAI ran elsewhere or chose an unlikely token."""
    chosen: dict[str, Any] = json.loads(tokens.read_text("utf-8").splitlines()[-1])
    try:
        below_largest = gaps(folder, chosen["prompt"], chosen["generated"], provider)
    except SeapError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    reasons = []
    if provider not in chosen["device"].lower():
        reasons.append(f"GenAI ran on {chosen['device']} instead of {provider}")
    if max(below_largest) > LARGEST_GAP:
        reasons.append(
            f"GenAI chose a token {max(below_largest):.3g} below the runner's best, more than {LARGEST_GAP:g}"
        )
    result = {**chosen, "largest_gap": max(below_largest), "limit": LARGEST_GAP, "reasons": reasons}
    write_json(out, result, ensure_ascii=True)
    if reasons:
        click.echo(f"Error: {'; '.join(reasons)}", err=True)
        raise SystemExit(3)
    click.echo(f"GenAI {chosen['version']} on {chosen['device']}: largest gap {max(below_largest):.3g}")


if __name__ == "__main__":
    genai_gaps()
