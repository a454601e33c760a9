"""Two tiny models that show whether a provider works, and their expected outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOKENS, _HEADS, _HEAD_SIZE = 4, 2, 64
#: y = a @ b in float16, 4x8 by 8x4. The tests rebuild these models and compare the bytes.
_PRODUCT = bytes.fromhex(
    "080a3a550a110a01610a016212017922064d61744d756c1201675a130a0161120e0a0c080a12080a0208040a0208085a130a0162120e"
    "0a0c080a12080a0208080a02080462130a0179120e0a0c080a12080a0208040a02080442040a001015"
)
#: GroupQueryAttention in float16 as variants use it: four tokens, two query heads sharing one KV head.
_ATTENTION = bytes.fromhex(
    "080a3aa1030a82010a01710a016b0a01760a06706173745f6b0a06706173745f760a046c6173740a05746f74616c1201791205616c6c"
    "5f6b1205616c6c5f76221347726f75705175657279417474656e74696f6e2a130a0c6b765f6e756d5f68656164731801a001022a100a"
    "096e756d5f68656164731802a001023a0d636f6d2e6d6963726f736f66741201672a0d080110062a010342046c6173742a0e08011006"
    "2a01044205746f74616c5a180a017112130a11080a120d0a0208010a0208040a030880015a170a016b12120a10080a120c0a0208010a"
    "0208040a0208405a170a017612120a10080a120c0a0208010a0208040a0208405a240a06706173745f6b121a0a18080a12140a020801"
    "0a0208010a061204706173740a0208405a240a06706173745f76121a0a18080a12140a0208010a0208010a061204706173740a020840"
    "62180a017912130a11080a120d0a0208010a0208040a0308800162220a05616c6c5f6b12190a17080a12130a0208010a0208010a0512"
    "03616c6c0a02084062220a05616c6c5f7612190a17080a12130a0208010a0208010a051203616c6c0a02084042040a00101542110a0d"
    "636f6d2e6d6963726f736f66741001"
)


@dataclass(frozen=True)
class ProbeModel:
    """A model of one node, run on one provider.

    Attributes:
        feeds: Its inputs, float16.
        expected: Its first output, computed in float64 with numpy.
    """

    name: str
    node: str
    model: bytes
    feeds: Callable[[], dict[str, NDArray[Any]]]
    expected: Callable[[], NDArray[np.float64]]


def _waves(*shape: int, pace: float) -> NDArray[np.float16]:
    """Values from -1 to 1 with no regular pattern that could hide an error."""
    return np.sin(pace * np.arange(1, np.prod(shape) + 1)).reshape(shape).astype(np.float16)


def _product_feeds() -> dict[str, NDArray[Any]]:
    return {"a": _waves(4, 8, pace=1.0), "b": _waves(8, 4, pace=2.0)}


def _product_expected() -> NDArray[np.float64]:
    feeds = _product_feeds()
    return feeds["a"].astype(np.float64) @ feeds["b"].astype(np.float64)


def _attention_feeds() -> dict[str, NDArray[Any]]:
    nothing = np.zeros((1, 1, 0, _HEAD_SIZE), np.float16)
    return {
        "q": _waves(1, _TOKENS, _HEADS * _HEAD_SIZE, pace=1.0),
        "k": _waves(1, _TOKENS, _HEAD_SIZE, pace=2.0),
        "v": _waves(1, _TOKENS, _HEAD_SIZE, pace=3.0),
        "past_k": nothing,
        "past_v": nothing,
    }


def _attention_expected() -> NDArray[np.float64]:
    """Causal softmax(q k^T / sqrt(head size)) v for each head."""
    feeds = _attention_feeds()
    query = feeds["q"][0].astype(np.float64).reshape(_TOKENS, _HEADS, _HEAD_SIZE).transpose(1, 0, 2)
    key, value = (feeds[name][0].astype(np.float64) for name in "kv")
    scores = query @ key.T / _HEAD_SIZE**0.5
    weights = np.exp(scores) * np.tri(_TOKENS)
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    return mixed.transpose(1, 0, 2).reshape(1, _TOKENS, _HEADS * _HEAD_SIZE)


TRIALS = (
    ProbeModel("matrix product in float16", "MatMul", _PRODUCT, _product_feeds, _product_expected),
    ProbeModel("attention in float16", "GroupQueryAttention", _ATTENTION, _attention_feeds, _attention_expected),
)
