"""Which tokens are kept, what must be and then in the order of the merges, and how many a further text will lack."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.tokenizers import random_bpe, write_byte_level

from seap_export.common.json_file import read_json
from seap_export.errors import InputError, UsageError
from seap_export.model.vocabulary.choice import MULTIPLE, choose_tokens, parse_size, required_tokens
from seap_export.model.vocabulary.pairs import BytePairs
from seap_export.model.vocabulary.use import TokenUse


def test_bytes_added_tokens_used_ones_and_those_of_the_fallback_are_kept() -> None:
    content = random_bpe(1, "bytes")
    ids = content["model"]["vocab"]
    longest = max(ids, key=len)
    required = required_tokens(content, BytePairs.read(content), frozenset({ids[longest]}))
    assert {ids["<s>"], ids[longest], *(token for text, token in ids.items() if len(text) == 1)} <= required
    assert ids["<unk>"] not in required
    content = random_bpe(1, "fallback")  # which needs what the decoder replaces, too
    ids = content["model"]["vocab"]
    ids["\u4e2d"] = len(ids)
    required = required_tokens(content, BytePairs.read(content), frozenset())
    assert {ids["<unk>"], ids["\u2581"], *(ids[f"<0x{value:02X}>"] for value in range(256))} <= required
    assert ids["\u4e2d"] not in required  # cut into bytes


def test_further_tokens_come_in_the_order_of_the_merges_with_what_makes_them() -> None:
    content = random_bpe(2, "bytes")
    pairs = BytePairs.read(content)
    required = required_tokens(content, pairs, frozenset())
    texts = {token: text for text, token in pairs.ids.items()}
    before: set[int] = set()
    for more in range(1, 21):
        kept = choose_tokens(pairs, required, len(required) + more, len(texts))
        assert len(kept) == len(required) + more
        ids = set(kept.kept)
        assert all(pairs.parts(texts[token]) <= ids for token in ids - required)
        before = before or ids
    first = next(token for _, token in sorted(pairs.merges.values()) if len(pairs.parts(texts[token]) - required) == 1)
    assert before - required == {first}


def test_a_tokenizers_own_order_is_kept(tmp_path: Path) -> None:
    """Where each merge comes after those of its parts, as a training gives them, the kept ones are the first."""
    write_byte_level(tmp_path)
    pairs = BytePairs.read(content := read_json(tmp_path / "tokenizer.json"))
    required = required_tokens(content, pairs, frozenset())
    first = [token for _, token in sorted(pairs.merges.values())]
    assert set(choose_tokens(pairs, required, len(required) + 9, len(pairs.ids)).kept) - required == set(first[:9])


def test_sizes_are_read_and_auto_rounds_up_what_is_required() -> None:
    assert [parse_size(text) for text in ("all", "auto", "16384")] == ["all", "auto", 16384]
    for text in ("0", "-1", "1e4", "", "٣", "9" * 20):
        with pytest.raises(UsageError, match="a number, auto or all"):
            parse_size(text)
    content = random_bpe(3, "bytes", merges=0)
    ids = content["model"]["vocab"]
    content["model"]["merges"] = [[one, other] for one in list(ids)[2:22] for other in list(ids)[2:22]]
    ids |= {"".join(pair): len(ids) + index for index, pair in enumerate(content["model"]["merges"])}
    pairs = BytePairs.read(content)
    required = required_tokens(content, pairs, frozenset())
    assert MULTIPLE < len(required) < 2 * MULTIPLE < len(ids)
    assert len(choose_tokens(pairs, required, "auto", len(ids))) == 2 * MULTIPLE
    with pytest.raises(UsageError, match=f"too small.*at least {len(required)}"):
        choose_tokens(pairs, required, len(required) - 1, len(pairs.ids))
    with pytest.raises(UsageError, match=f"cuts nothing.*{len(pairs.ids)} tokens"):
        choose_tokens(pairs, required, len(pairs.ids), len(pairs.ids))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"type": "Unigram", "vocab": [["a", -1.0]]}, "scores of all tokens"),
        ({"type": "WordPiece", "vocab": {"a": 0}}, "'unknown'"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}, "dropout"),
        (
            {"type": "BPE", "vocab": {"a": 0, "u": 1, "au": 2}, "merges": ["a u"], "unk_token": "u"},
            "merges byte tokens",
        ),
    ],
)
def test_other_tokenizers_are_refused_with_the_reason(model: dict, reason: str) -> None:
    with pytest.raises(InputError, match=f"{reason}.*--vocabulary all"):
        BytePairs.read({"model": model})


def _use(texts: list[list[int]]) -> TokenUse:
    use = TokenUse()
    for ids in texts:
        use.add(f"{ids}", ids)
    return use


def _left_out(texts: list[list[int]], kept: set[int]) -> float:
    """The same share by its definition."""
    missing = 0
    for number, ids in enumerate(texts):
        others = {token for further in (*texts[:number], *texts[number + 1 :]) for token in further}
        missing += sum(token not in others | kept for token in ids)
    return missing / sum(map(len, texts))


@pytest.mark.parametrize("seed", range(2))
def test_missing_is_what_each_text_has_alone(seed: int) -> None:
    drawn = random.Random(seed)
    texts = [[number, *drawn.choices(range(30, 90), k=drawn.randint(1, 8))] for number in range(25)]
    kept = set(range(0, 90, 7))
    assert 0 < _use(texts).missing(kept) == pytest.approx(_left_out(texts, kept))
    halves = _use(texts[:10]).together_with(_use(texts[10:]))
    assert halves.missing(kept) == pytest.approx(_left_out(texts, kept))
    assert halves.tokens == {token for ids in texts for token in ids}


def test_what_counts_as_a_text() -> None:
    once = [[1, 2], [1, 3]]
    assert _use([*once, *once]).missing(()) == _use(once).missing(()) == 0.5
    answered = _use(once)
    answered.add("2 answered otherwise", [1, 2, 4], version_of=f"{[1, 2]}")
    assert answered.missing(()) == 4 / 7
    asked = _use([[1, 2], [2, 1]])
    asked.add_uncounted([9])  # of a prompt alone
    assert (asked.tokens, asked.missing(())) == ({1, 2, 9}, 0.0)
    assert TokenUse().missing(()) == 0.0
