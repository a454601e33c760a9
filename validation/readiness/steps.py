"""The steps of a run, as commands that anyone can repeat by hand."""

from __future__ import annotations

from pathlib import Path

from seap_export.pruning.plan.recipes import DEFAULT_RECIPE
from validation.readiness.request import RATIOS, Request
from validation.readiness.step import Command, Step

TASK = "arithmetic"
#: Name of the model with random weights.
LARGE = "random"
_PROMPT = "Tom has 12 apples and buys 7 more. He gives"
_NEW_TOKENS = 16
#: What a session takes on a GPU besides weights and caches: its context, cuBLAS and cuDNN, and intermediate results.
_SESSION_BYTES = 2 * 10**9
#: What the small model's files take together.
_SMALL_BYTES = 6 * 10**9


def plan_steps(request: Request) -> list[Step]:
    """All steps in their order."""
    return [
        _doctor(request),
        _variants(request),
        _export(request),
        *(_parity(request, precision, dialect) for precision, dialect in request.forms),
        _genai(request),
        _profile(request),
        *(_bench(request, precision) for precision in request.precisions),
        _large_model(request),
        *(_large_bench(request, ratio) for ratio in RATIOS),
    ]


def _seap(request: Request, *words: object, saves: Path | None = None, **environment: str) -> Command:
    scratch = {"TMPDIR": str(request.work)}  # graphs that are timed are written there: the disk that is checked
    return Command((*request.programs.seap_export, *map(str, words)), saves, {**scratch, **environment})


def _module(request: Request, name: str, *words: object) -> Command:
    return Command((*request.programs.python, "-m", f"validation.readiness.{name}", *map(str, words)))


def _variant(request: Request, ratio: float) -> Path:
    return request.work / "variants" / f"{TASK}-{ratio:g}"


def _form(request: Request, precision: str, dialect: str) -> Path:
    return request.work / "forms" / f"{precision}-{dialect}"


def _large(request: Request) -> Path:
    return request.work / "large"


def _doctor(request: Request) -> Step:
    card = ("--query-gpu=name,driver_version,compute_cap,memory.total,memory.free", "--format=csv")
    return Step(
        "doctor",
        "the driver, the GPU and ONNX Runtime's libraries work together",
        (
            _seap(request, "doctor", "--json", saves=request.result("doctor")),
            Command((*request.programs.nvidia_smi, *card), request.out / "results" / "nvidia-smi.csv", {}, True),
            _seap(request, "doctor", "--require", request.provider),
        ),
    )


def _pruned(
    request: Request, model: object, task: str, variants: Path, *, settings: tuple[object, ...], recipe: str
) -> list[Command]:
    """Commands that make variants at all ratios without a GPU, so that a failure there leaves them."""
    statistics = variants / "statistics"
    texts, statistics_option = (
        ("--task", f"{task}={request.texts}"),
        ("--calibration", statistics / "calibration" / task),
    )
    commands = [_seap(request, "calibrate", model, *texts, *settings, "--out", statistics, "--force")]
    for ratio in RATIOS:
        variant = variants / f"{task}-{ratio:g}"
        how = ("--recipe", recipe, "--ratio", f"{ratio:g}", "--provider", request.provider)
        plan = variant / "plan.json"
        commands += [
            _seap(request, "plan", model, *statistics_option, *how, "--out", plan, "--force"),
            _seap(request, "prune", model, "--plan", plan, *statistics_option, "--out", variant / "hf", "--force"),
        ]
    return [*commands, Command(("rm", "-r", str(statistics)))]


def _variants(request: Request) -> Step:
    folder = request.work / "variants"
    return Step(
        "variants",
        "a model is pruned at both ratios, for the steps below",
        (
            Command(("rm", "-rf", str(folder))),
            *_pruned(request, request.model, TASK, folder, settings=(), recipe=DEFAULT_RECIPE),
        ),
        replaces=folder,
        disk_bytes=_SMALL_BYTES // 2,
    )


def _export(request: Request) -> Step:
    ratios = [word for ratio in RATIOS for word in ("--ratio", f"{ratio:g}")]
    where = ("--provider", request.provider, "--out", request.work / "export", "--force", "--json")
    command = ("export", request.model, "--task", f"{TASK}={request.texts}", *ratios, *where)
    return Step(
        "export",
        "a whole export for the provider, with all its checks",
        (_seap(request, *command, saves=request.result("export")),),
        replaces=request.work / "export",
        disk_bytes=_SMALL_BYTES,
    )


