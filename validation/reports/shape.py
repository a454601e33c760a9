"""The JSON object of a validation report, as types; the schema is made from them.

Strict for the report, its checks, variants and files; `OPEN` names the parts that may hold further keys.
"""

from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

Verdict = Literal["passed", "failed", "not judged", "skipped"]
Judged = Literal["passed", "failed", "not judged"]
Code = Literal[0, 3, 4, 5, 6, 7]
Sha256 = Annotated[str, ("pattern", "^[0-9a-f]{64}$")]
Share = Annotated[float, ("minimum", 0), ("maximum", 1)]
Count = Annotated[int, ("minimum", 0)]
Nats = Annotated[float, ("minimum", 0)]
#: Above 0.
Positive = Annotated[float, ("exclusiveMinimum", 0)]


class Source(TypedDict):
    name: str
    sha256: Sha256
    bytes: NotRequired[Annotated[Count, "of all files; missing in earlier versions"]]


class Check(TypedDict):
    variant: Annotated[str | None, "null: the folder as a whole"]
    check: Literal["integrity", "parity", "quality", "speed", "router"]
    subject: Annotated[str | None, "what of the variant, if there are several such checks"]
    verdict: Verdict
    exit_code: Code
    reasons: Annotated[list[str], "why it failed or could not judge"]
    notes: Annotated[list[str], "why it was skipped, or what its verdict does not say"]


class FormatForm(TypedDict):
    title: str
    format: str
    precision: str
    form: dict[str, Any]


class Layer(TypedDict):
    """What else is there are its sizes, by the keys of config.json."""

    kept: Annotated[Share, "of the layer's attention and MLP weights"]


class Tap(TypedDict):
    name: str
    layer: int | None
    sublayer: str
    error: Annotated[float | None, "relative; null: not finite"]


class Overflow(TypedDict):
    name: str
    kind: Literal["nan", "inf", "near"]
    reference_max_abs: float | None


class Bisect(TypedDict):
    case: str
    stage: Literal["prefill", "decode"]
    first: Tap | None
    taps: Annotated[list[Tap], "in the order of computation"]
    overflows: list[Overflow]


class Texts(TypedDict):
    strings: Annotated[Count, "texts that the tokenizer read and wrote"]
    conversations: Annotated[Count, "that the chat template rendered"]
    verdict: Literal["passed", "failed"]
    reasons: list[str]


class ParityCase(TypedDict):
    case: str
    stage: Literal["prefill", "decode"]
    limits: dict[str, float]
    verdict: Annotated[Judged, "not judged: too few tokens alone; all of such cases are judged together"]
    tokens: Count
    max_abs: float | None
    mean_kl_nats: Annotated[Nats | None, "against the model in hf/, per token"]
    p999_kl_nats: Annotated[Nats | None, "99.9th percentile over the tokens"]
    max_kl_nats: Annotated[Nats | None, "of any token"]
    top1_agreement: float | None
    top1_agreement_margin: Annotated[float | None, "where the reference's margin is above noise; null if none is"]
    perplexity_ratio: float | None
    cache_error: Annotated[float | None, "largest difference of the KV cache over its layer's root mean square"]
    cache_max_abs: Annotated[float | None, "largest difference of the KV cache"]
    cache_defect: str
    defects: list[dict[str, Any]]


class Parity(TypedDict):
    schema: Literal["seap-export/parity/5"]
    format: str
    runtime: str
    precision: str
    verdict: Judged
    reasons: list[str]
    max_abs: Annotated[float | None, "largest difference of a logit; null: none is finite"]
    mean_kl_nats: float | None
    top1_agreement: float
    limits: dict[str, float]
    looser_limits: list[str]
    notes: list[str]
    texts: NotRequired[Annotated[Texts | None, "how the runtime reads, writes and renders texts, if it does"]]
    cases: list[ParityCase]


class Estimate(TypedDict):
    mean: float
    stderr: Annotated[float | None, "null: of one text or question"]


class QualityVerdict(TypedDict):
    form: str
    task: Annotated[str | None, "null: the divergence is judged"]
    figure: Literal["mean_kl_nats", "accuracy_retained"]
    limit: Nats
    found: Annotated[float | None, "null: the dense model answers nothing rightly"]
    stderr: Nats | None
    verdict: Literal["passed", "failed"]
    too_close_to_tell: Annotated[bool, "the limit is within two standard errors, or there is no error"]


