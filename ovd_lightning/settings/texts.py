"""Texts that must hold something, as types of arguments: ``prompt: QuestionPrompt = "{question}\\n"``.

As ranges.py does for numbers: the parser checks them, constructors get plain texts, and Python code is not checked.
"""

from __future__ import annotations

import string
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jsonargparse.typing import register_type


@dataclass(frozen=True)
class Template:
    """Texts with places like ``{question}``, which are replaced; other braces, such as LaTeX's, mean nothing.

    Args:
        required: names of the places that a text must have; with none, any text but the empty one.
        once: a place may come once only.
    """

    required: tuple[str, ...] = ()
    once: bool = False

    def __contains__(self, text: str) -> bool:
        counts = [text.count(f"{{{name}}}") for name in self.required]
        return text != "" and all(count == 1 if self.once else count > 0 for count in counts)

    def read(self, value: object) -> str:
        """The text that a setting is given as. Raises: ValueError, in the form that settings/messages.py reads."""
        if not isinstance(value, str) or value not in self:
            raise ValueError(f"Use {self}. Got value: {str(value)[:100]!r}")
        return value

    def is_read(self, value: object, text_type: type) -> bool:
        """Whether a value needs no reading: jsonargparse's check whether it is of the registered type."""
        return isinstance(value, str) and value in self

    def __str__(self) -> str:
        """As in "Use a text with {question} in it."."""
        if not self.required:
            return "a text that is not empty"
        return f"a text with {_listed(self.required)} in it{', once' if self.once else ''}"


@dataclass(frozen=True)
class Format(Template):
    """Templates for ``str.format``: other braces are written twice.

    Args:
        optional: further places that a text may have.
    """

    optional: tuple[str, ...] = ()

    def __contains__(self, text: str) -> bool:
        with suppress(ValueError):  # a single brace
            names = places(text)
            return names.issuperset(self.required) and names.issubset((*self.required, *self.optional))
        return False

    def __str__(self) -> str:
        places = [f"with {_listed(self.required)}"] if self.required else []
        places += [f"if you like with {_listed(self.optional)}"] if self.optional else []
        return f"a text, {', '.join(places)}; any other brace is written twice"


def places(text: str) -> set[str]:
    """The names in the braces of a text for ``str.format``. Raises: ValueError for a single brace."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def text_type(name: str, template: Template) -> type:
    """A type that stands for a template in annotations; values are plain texts, never its instances."""
    created = type(name, (str,), {"__module__": __name__, "__doc__": str(template)})
    register_type(created, serializer=str, deserializer=template.read, type_check=template.is_read)
    return created


if TYPE_CHECKING:
    NonEmptyText = str
    QuestionPrompt = str
    InstructionTemplate = str
    DocumentFormat = str
    SimulatorPrompt = str
    ReaderPrompt = str
    ReasonFormat = str
    HintFormat = str
else:
    NonEmptyText = text_type("NonEmptyText", Template())
    QuestionPrompt = text_type("QuestionPrompt", Template(("question",), once=True))
    InstructionTemplate = text_type("InstructionTemplate", Template(("instruction",)))
    DocumentFormat = text_type("DocumentFormat", Format(("text",), optional=("id", "rank", "score", "title")))
    SimulatorPrompt = text_type(
        "SimulatorPrompt", Format(("query",), optional=("question", "answer", "count", "kind", "Kind"))
    )
    ReaderPrompt = text_type("ReaderPrompt", Template(("documents",)))
    ReasonFormat = text_type("ReasonFormat", Format(optional=("reason",)))
    HintFormat = text_type("HintFormat", Format(("prompt", "reference")))
