"""Which part of a text is thought and which is said, for the tags that reasoning models put around their thoughts."""

from __future__ import annotations

import re

_NAMES = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|scratchpad)"
_OPEN = rf"(?:<\s*{_NAMES}\s*>|\[THINK\]|◁\s*think\s*▷|<\|channel\|>\s*analysis\b|(?-i:\Aanalysis(?=[A-Z])))"
_CLOSE = (
    rf"(?:<\s*/\s*{_NAMES}\s*>|\[/THINK\]|◁\s*/\s*think\s*▷"
    r"|<\|channel\|>\s*final\s*<\|message\|>|(?-i:assistantfinal))"
)
"""The last forms are gpt-oss's channels, with special tokens and without."""
_TAG = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)


def spoken(text: str, thinking: bool = False) -> tuple[str, bool]:
    """(what stands outside of thoughts, whether the text ends inside one).

    The first closing tag ends a thought, however often it was opened. What precedes a closing tag that nothing opened
    is thought as well: many chat templates end a prompt with the opening one. A line break stands for each thought.

    Args:
        thinking: the text begins inside a thought.
    """
    said: list[str] = []
    start = 0
    for tag in _TAG.finditer(text):
        if tag["open"] is not None:
            if not thinking:
                said.append(text[start : tag.start()])
            thinking = True
            continue
        said = [*said, "\n"] if thinking else ["\n"]
        thinking, start = False, tag.end()
    if not thinking:
        said.append(text[start:])
    return "".join(said), thinking
