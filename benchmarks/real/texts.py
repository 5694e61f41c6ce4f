"""What real tokenizers and real prose do to prompts, demonstrations and steps.

python -m benchmarks.real.texts HuggingFaceTB/SmolLM2-135M-Instruct Qwen/Qwen2.5-Coder-0.5B-Instruct \\
    student.jsonl teacher.jsonl
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.real.answers import Answer, read, training_task
from benchmarks.real.numbers import mean
from benchmarks.speed.report import table
from ovd_lightning.engines.base import Completion
from ovd_lightning.engines.render import encode
from ovd_lightning.pretrained import load_tokenizer
from ovd_lightning.teachers.demonstrations import student_tokens
from ovd_lightning.tokens import decode, encode_prompt

SPELT = "1 <|im_end|>\n<|im_start|>assistant\n2 <|endoftext|> </s>"
"""A message that spells special tokens."""


def main(student: str, teacher: str, student_answers: Path, teacher_answers: Path) -> None:
    """Print the tables.

    Args:
        student: a folder or a hub id.
        teacher: the same.
        student_answers: made by benchmarks.real.sample.
        teacher_answers: the same; they are the demonstrations.
    """
    tokenizers = {"student": load_tokenizer("student", student), "teacher": load_tokenizer("teacher", teacher)}
    answers = {"student": read(student_answers), "teacher": read(teacher_answers)}
    facts = {name: [*prompts(t), *endings(t, answers[name])] for name, t in tokenizers.items()}
    print(side_by_side("prompts and endings", facts), "\n")
    print(side_by_side("answers", {name: prose(tokenizers[name], answers[name]) for name in tokenizers}), "\n")
    print(table(("demonstrations, re-encoded by the student", ""), demonstrations(tokenizers, answers["teacher"])))


Facts = list[tuple[str, str]]


def side_by_side(title: str, facts: dict[str, Facts]) -> str:
    rows = [(lines[0][0], *(value for _, value in lines)) for lines in zip(*facts.values(), strict=True)]
    return table((title, *facts), rows)


def yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def prompts(tokenizer: Any) -> Facts:
    """What the chat template does with messages."""
    user = encode_prompt("One?", tokenizer, chat=True)
    system = encode_prompt("One?", tokenizer, chat=True, system="SYSTEM")
    spelt = encode_prompt(SPELT, tokenizer, chat=True)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "One?"}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    begun = encode(tokenizer, [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}])
    control = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")}
    count: Callable[[list[int]], int] = lambda ids: sum(i in control for i in ids)  # noqa: E731
    return [
        ("vocabulary", f"{len(tokenizer):,}"),
        ("system message of the template itself", repr(decode(tokenizer, user).split("\n")[1][:40])),
        ("a system message takes its place", yes("SYSTEM" in tokenizer.decode(system) and count(system) == count(user))),
        ("prompt is transformers' own, token by token", yes(user == whole)),
        ("prompt ends with", repr(tokenizer.decode(user[-3:]))),
        ("a begun answer is only appended", yes(begun[: len(user)] == user and decode(tokenizer, begun[len(user) :]) == "Two.")),
        ("special tokens in a message that spells four", str(count(spelt) - count(user))),
        ("that message decodes to itself", yes(SPELT in tokenizer.decode(spelt))),
    ]  # fmt: skip


def endings(tokenizer: Any, answers: Sequence[Answer]) -> Facts:
    """How answers end. An answer that ended has the end of its turn as its last token, and nowhere else."""
    ended = [a for a in answers if not a.truncated]
    end = tokenizer.eos_token_id
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return [
        ("end of sequence", f"{tokenizer.eos_token} ({end})"),
        ("answers that ended", f"{len(ended)} of {len(answers)}"),
        ("... by it", f"{sum(a.token_ids[-1] == end for a in ended)}"),
        ("answers with a special token before their end", f"{sum(any(i in special for i in a.token_ids[:-1]) for a in answers)}"),
    ]  # fmt: skip


def prose(tokenizer: Any, answers: Sequence[Answer]) -> Facts:
    """Lengths, boxes and steps of answers."""
    task = training_task(None)
    steps = [
        [decode(tokenizer, a.token_ids[s:e]) for s, e in task.split_steps(a.token_ids, tokenizer)] for a in answers
    ]
    every = [step for of_answer in steps for step in of_answer]
    task.step_separator = "\n\n"
    paragraphs = [len(task.split_steps(a.token_ids, tokenizer)) for a in answers]
    lengths = sorted(len(a.token_ids) for a in answers)
    again = [tokenizer.encode(a.text, add_special_tokens=False, split_special_tokens=True) for a in answers]
    own = [[i for i in a.token_ids if i != tokenizer.eos_token_id] for a in answers]
    return [
        ("answers", str(len(answers))),
        ("correct", f"{mean([a.correct for a in answers]):.1%}"),
        ("with a box", f"{mean(['boxed{' in a.text for a in answers]):.1%}"),
        ("cut off at the limit", f"{mean([a.truncated for a in answers]):.1%}"),
        ("tokens, median and 90 %", f"{lengths[len(lengths) // 2]}, {lengths[len(lengths) * 9 // 10]}"),
        ("steps an answer, by lines", f"{mean([len(s) for s in steps]):.1f}, at most {max(map(len, steps))}"),
        ("steps an answer, by empty lines", f"{mean(paragraphs):.1f}, at most {max(paragraphs)}"),
        ("answers with one step, by lines", f"{mean([len(s) == 1 for s in steps]):.1%}"),
        ("steps without a visible character", str(sum(not step.strip() for step in every))),
        ("steps without a letter or digit", f"{mean([not any(map(str.isalnum, step)) for step in every]):.1%}"),
        ("steps that repeat the one before", f"{mean([a.strip() == b.strip() for s in steps for a, b in pairwise(s)]):.1%}"),
        ("answers whose text encodes to other tokens", f"{mean([a != b for a, b in zip(own, again, strict=True)]):.1%}"),
    ]  # fmt: skip


def demonstrations(tokenizers: dict[str, Any], answers: Sequence[Answer]) -> Facts:
    """The teacher's answers in the student's tokens."""
    student, teacher = tokenizers["student"], tokenizers["teacher"]
    translated = []
    for a in answers:
        written = Completion(text=a.text, token_ids=list(a.token_ids), logprobs=None, truncated=a.truncated)
        translated.append(student_tokens(written, student, same=False))
    whole = [[i for i in a.token_ids if i != teacher.eos_token_id] for a in answers]
    bare = [[i for i in ids if i != student.eos_token_id] for ids in translated]
    pieces = [set(pieces_of(student, one)) ^ set(pieces_of(teacher, two)) for one, two in zip(bare, whole, strict=True)]
    all_pieces = [
        set(pieces_of(student, one)) | set(pieces_of(teacher, two)) for one, two in zip(bare, whole, strict=True)
    ]
    ended = [ids[-1] == student.eos_token_id for ids in translated]
    return [
        ("demonstrations", str(len(answers))),
        ("text is the same after encoding and decoding", f"{mean([decode(student, ids) == a.text for ids, a in zip(translated, answers, strict=True)]):.1%}"),
        ("student's tokens for one of the teacher's", f"{sum(map(len, bare)) / sum(map(len, whole)):.3f}"),
        ("token boundaries that differ", f"{sum(map(len, pieces)) / sum(map(len, all_pieces)):.1%}"),
        ("that ended, and have the student's end of sequence", f"{sum(e for e, a in zip(ended, answers, strict=True) if not a.truncated)} of {sum(not a.truncated for a in answers)}"),
        ("that were cut off, and have it nevertheless", f"{sum(e for e, a in zip(ended, answers, strict=True) if a.truncated)} of {sum(a.truncated for a in answers)}"),
        ("longer than the student's 256 tokens", f"{sum(len(ids) > 256 for ids in translated)}"),
    ]  # fmt: skip


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of each token in the text's bytes, as byte-level vocabularies have them."""
    places, at = [], 0
    for token in tokenizer.convert_ids_to_tokens(list(ids)):
        places.append((at, at + len(token)))
        at += len(token)
    return places


if __name__ == "__main__":
    auto_cli(main)
