"""A task: a name, a corpus, and how the fields of the corpus become texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.common.templates import check_path, check_template, fields_of, is_index, look_up, render, stripped
from seap_export.corpus.answers import AnswerRule
from seap_export.corpus.conversation import Chat, Conversation, JoinedTurns, read_record
from seap_export.corpus.hub import HarnessCorpus, HubCorpus
from seap_export.corpus.memory import MemoryCorpus
from seap_export.corpus.names import NAME_RULE, is_folder_name
from seap_export.corpus.readers import place_of, read_records
from seap_export.errors import InputError, UsageError
from seap_export.runtime.job import Job

#: A file, data that are downloaded, or texts in memory.
Corpus = Path | HubCorpus | HarnessCorpus | MemoryCorpus


@dataclass(frozen=True)
class Sample:
    """A text in two parts.

    Attributes:
        prompt: The text that a model is given.
        completion: The text that it should answer; empty if there is none.
        question: The last user turn of a conversation, without its template; of other texts the prompt, or the
            completion if there is no prompt.
    """

    prompt: str
    completion: str
    question: str = ""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("a sample needs a text that is more than white space")
        object.__setattr__(self, "question", self.question or self.prompt or self.completion)

    @property
    def text(self) -> str:
        """The prompt followed by the completion."""
        return self.prompt + self.completion

    @property
    def is_conversation(self) -> bool:
        """Whether a chat template has rendered it, so that its question stands between other words."""
        return self.question not in (self.prompt, self.completion)


@dataclass(frozen=True)
class TemplateCompletion:
    """A completion produced by one template, such as ` {answer}`."""

    template: str

    def __post_init__(self) -> None:
        check_template(self.template)

    def render(self, record: Mapping[str, Any]) -> str:
        return render(self.template, record)


@dataclass(frozen=True)
class ChoiceCompletion:
    """A completion that is the right one among several choices.

    Attributes:
        choices: One template per choice, or the path of a field that holds the list of choices.
        label: Path of the field that names the right choice: its index from 0 (a truth value counts as 0
            or 1, digits as a number), the choice itself but for blanks around it, or one of `labels`.
        labels: Path of a field that holds one label per choice.
        template: How a choice becomes the completion; `{choice}` is the choice, other fields may be used.
    """

    choices: tuple[str, ...] | str
    label: str
    labels: str | None = None
    template: str = "{choice}"

    def __post_init__(self) -> None:
        if not self.choices:
            raise InputError("'choices' is empty; give a list of templates or the path of a list field")
        if isinstance(self.choices, str):
            check_path(self.choices)
        else:
            for choice in self.choices:
                check_template(choice)
        check_path(self.label)
        if self.labels is not None:
            check_path(self.labels)
        check_template(self.template)

    def render(self, record: Mapping[str, Any]) -> str:
        """The right completion of a record.

        Raises:
            InputError: The record lacks a field, or its label names none of the choices.
        """
        choices, gold = self.choices_and_gold(record)
        return choices[gold]

    def choices_and_gold(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
        """All completions of a record, and the index of the right one.

        Raises:
            InputError: The record lacks a field, or its label names none of the choices.
        """
        if isinstance(self.choices, str):
            choices = _list_field(self.choices, record)
        else:
            choices = [render(choice, record) for choice in self.choices]
        gold = self._gold_index(record, choices)
        return tuple(render(self.template, {**record, "choice": choice}) for choice in choices), gold

    def _gold_index(self, record: Mapping[str, Any], choices: Sequence[str]) -> int:
        label = look_up(self.label, record)
        if self.labels is not None:
            return _position(label, _list_field(self.labels, record), len(choices))
        names = [str(choice).strip() for choice in choices]
        if isinstance(label, str) and is_index(label):
            label = int(label)
        elif isinstance(label, str) and names.count(label.strip()) == 1:
            label = names.index(label.strip())
        if not isinstance(label, int) or not 0 <= label < len(choices):
            raise InputError(
                f"label {label!r:.40} in field '{self.label}' is neither the index of a choice (0 to "
                f"{len(choices) - 1}) nor one of {', '.join(names):.80}; use records that have a right answer, or "
                "name the field with the names of the choices as 'labels'"
            )
        return int(label)


Completion = TemplateCompletion | ChoiceCompletion


@dataclass(frozen=True)
class Task:
    """One task to prune for.

    Attributes:
        name: The name of its folders (`seap_export.corpus.names`).
        corpus: Where its records come from.
        prompt: Template of the prompt; None: records are recognised by their fields (`read_record`).
        completion: Makes the text that follows the prompt; None: nothing follows.
        answer: How the answer is found in a completion and in generated text; None: the task does not say it.
        is_conversation: Whether prompt and completion are the user's and the assistant's turn.
        system: Template of the turn before these; None: there is none.
        is_learnt: Whether variants are trained on its completions, the right answers.
        labels: All right answers that there are, if they are few.
        given_as: A path or a name that `parse_task` accepts; empty: its texts were given in memory.
    """

    name: str
    corpus: Corpus
    prompt: str | None = None
    completion: Completion | None = None
    answer: AnswerRule | None = None
    is_conversation: bool = False
    system: str | None = None
    is_learnt: bool = False
    labels: tuple[str, ...] = ()
    given_as: str = ""

    def __post_init__(self) -> None:
        if not is_folder_name(self.name):
            raise UsageError(f"task name {self.name!r} cannot name a folder; use {NAME_RULE}")
        for template in (self.prompt, self.system):
            if template is not None:
                check_template(template)

    @property
    def says_what_is_right(self) -> bool:
        """Whether it has choices with a label, or says how the answer is found."""
        return self.answer is not None or isinstance(self.completion, ChoiceCompletion)

    @property
    def job(self) -> Job | None:
        """How a variant that has learnt it is asked; None: it learns nothing, or conversations."""
        if not self.is_learnt or self.prompt is None or self.is_conversation:
            return None
        fields = fields_of(self.completion.template) if isinstance(self.completion, TemplateCompletion) else ()
        end = "" if self.answer is None else next(iter(self.answer.stop), "")
        return Job(self.prompt, end, fields[0] if len(fields) == 1 else "", self.labels)

    @property
    def notice(self) -> str:
        """A notice for the user about the corpus, such as the split that is used; "" for none.

        Raises:
            InputError, EnvironmentFailure: The corpus cannot be downloaded or used.
        """
        return "" if isinstance(self.corpus, Path) else self.corpus.notice

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of the corpus, in its order.

        Raises:
            InputError, EnvironmentFailure: The corpus cannot be read or downloaded.
        """
        return read_records(self.corpus) if isinstance(self.corpus, Path) else self.corpus.records()

    def texts(self, chat: Chat | None = None) -> Iterator[Sample]:
        """The samples of the corpus, in its order; records that yield only white space are skipped.

        Args:
            chat: Renders conversations; None: the model has no chat template.

        Raises:
            InputError: The corpus cannot be read, a record lacks a field or has no right label, or the chat template
                refuses it.
            EnvironmentFailure: The corpus cannot be downloaded.
        """

        def sample(record: Mapping[str, Any]) -> Sample | None:
            completion = "" if self.completion is None else self.completion.render(record)
            return self.sample(record, completion, chat)

        return self._each(sample)

    def prompts(self, chat: Chat | None = None) -> Iterator[Sample]:
        """The prompts of the corpus, for a model to answer; their completions are left out.

        Raises:
            InputError, EnvironmentFailure: As for `texts`, or a record has no prompt.
        """

        def prompt(record: Mapping[str, Any]) -> Sample | None:
            content = self._content({"completion": None, **record}, "")
            if isinstance(content, Conversation) and content.is_asked:
                return _sample(content.unanswered, chat)
            if isinstance(content, Conversation) or self.prompt is None:
                raise InputError(
                    "it has no prompt for the model to answer; give prompts or conversations, or leave --answers out"
                )
            return Sample(content[0], "") if content[0].strip() else None

        return self._each(prompt)

    def _each(self, sample_of: Callable[[Mapping[str, Any]], Sample | None]) -> Iterator[Sample]:
        for number, record in enumerate(self.records(), start=1):
            try:
                sample = sample_of(stripped(record) if self.is_learnt else record)
            except InputError as error:
                raise self.refusal(number, error) from error
            if sample is not None:
                yield sample

    def refusal(self, number: int, error: InputError) -> InputError:
        """The error about the record of this number, with the record's place in the corpus."""
        place = place_of(self.corpus, number) if isinstance(self.corpus, Path) else f"record {number}"
        return InputError(f"task '{self.name}': {self.corpus}, {place}: {error}")

    def sample(self, record: Mapping[str, Any], completion: str, chat: Chat | None = None) -> Sample | None:
        """A record as a sample; None if it yields only white space.

        Args:
            completion: The text that follows the prompt; not used if records are recognised by their fields.
            chat: As for `texts`.

        Raises:
            InputError: As for `texts`.
        """
        content = self._content(record, completion)
        if isinstance(content, Conversation):
            return _sample(content, chat)
        prompt, completion = content
        return Sample(prompt, completion) if prompt.strip() or completion.strip() else None

    def _content(self, record: Mapping[str, Any], completion: str) -> tuple[str, str] | Conversation:
        """The conversation of a record, or its prompt and completion."""
        if self.prompt is None:
            content = read_record(record)
            return (content, "") if isinstance(content, str) else content
        prompt = render(self.prompt, record)
        if not self.is_conversation:
            return prompt, completion
        turns = [("user", prompt)]
        if self.system is not None:
            turns.insert(0, ("system", render(self.system, record)))
        if self.completion is not None:
            turns.append(("assistant", completion))
        return Conversation(tuple({"role": role, "content": content} for role, content in turns))


def _sample(conversation: Conversation, chat: Chat | None) -> Sample | None:
    if conversation.is_blank:
        return None
    return Sample(*conversation.rendered(chat or JoinedTurns()), question=conversation.question)


def _list_field(path: str, record: Mapping[str, Any]) -> list[Any]:
    value = look_up(path, record)
    if not isinstance(value, list):
        raise InputError(f"field '{path}' is not a list, but {value!r:.40}; name a field that holds a list")
    return value


def _position(label: object, labels: list[Any], num_choices: int) -> int:
    # as texts, since a label 1 and a list of "1", "2" mean the same
    names = [str(name) for name in labels]
    if len(names) != num_choices:
        raise InputError(f"{num_choices} choices, but {len(names)} labels; correct or drop the record")
    if label is None or str(label) not in names:
        raise InputError(
            f"label {label!r:.40} is not one of the labels {', '.join(names):.80}; correct or drop the record"
        )
    return names.index(str(label))