class Kl(TypedDict, total=False):
    """A divergence from the dense model, in nats per token."""

    mean_kl_nats: Required[Annotated[Nats, "KL(dense || variant) per token, with what dropped tokens lose"]]
    mean_kl_nats_stderr: Annotated[Nats | None, "over the texts; null: there is one"]
    median_kl_nats: Nats
    p99_kl_nats: Nats
    p999_kl_nats: Nats
    max_kl_nats: Annotated[Nats, "of any token"]
    kl_nats_by_text: Annotated[list[tuple[Nats, int]], "of each text the sum over its tokens, and their number"]


class Divergence(Kl):
    """With `vocabulary`, mean_kl_nats is the sum of kept_kl_nats and lost_kl_nats, for tokens that were dropped."""

    top1_agreement: Share
    top1_agreement_stderr: NotRequired[Nats | None]
    perplexity: Positive
    dense_perplexity: Annotated[Positive, "of the dense model"]
    loss_difference_nats: NotRequired[Annotated[float | None, "-log P(next token) less the dense model's, per token"]]
    loss_difference_nats_stderr: NotRequired[Nats | None]
    tokens: Annotated[Count, "after which the distributions were compared"]
    kl_nats_per_byte: NotRequired[Annotated[Nats, "of the texts, in UTF-8"]]
    bits_per_byte: NotRequired[Nats]
    dense_bits_per_byte: NotRequired[Annotated[Nats, "of the dense model"]]
    bytes: NotRequired[Annotated[Count, "of the texts, in UTF-8"]]
    vocabulary: NotRequired[Annotated[dict[str, Any], "cost of a cut vocabulary; absent: it has all tokens"]]


class Elsewhere(Kl):
    own: Annotated[bool, "whether the variant was made for this task"]
    lost_kl_nats: NotRequired[Annotated[Nats, "part of mean_kl_nats that stands for dropped tokens"]]
    bits_per_byte: Nats
    dense_bits_per_byte: Annotated[Nats, "of the dense model"]
    texts: Count
    tokens: Count
    bytes: Annotated[Count, "of the texts, in UTF-8"]
    sha256: Annotated[Sha256, "of the texts"]


class Sample(TypedDict):
    prompt: str
    dense: str
    variant: str


class Baselines(TypedDict):
    questions: Count
    frequent: Annotated[Count, "right answers of the most frequent one"]
    linear: Annotated[Count, "right answers of a linear classifier of n-grams of letters"]


class Quality(TypedDict, total=False):
    """A report of seap-export evaluate; a form is a folder, and the runtime if there are several."""

    schema: Required[str]
    verdict: Required[Literal["passed", "failed"] | None]
    verdicts: Annotated[list[QualityVerdict], "every limited figure; the figure itself decides"]
    divergence: Required[Annotated[dict[str, Divergence], "by form"]]
    kl_difference: Annotated[dict[str, Estimate], "by further form: less that of the first form, paired by text"]
    zero_shot: Required[Annotated[dict[str, Any], "accuracy, by form (or dense) and task"]]
    generation: Annotated[dict[str, Any], "exact match of generated answers, by form and task"]
    flipped: Annotated[dict[str, Any], "answers that changed between right and wrong, by form and task"]
    accuracy_difference: Annotated[dict[str, dict[str, Estimate]], "from the dense model, by form and task"]
    limits: Required[dict[str, Any]]
    folder: Annotated[str, "what an export measured"]
    runtime: Annotated[str, "what ran it"]
    elsewhere: Annotated[dict[str, dict[str, Elsewhere]], "by form, then by task or `general text`"]
    baselines: Annotated[dict[str, Baselines], "without a language model, by task that was learnt and has labels"]
    sample: Annotated[Sample, "a held-out prompt, and how both models continue it"]


class SpeedVerdict(TypedDict):
    figure: Literal["decode_speedup", "prefill_speedup", "bytes_ratio"]
    batch: int | None
    depth: int | None
    limit: float
    found: float
    low: float | None
    high: float | None
    verdict: Literal["passed", "failed", "too noisy"]


class SpeedCell(TypedDict):
    """What else is there are speed-ups, the ends of their intervals, the ideal ones and the share that is reached."""

    batch: Count
    depth: Count
    prefill_ms: float
    decode_ms_per_token: float


class Speed(TypedDict):
    folder: NotRequired[Annotated[str, "what an export timed"]]
    runtime: NotRequired[Annotated[str, "what ran it"]]
    limits: Annotated[dict[str, Any], "empty: the figures are only reported"]
    verdicts: list[SpeedVerdict]
    dense: list[SpeedCell]
    variant: Annotated[list[SpeedCell], "with the speed-ups over the dense model and the ideal ones"]