def _parity(request: Request, precision: str, dialect: str) -> Step:
    hf, folder = _variant(request, RATIOS[-1]) / "hf", _form(request, precision, dialect)
    name = f"parity-{precision}-{dialect}"
    form = ("--provider", request.provider, "--precision", precision, "--dialect", dialect)
    out = ("--out", request.result(name), "--force")
    return Step(
        name,
        f"the graph in {precision}, {dialect} dialect, computes what torch computes",
        (
            _seap(request, "convert", hf, *form, "--out", folder / "onnx", "--force"),
            Command(("ln", "-sfn", str(hf.absolute()), str(folder / "hf"))),
            _seap(
                request,
                *("validate", folder, "--check", "parity", "--provider", request.provider),
                *("--prompt-file", request.texts, *out),
            ),
        ),
        after=(hf / "config.json",),
    )


def _genai(request: Request) -> Step:
    graph, tokens = _form(request, *request.forms[0]) / "onnx", request.result("genai-tokens")
    script = Path(__file__).with_name("genai_tokens.py")
    words = (*request.programs.genai, "-I", str(script), str(graph), _PROMPT, str(_NEW_TOKENS))
    return Step(
        "genai",
        "ONNX Runtime GenAI runs the export on the provider and chooses the tokens that our runner would choose",
        (
            Command(request.programs.make_genai),
            Command(words, tokens),
            _module(
                request,
                *("genai_gaps", graph, tokens, "--provider", request.provider, "--out", request.result("genai")),
            ),
        ),
        after=(graph / "model.onnx",),
    )


def _profile(request: Request) -> Step:
    folder = _form(request, *request.forms[0])
    generate = ("generate", folder, _PROMPT, "--provider", request.provider, "--max-new-tokens", 4)
    return Step(
        "profile",
        "what ONNX Runtime runs in a decode step, and where",
        (
            Command(("rm", "-rf", str(request.profile))),
            Command(("mkdir", "-p", str(request.profile))),
            _seap(request, *generate, SEAP_EXPORT_PROFILE=str(request.profile)),
            _module(
                request,
                *("profile", request.profile, "--copy", request.out / "profile.json"),
                *("--out", request.result("profile")),
            ),
        ),
        after=(folder / "onnx" / "model.onnx",),
    )


def _timed(request: Request, name: str, precision: str) -> tuple[object, ...]:
    depths = [word for depth in request.depths for word in ("--depth", depth)]
    how = ("--runtime", "onnxruntime", "--batch", 1, *depths, "--runs", request.runs, "--steps", request.steps)
    return ("--provider", request.provider, "--precision", precision, *how, "--out", request.result(name), "--force")


def _bench(request: Request, precision: str) -> Step:
    name, variants = f"bench-{precision}", [_variant(request, ratio) for ratio in RATIOS]
    command = ("bench", *variants, "--dense", request.model, *_timed(request, name, precision))
    return Step(
        name,
        f"times in {precision} beside the dense model",
        (_seap(request, *command),),
        after=tuple(variant / "hf" / "config.json" for variant in variants),
        disk_bytes=_SMALL_BYTES // 2,
    )


def _large_model(request: Request) -> Step:
    """Calibration on a few tokens and the paper's recipe: only the shapes matter, since the weights are random."""
    folder, shape = _large(request), request.large
    dense, sizes = folder / "dense", [word for size in shape.sizes.items() for word in map(str, size)]
    write = (*request.programs.python, "tests/benchmarks", "random_model", "llama-2-7b", str(dense), *sizes)
    settings = ("--samples", 4, "--held-out", 1, "--max-length", 32)
    commands = [
        Command(("rm", "-rf", str(folder))),
        Command(write),
        *_pruned(request, dense, LARGE, folder, settings=settings, recipe="seap"),
    ]
    return Step(
        "large-model",
        "a model in the shape of Llama-2-7B, with random weights, is pruned at both ratios",
        tuple(commands),
        replaces=folder,
        disk_bytes=shape.statistics_bytes + sum(map(request.large.weight_bytes, (0.0, *RATIOS))),
        memory_bytes=_SESSION_BYTES + 8 * shape.weight_bytes() // shape.layers,
        gpu_bytes=_large_gpu_bytes(request),
    )


def _large_bench(request: Request, ratio: float) -> Step:
    folder, name = _large(request), f"large-bench-{ratio:g}"
    variant, dense = folder / f"{LARGE}-{ratio:g}", folder / "dense"
    precision = request.precisions[0]
    command = ("bench", variant, "--dense", dense, *_timed(request, name, precision))
    return Step(
        name,
        f"times of the large model at {ratio:g} in {precision} beside the dense one",
        (_seap(request, *command),),
        after=(variant / "hf" / "config.json", dense / "config.json"),
        disk_bytes=request.large.weight_bytes() + request.large.weight_bytes(ratio),
        gpu_bytes=_large_gpu_bytes(request),
    )


def _large_gpu_bytes(request: Request) -> int:
    """The dense model with its caches."""
    positions = max(request.depths) + request.steps
    return request.large.weight_bytes() + request.large.cache_bytes(positions) + _SESSION_BYTES
