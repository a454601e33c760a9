"""The Modelfile beside a GGUF file, from which `ollama create` makes a model.

Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx, and template.mdx beside it. Ollama knows the
templates of a few families by heart; for every other model it needs this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.runtime.chat import ChatTemplate, Message, read_chat_template
from seap_export.runtime.files import load_tokenizer

#: Tokens of the context at most, for Ollama allocates the whole cache; users set more with `num_ctx`.
_MOST_CONTEXT = 8192
_CONTENT = "{{ .Content }}"
#: Contents that stand for those of turns.
_SYSTEM, _USER, _ANSWER, _LAST = "«system»", "«user»", "«answer»", "«last»"


def modelfile(model_folder: Path, spec: ModelSpec, file: str) -> str:
    """The text of the Modelfile: the file, the template if Ollama can express it, the stops, the context."""
    lines = [f"FROM ./{file}"]
    tokenizer = load_tokenizer(model_folder)
    template = read_chat_template(model_folder, tokenizer)
    if template is not None:
        turns = _turns(template)
        lines += [] if turns is None else turns.lines()
        ends = (tokenizer.id_to_token(token) for token in sorted(template.turn_ends(tokenizer)))
        lines += [f'PARAMETER stop "{end}"' for end in ends if end and _is_plain(end)]
    lines.append(f"PARAMETER num_ctx {min(spec.max_position_embeddings, _MOST_CONTEXT)}")
    return "\n".join(lines) + "\n"


def _is_plain(text: str) -> bool:
    """Whether a text can stand between quotation marks: a line break would begin an instruction of its own."""
    return '"' not in text and text.isprintable()


@dataclass(frozen=True)
class _Turns:
    """A chat template that puts the same texts around every turn of a role."""

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    start: str = ""
    usual: str | None = None

    def text(self, messages: Sequence[Message]) -> str:
        """Renders a conversation up to where the model answers."""
        turns: list[Message] = list(messages)
        if self.usual is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.usual})
        around = {role: getattr(self, role) for role in ("system", "user", "assistant")}
        return self.start + "".join(turn["content"].join(around[turn["role"]]) for turn in turns) + self.answer

    def lines(self) -> list[str]:
        """The lines of a Modelfile with the template in Go's language; none if a text cannot be written in it."""
        texts = (*self.system, *self.user, *self.assistant, self.answer, self.start, self.usual or "")
        if any(mark in text for text in texts for mark in ("{{", "}}", '"""')):
            return []
        turns = (
            f'if eq .Role "{role}" }}}}{_CONTENT.join(around)}{{{{ '
            for role, around in (("system", self.system), ("user", self.user), ("assistant", self.assistant))
        )
        template = f"{self.start}{{{{ range .Messages }}}}{{{{ {'else '.join(turns)}end }}}}{{{{ end }}}}{self.answer}"
        if any(text.startswith('"') or text.endswith('"') for text in (template, self.usual or "")):
            return []  # which would end the text before it ends, or later
        usual = [] if self.usual is None else [f'SYSTEM """{self.usual}"""']
        return [f'TEMPLATE """{template}"""', *usual]


def _turns(template: ChatTemplate) -> _Turns | None:
    """The template as the texts around turns; None: it says more than that, such as the date."""
    whole = [_turn("system", _SYSTEM), _turn("user", _USER), _turn("assistant", _ANSWER), _turn("user", _LAST)]
    asked = [whole[:2], whole, whole[1:2], whole[1:]]
    try:
        rendered = [template.render(messages, add_generation_prompt=True) for messages in asked]
        (_, full, single, _), unasked = rendered, template.render(whole)
        ended = template.render(whole[:3]).partition(_ANSWER)[2]
        turns = _around(full, full.removeprefix(unasked), ended)
    except (InputError, ValueError):
        return None
    before = single.removesuffix(turns.text(whole[1:2]))
    if before and turns.system[0].startswith(before):
        turns = replace(turns, start=before, system=(turns.system[0].removeprefix(before), turns.system[1]))
    elif before:
        usual = before.removeprefix(turns.system[0]).removesuffix(turns.system[1])
        turns = replace(turns, usual=usual)
    is_same = all(turns.text(messages) == text for messages, text in zip(asked, rendered, strict=True))
    return turns if is_same and not any("strftime_now" in source for source in template.sources.values()) else None


def _around(full: str, answer: str, ended: str) -> _Turns:
    """The texts around the turns of a rendered conversation."""
    texts, rest = [], full
    for content in (_SYSTEM, _USER, _ANSWER, _LAST):
        before, rest = rest.split(content)
        texts.append(before)
    after_user = rest.removesuffix(answer)
    before_user = texts[3].removeprefix(ended)
    return _Turns(
        (texts[0], texts[1].removesuffix(before_user)),
        (before_user, after_user),
        (texts[2].removeprefix(after_user), ended),
        answer,
    )


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}