class LearntPass(TypedDict):
    right: Annotated[Share, "of answers, all of whose tokens are the likeliest"]
    loss: Annotated[Nats, "nats per token of an answer"]


class Learning(TypedDict):
    kept: Annotated[Count, "passes that the variant is kept after"]
    passes: Annotated[list[LearntPass], "on answers that are not learnt: before the first pass, and after each"]


class Variant(TypedDict):
    task: str | None
    method: str | None
    requested_ratio: float | None
    achieved_ratio: float | None
    num_parameters: int | None
    dense_parameters: int | None
    formats: Annotated[dict[str, FormatForm], "how each folder beside hf is written"]
    bytes: Annotated[dict[str, Count], "of all files, by folder"]
    dense_bytes: Annotated[dict[str, int | None], "about those of the dense model in the same form; null: not known"]
    memory_about: NotRequired[Annotated[dict[str, int | None], "at the peak of a prompt of 128 tokens, by folder"]]
    layers: list[Layer]
    learning: NotRequired[Annotated[Learning | None, "of right answers; null: it learnt none"]]
    parity: Annotated[dict[str, Parity], "by folder, and FOLDER in RUNTIME for a second one: against hf/"]
    bisect: Annotated[Bisect | None, "where a failed parity starts; null: not searched"]
    quality: Annotated[Quality | None, "against the dense model; null: not measured"]
    speed: Annotated[Speed | None, "against the dense model in the same runtime; null: not measured"]
    beaten_by: NotRequired[Annotated[str | None, "what removes nothing, and is better in all that was measured"]]


class Whole(TypedDict):
    task: Annotated[str, "the task or mixture of the variants beside it"]
    precision: str
    beside: Annotated[str, "the precision of the variants, and of the dense model under speed"]
    options: Annotated[dict[str, Any], "options of its graph that are not the usual ones"]
    command: Annotated[str, "makes the file, with names of files in the place of paths"]
    folder: NotRequired[Annotated[str | None, "where it lies in the export; null: it was not kept"]]
    refusal: Annotated[str, "why there are no figures; empty: there are"]
    bytes: Annotated[Count | None, "of all files; null: it was refused"]
    memory_about: NotRequired[Annotated[Count | None, "as that of a variant's folder"]]
    quality: Annotated[dict[str, Any] | None, "as that of a variant, without a verdict; null: not measured"]
    speed: Annotated[Speed | None, "as that of a variant; null: not measured"]


class FirstToken(TypedDict):
    tokens: Annotated[Count, "of the prompt"]
    ms: Annotated[Positive | None, "at most, on the machine of the export; null: a speed-up is asked for"]
    speedup: Annotated[Positive | None, "at least, over the dense model in the usual precision"]


class FileLimits(TypedDict):
    bytes: Count | None
    max_kl: Annotated[Nats | None, "nats per token"]
    min_accuracy_retained: Annotated[float | None, "a share of the dense model's"]
    decode_speedup: Annotated[Positive | None, "over the dense model in the usual precision"]
    first_token: NotRequired[FirstToken | None]


class Accuracy(TypedDict):
    share: Share
    dense: Annotated[float | None, "that of the dense model; null: not measured"]
    questions: Count


class FileToShip(TypedDict):
    name: Annotated[str, "a folder of a variant, or a whole model that was measured and not kept"]
    folder: Annotated[str | None, "null: it was not kept"]
    precision: str
    is_whole: Annotated[bool, "nothing was removed, or learnt"]
    bytes: Count
    mean_kl_nats: Nats
    mean_kl_nats_stderr: Nats | None
    tokens_per_second: Annotated[Positive | None, "null: not measured"]
    first_token_ms: Annotated[Positive | None, "null: not measured"]
    memory_about: NotRequired[Annotated[Count | None, "as that of a variant's folder"]]
    first_token_ms_by_tokens: NotRequired[Annotated[dict[str, Positive], "by the number of tokens of the prompt"]]
    decode_speedup: Annotated[Positive | None, "over the dense model; null: not measured"]
    accuracy: Annotated[dict[str, Accuracy], "by task that says what is right: on its held-out questions"]
    beaten: Annotated[bool, "another file is as small and as good, and better in one of the two"]
    within_limits: bool


