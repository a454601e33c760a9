"""Recipes: the shipped files, files of a user's own, and what is refused in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seap_export.errors import UsageError
from seap_export.pruning.plan.keys import SettingError
from seap_export.pruning.plan.recipes import Target, method_of, open_recipe, shipped_recipes
from seap_export.pruning.plan.settings import Compensation, PlanSettings
from seap_export.pruning.plan.sparsity import EVEN, Sparsity

NAMES = ("reconstruct", "fast", "best", "seap", "wanda-sp", "flap", "obc", "reap")
#: The recipes as the papers and docs/method.md describe them.
EXPECTED = {
    "reconstruct": PlanSettings(),
    "fast": PlanSettings(distillation=0.0),
    "best": PlanSettings(calibration_tokens=262_144, fresh_tokens=65_536, trials=24),
    "seap": PlanSettings("wifv", Sparsity("logistic"), balance="alike", compensation="bias"),
    "wanda-sp": PlanSettings(
        "wifn", Sparsity("uniform", protect_first=0, protect_last=0), balance="alike", compensation="none"
    ),
    "flap": PlanSettings("wifv", Sparsity("global"), compensation="bias"),
    "obc": PlanSettings("elimination", EVEN, balance="alike", compensation="one-shot"),
    "reap": PlanSettings("reap", EVEN, compensation="none"),
}


def write(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text, "utf-8")
    return str(folder / "mine.toml")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_holds_the_settings_of_its_source(name: str) -> None:
    assert tuple(shipped_recipes()) == NAMES
    assert shipped_recipes()[name].settings == open_recipe(name) == EXPECTED[name]


def test_a_file_may_leave_out_any_key(tmp_path: Path) -> None:
    assert open_recipe(write(tmp_path, "")) == PlanSettings()
    settings = open_recipe(write(tmp_path, 'score = "wifv"\nridge = 2\nsparsity.protect_last = 1\n'))
    assert settings == PlanSettings("wifv", Sparsity("adaptive", protect_last=1), ridge=2.0)


@pytest.mark.parametrize(
    ("target", "align", "group_tolerance"),
    [
        (Target(), 16, 0.0),
        (Target("cuda"), 64, 0.05),
        (Target("cuda", block_size=32), 64, 0.05),
        (Target("cuda", block_size=128), 128, 0.05),
        (Target("cuda", groups_heads=False), 64, 0.0),
    ],
)
def test_the_target_decides_what_the_recipe_leaves_open(
    target: Target, align: int, group_tolerance: float, tmp_path: Path
) -> None:
    settings = open_recipe("seap", target=target)
    assert (settings.align, settings.group_tolerance) == (align, group_tolerance)
    settings = open_recipe(write(tmp_path, "align = 8\ngroup_tolerance = 0.5"), target=target)
    assert (settings.align, settings.group_tolerance) == (8, 0.5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_layers", [3, 12, 30])
def test_a_recipe_knows_its_name_whatever_else_is_set(name: str, num_layers: int) -> None:
    changed = replace(open_recipe(name), ridge=0.5, mix="plain", align=8, group_tolerance=0.1)
    changed = replace(changed, min_tokens=7, fresh_tokens=8, calibration_tokens=9)
    assert method_of(changed, num_layers) == {"best": "reconstruct"}.get(name, name)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("reconstruct", {"compensation": "one-shot"}),
        ("reconstruct", {"score": "wifv"}),
        ("reconstruct", {"sparsity": Sparsity("adaptive", budget="macs")}),
        ("reconstruct", {"sparsity": EVEN}),
        ("seap", {"sparsity": Sparsity("logistic", k=0.9)}),
        ("seap", {"balance": "loss"}),
        ("wanda-sp", {"sparsity": Sparsity("uniform", protect_first=2, protect_last=2)}),
        ("flap", {"compensation": "none"}),
        ("obc", {"compensation": "sequential"}),
        ("obc", {"balance": "loss"}),
        ("reconstruct", {"distillation": 0.5}),
    ],
)
def test_changed_settings_are_custom(name: str, changes: dict[str, Any]) -> None:
    assert method_of(replace(open_recipe(name), **changes), 30) == "custom"


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"ridge": 0.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"distillation": -1.0}, "distillation"),
        ({"distillation": float("inf")}, "distillation"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"fresh_tokens": -1}, "fresh_tokens"),
        ({"calibration_tokens": 0}, "calibration_tokens"),
        ({"trials": -1}, "trials"),
        ({"align": 0}, "align"),
        ({"group_tolerance": -0.1}, "group_tolerance"),
        ({"group_tolerance": float("nan")}, "group_tolerance"),
        ({"sparsity": Sparsity("global")}, "sparsity.kind"),
        ({"balance": "even"}, "balance"),
        ({"balance": "alike"}, "balance"),
        ({"mix": "max"}, "mix"),
        ({"layout": "even"}, "layout"),
        ({"layout": "uniform"}, "sparsity"),
        ({"layout": "uniform", "sparsity": Sparsity("uniform")}, "sparsity"),
        ({"layout": "uniform", "sparsity": replace(EVEN, protect_last=1)}, "sparsity"),
    ],
)
def test_settings_refuse_what_means_nothing(values: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingError) as caught:
        PlanSettings(**values)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("score = ", 1, ["TOML"]),
        ("\nmethod = 1", 2, ["method", "unknown", "score"]),
        ("\n\nscroe = 1", 3, ["scroe", "did you mean 'score'"]),
        ('\nscore = "magic"', 2, ["score", "'magic'", "frequency, random or elimination"]),
        ('ridge = 1\nalign = "8"', 2, ["align", "whole number"]),
        ("align = true", 1, ["align", "whole number"]),
        ("ridge = true", 1, ["ridge", "number"]),
        ("ridge = inf", 1, ["ridge", "out of range"]),
        ('sparsity = "uniform"', 1, ["sparsity", "table"]),
        ('[sparsity]\nkind = "all"', 2, ["sparsity.kind", "'all'", "logistic"]),
        ('[sparsity]\nkind = "uniform"\nx = 1', 3, ["sparsity.x", "unknown", "x0"]),
        ('[sparsity]\nkind = "logistic"\n\n# the curve\nk = nan', 5, ["sparsity.k", "finite"]),
        ('score = "wifv"\n[sparsity]\nkind = "uniform"\nbudget = "macs"', 4, ["sparsity.budget", "adaptive"]),
        ('[sparsity]\nkind = "global"', 2, ["sparsity.kind", "wifv or wifn"]),
        ('balance = "alike"', 1, ["balance", "itself"]),
        ('score = "wifv"\nbalance = "alike"\n[sparsity]\nkind = "global"', 2, ["balance", "itself"]),
        ("[sparsity]\nk = 0.8", 2, ["sparsity.k", "no effect", "adaptive"]),
        ("[sparsity]\ncontext = 512", 2, ["sparsity.context", "no effect", "weights"]),
        ('mix = "plain"', 1, ["mix", "no effect", "elimination"]),
        ('score = "wifv"\ncompensation = "bias"\nridge = 2.0', 3, ["ridge", "no effect", "bias"]),
        ('compensation = "one-shot"\ntrials = 5', 2, ["trials", "no effect", "one-shot"]),
        ('compensation = "none"\nfresh_tokens = 0', 2, ["fresh_tokens", "no effect", "none"]),
        ('trials = 5\n[sparsity]\nkind = "uniform"', 1, ["trials", "no effect", "uniform"]),
    ],
)
def test_errors_name_file_line_and_key(text: str, line: int, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_recipe(write(tmp_path, text))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mine.toml'}:{line}: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("content", "word"), [(b"\xff", "UTF-8"), (b"# " + b"x" * 20_000, "longer"), (b"[" * 5_000, "TOML")]
)
def test_a_file_that_is_no_recipe_at_all(content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(UsageError, match=word):
        open_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", ["magic", "magic.toml", "."])
def test_a_recipe_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match="reconstruct, fast, best, seap, wanda-sp, flap, obc or reap"):
        open_recipe(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_layers", [3, 30])
def test_a_recipe_in_the_uniform_layout_keeps_its_name(name: str, num_layers: int, tmp_path: Path) -> None:
    settings = open_recipe(name, layout="uniform")
    assert settings == replace(EXPECTED[name], layout="uniform", sparsity=EVEN, trials=0)
    text = shipped_recipes()[name].text.replace("trials = 24", "trials = 0")
    assert settings == open_recipe(write(tmp_path, text), layout="uniform")
    assert method_of(settings, num_layers) == {"best": "reconstruct"}.get(name, name)
    other: Compensation = "bias" if settings.score == "elimination" else "one-shot"
    assert method_of(replace(settings, compensation=other), num_layers) == "custom"
    assert not settings.square_heads


@pytest.mark.parametrize(
    "table", ['kind = "uniform"', "protect_first = 1", 'kind = "logistic"\nk = 1.0', 'budget = "bytes"']
)
def test_the_uniform_layout_does_not_ignore_a_sparsity_that_somebody_chose(table: str, tmp_path: Path) -> None:
    file = write(tmp_path, f'score = "wifv"\n[sparsity]\n{table}\n')
    assert open_recipe(file).layout == "per-layer"
    with pytest.raises(UsageError, match=r"mine\.toml:2: sparsity: .*uniform"):
        open_recipe(file, layout="uniform")


@pytest.mark.parametrize(("tokens", "fresh", "passes"), [(99, 0, 0.0), (100, 0, 2.0), (1, 100, 2.0), (1, 99, 0.0)])
def test_distillation_needs_as_many_tokens_of_the_texts_or_fresh_ones(tokens: int, fresh: int, passes: float) -> None:
    assert PlanSettings(distillation=2.0, min_tokens=100, fresh_tokens=fresh).passes_over(tokens) == passes
