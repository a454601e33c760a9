"""Texts and conversations on which a runtime's tokenizer and chat template are tested, besides the prompts."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from validation.runtimes.texts import Conversation

#: Texts by what is hard about them. Each has one difficulty, so that a difference is named by it.
HARD_STRINGS: Mapping[str, str] = {
    "nothing": "",
    "a space": " ",
    "many spaces": "a" + " " * 17 + "b",
    "space at the start": " the cat",
    "spaces at the start": "   the cat",
    "space at the end": "the cat ",
    "spaces at the end": "the cat   ",
    "a line break": "\n",
    "line breaks": "one\ntwo\n\nthree\n\n\n four\n",
    "line breaks of Windows": "one\r\ntwo\r\n\r\nthree\rfour",
    "spaces before a line break": "one  \n  two \n",
    "tabs": "\tone\t\ttwo \t three",
    "other spaces": "a\u00a0b\u2003c\u3000d\u200be\u202ff",
    "line separators": "a\u2028b\u2029c\x0bd\x0ce\x85f",
    "control characters": "a\x01b\x07c\x1bd\x7fe",
    "soft hyphen and word joiner": "co\u00adoperate a\u2060b",
    "byte order mark": "\ufeffthe cat",
    "byte order mark inside": "the\ufeff cat",
    "upper and lower case": "THE Cat sAT oN iPhone McDonald's",
    "apostrophes": "I'm we'll they've he'd it's don't I'M WE'LL it\u2019s 'quoted' 's",
    "punctuation": (
        "Wait... what?! (yes) [no] {maybe} <tag> a--b \u2013 \u2014 \u2026 \u00abquote\u00bb \u201cquote\u201d"
    ),
    "symbols": "$5 + \u20ac6 = \u00a311 & 10% @home #1 *bold* ~x^2 \\n |a| a_b `c`",
    "a long word": "pneumonoultramicroscopicsilicovolcanoconiosis" * 8,
    "one letter many times": "a" * 300,
    "a very long line": "lorem ipsum " * 200,
    "groups of digits": "1 12 123 1234 12345 123456 1234567 1,234,567.89 1.000.000,5",
    "many digits": "31415926535897932384626433832795028841971",
    "digits of other scripts": "\u0661\u0662\u0663 \u0967\u0968\u0969 \uff11\uff12\uff13 \u2460 \u00bd \u00b2 \u2167",
    "digits and letters": "a1b2 3D 4x4 covid19 H2O 0x1F 1e-5 v1.2.3",
    "code": 'def f(x: int) -> str:\n    """Doc."""\n\tif x != 0: return f"{x!r}"  # comment\n    return a[-1:][::2]\n',
    "markup": '<p class="a">&amp;&lt;b&gt;</p><!-- x --><br/>',
    "JSON": '{"a": [1, 2.5e3, null, true], "b": "\\u00e9\\n", "c": {}}',
    "an address": "https://example.org/a/b?c=d%20e&f=g#h user@example.org C:\\dir\\file.txt",
    "combining marks": (
        "e\u0301 n\u0303 a\u0308\u0304 \u1100\u1161\u11a8 \u0915\u094d\u0937\u093f Z\u0335\u0321\u0316a\u0336\u0322l"
    ),
    "composed": unicodedata.normalize("NFC", "\u00e9\u00f1\u00fc\u00c5 \uac01 caf\u00e9 na\u00efve"),
    "decomposed": unicodedata.normalize("NFD", "\u00e9\u00f1\u00fc\u00c5 \uac01 caf\u00e9 na\u00efve"),
    "compatibility forms": "\ufb01 \u2122 \uff21\uff22\uff23 \u212b \u2126 \u33a5 \u1e9b\u0323",
    "accents": (
        "\u00c0 la Fran\u00e7aise: \u0153uvre, stra\u00dfe, \u0141\u00f3d\u017a, \u011frenci, \u0130stanbul, \u1e9e"
    ),
    "Chinese and Japanese": (
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059"
        "\u3002\U00020bb7\u91ce\u5bb6 \ud55c\uad6d\uc5b4"
    ),
    "Arabic and Hebrew": (
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064e\u062a"
        "\u064e\u0628\u064e \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u200f\u202bx\u202c\u200e"
    ),
    "Indian and Thai": (
        "\u0928\u092e\u0938\u094d\u0924\u0947 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0e2a\u0e27\u0e31\u0e2a\u0e14"
        "\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 \u1019\u103c\u1014\u103a\u1019\u102c \u0f56\u0f7c\u0f51"
    ),
    "Greek and Cyrillic": (
        "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2, \u041f"
        "\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u0436 \u0407\u0436\u0430\u043a"
    ),
    "mixed scripts": (
        "abc\u0434\u0435\u0436\u4e2d\u6587123\u0639\u0631\u0628\u064a\u03b1\u03b2\u03b3\u0e44\u0e17\u0e22xyz"
    ),
    "emoji": "\U0001f600\U0001f680 \u2764\ufe0f \u2764 \u2603\ufe0e ok\U0001f44d",
    "emoji with joiners": (
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 "
        "\U0001f9d1\U0001f3fd\u200d\U0001f4bb"
    ),
    "flags and keycaps": (
        "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 1\ufe0f\u20e3 \U0001f3f4\U000e0067\U000e0062\U000e0073"
        "\U000e0063\U000e0074\U000e007f"
    ),
    "rare planes": "\U00012000 \U0001d54f\U0001d4b3 \U000132f9 \U0010fffd \ue000",
    "unassigned and not characters": "\u0378 \ufffe \uffff \U000e01ff",
    "replacement characters": "\ufffd a\ufffd\ufffdb \ufffd",
    "bytes as text": "<0x0A><0xE2><0x80> \u0120the \u2581the \u010a ##ing",
    "names of special tokens": (
        "<s></s><pad><unk><|endoftext|><|im_start|>user<|im_end|><|eot_id|>[INST] [/INST]<end_of_turn>"
    ),
    "parts of special tokens": "<|im_ <|im_start |> < s> <</s>> <|endoftext",
    "spaces in other places": " , . a , b .c ( d ) \" e \" ' f '",
}

_SYSTEM = {"role": "system", "content": "You answer briefly."}
_USER = {"role": "user", "content": "What is 12 + 30?"}
_ANSWER = {"role": "assistant", "content": "42"}
_HARD = {
    "role": "user",
    "content": '  A "quoted" <b>word</b> & \u00e9\u00f1 \U0001f600\n\n{{ braces }} {% tag %} \\n  ',
}
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name"}},
            "required": ["city"],
        },
    },
}
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Z\u00fcrich"}}}
    ],
}
_RESULT = {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": '{"sky": "clear"}'}
CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation("a question", (_USER,)),
    Conversation("a system prompt", (_SYSTEM, _USER)),
    Conversation("several turns", (_SYSTEM, _USER, _ANSWER, _HARD)),
    Conversation("a whole conversation", (_USER, _ANSWER), prompts=False),
    Conversation("tools", (_USER,), tools=(_WEATHER,)),
    Conversation("a call of a tool", (_USER, _CALL, _RESULT), tools=(_WEATHER,)),
)