class Recommended(TypedDict):
    words: Annotated[str, "one or two sentences: what to ship, why, and what else there is"]
    file: Annotated[str | None, "the name of the recommended file; null: none is within the limits"]
    rule: Annotated[Literal["limits", "as near as int4", "nearest", "as right as the best"], "what decided"]
    judged_by: Annotated[Literal["KL", "right answers"], "the latter where a variant learnt them"]
    beside: Annotated[str | None, "the whole model in int4, which others are held against; null: not measured"]
    nearest: Annotated[str, "the file that is nearest to the original, or right most often"]
    smallest: Annotated[str, "the smallest file that no other beats"]
    limits: FileLimits
    files: Annotated[list[FileToShip], "by size"]
    not_measured: Annotated[list[str], "names of files without a figure of quality"]
    baselines: Annotated[dict[str, Baselines], "as those of a variant's quality"]


class Targets(TypedDict):
    """What every variant had to meet; null: no such target."""

    size: Annotated[Count | None, "most bytes"]
    decode_speedup: Positive | None
    max_kl: Annotated[Positive | None, "nats per token"]
    first_token: NotRequired[FirstToken | None]


class Point(Kl):
    """A candidate that was evaluated."""

    variant: str
    ratio: Share
    format: str
    precision: str
    vocabulary: Annotated[int | str, "a number of tokens, auto or all"]
    bytes: Count
    lost_kl_nats: Annotated[Nats, "part of mean_kl_nats that stands for dropped tokens"]
    kl_difference: NotRequired[Annotated[float | None, "from the chosen point, paired by text; null: not known"]]
    kl_difference_stderr: NotRequired[Nats | None]
    top1_agreement: Share
    top1_agreement_stderr: NotRequired[Nats | None]
    perplexity: Positive
    tokens: Count
    predicted_bytes: Count
    decode_ideal_speedup: Positive
    decode_speedup: Annotated[Positive | None, "null: not measured"]
    decode_speedup_low: NotRequired[float | None]
    decode_speedup_high: NotRequired[float | None]
    first_token_ms: NotRequired[Annotated[float | None, "of the prompt that a target is about; null: not measured"]]
    first_token_speedup: NotRequired[Annotated[float | None, "over the dense model in the usual precision"]]
    beaten: Annotated[bool, "another point is no larger, and nearer to the dense model"]
    chosen: bool
    key: Annotated[str | None, "of its inputs; null: too large to be chosen, and not made"]


class Searched(TypedDict):
    points: Annotated[list[Point], "by size"]
    guess: NotRequired[Annotated[dict[str, Any], "what rounding and removing were guessed to cost at first"]]


class Frontier(TypedDict):
    schema: Literal["seap-export/frontier/1"]
    targets: Targets
    speedups_over: Annotated[str, "format and precision of the dense model"]
    tasks: Annotated[dict[str, Searched], "by task or mixture"]


class Task(TypedDict):
    """Whatever else the producer knows of the task stands here too."""

    seed: int
    max_length: int
    calibration_texts: Count
    calibration_tokens: Count
    held_out_texts: Count


class HashedFile(TypedDict):
    bytes: Count
    sha256: Sha256


class Machine(TypedDict):
    processor: str
    system: str
    python: str
    threads: Annotated[int, ("minimum", 1)]


class Report(TypedDict):
    """Report of seap-export validate"""

    schema: Literal["seap-export/validation/2"]
    verdict: Judged
    exit_code: Annotated[Code, "0 passed, 3 parity, 4 quality, 5 speed, 6 environment or not judged, 7 damaged"]
    failure: Annotated[str, "the first thing that did not pass, in one line; empty if all did"]
    name: Annotated[str, "the folder's own name", ("minLength", 1)]
    source: Annotated[Source | None, "the dense model"]
    checks: list[Check]
    variants: dict[str, Variant]
    tasks: Annotated[dict[str, Task], "for each task its seed, its split and what else its figures depend on"]
    frontier: NotRequired[Annotated[Frontier | None, "with targets: what was evaluated, as in frontier.json"]]
    whole: NotRequired[Annotated[dict[str, Whole], "by name: the whole model, merely rounded, as it was measured"]]
    recommended: NotRequired[Annotated[dict[str, Recommended], "by task or mixture: what to ship"]]
    files: Annotated[dict[str, HashedFile], "by path, relative to the folder"]
    versions: Annotated[dict[str, str], "of the packages, by name"]
    machine: Machine


OPEN = (Layer, Tap, Overflow, Bisect, ParityCase, Parity, Divergence, Sample, Quality, SpeedVerdict, SpeedCell, Speed,
        Task, Machine)  # fmt: skip
