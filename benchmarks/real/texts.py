"""What real tokenizers and real prose do to prompts, demonstrations and steps.

python -m benchmarks.real.texts HuggingFaceTB/SmolLM2-135M-Instruct Qwen/Qwen2.5-Coder-0.5B-Instruct \\
    student.jsonl teacher.jsonl
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.real.answers import Answer, read, training_task
from benchmarks.real.numbers import mean
from benchmarks.speed.report import table
from ovd_lightning.engines.base import Completion
from ovd_lightning.engines.render import as_text, encode
from ovd_lightning.pretrained import load_tokenizer
from ovd_lightning.teachers.demonstrations import student_tokens
from ovd_lightning.tokens import decode, encode_prompt, from_first_word

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


def percent(values: Sequence[bool]) -> str:
    return f"{mean([float(value) for value in values]):.1%}"


def prompts(tokenizer: Any) -> Facts:
    """What the chat template does with messages."""
    user = encode_prompt("One?", tokenizer, chat=True)
    system = encode_prompt("One?", tokenizer, chat=True, system="SYSTEM")
    spelt = encode_prompt(SPELT, tokenizer, chat=True)
    message = {"role": "user", "content": "One?"}
    whole = tokenizer.apply_chat_template([message], tokenize=True, add_generation_prompt=True, return_dict=False)
    begun = encode(tokenizer, [message, {"role": "assistant", "content": "Two."}])
    appended = begun[: len(user)] == user and decode(tokenizer, begun[len(user) :]) == "Two."
    special = specials(tokenizer)
    count: Callable[[list[int]], int] = lambda ids: sum(i in special for i in ids)  # noqa: E731
    replaced = "SYSTEM" in tokenizer.decode(system) and count(system) == count(user)
    return [
        ("vocabulary", f"{len(tokenizer):,}"),
        ("system message of the template itself", repr(decode(tokenizer, user).split("\n")[1])),
        ("a system message takes its place", yes(replaced)),
        ("prompt is transformers' own, token by token", yes(user == whole)),
        ("prompt ends with", repr("<|im_start|>" + tokenizer.decode(user).rpartition("<|im_start|>")[2])),
        ("a begun answer is only appended", yes(appended)),
        ("special tokens in a message that spells four", str(count(spelt) - count(user))),
        ("that message decodes to itself", yes(SPELT in tokenizer.decode(spelt))),
    ]


def specials(tokenizer: Any) -> set[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {*tokenizer.all_special_ids, *added}


def endings(tokenizer: Any, answers: Sequence[Answer]) -> Facts:
    """How answers end. An answer that ended has the end of its turn as its last token, and nowhere else."""
    ended = [a for a in answers if not a.truncated]
    end, special = tokenizer.eos_token_id, specials(tokenizer)
    inside = sum(any(i in special for i in a.token_ids[:-1]) for a in answers)
    return [
        ("end of sequence", f"{tokenizer.eos_token} ({end})"),
        ("answers that ended", f"{len(ended)} of {len(answers)}"),
        ("... by it", f"{sum(a.token_ids[-1] == end for a in ended)}"),
        ("answers with a special token before their end", str(inside)),
    ]


def prose(tokenizer: Any, answers: Sequence[Answer]) -> Facts:
    """Lengths, boxes and steps of answers."""
    task = training_task(None)
    steps = [
        [decode(tokenizer, a.token_ids[s:e]) for s, e in task.split_steps(a.token_ids, tokenizer)] for a in answers
    ]
    every = [step for of_answer in steps for step in of_answer]
    lines = [line for a in answers for line in a.text.splitlines() if line.strip()]
    repeated = [a.strip() == b.strip() for of_answer in steps for a, b in pairwise(of_answer)]
    task.step_separator = "\n\n"
    paragraphs = [len(task.split_steps(a.token_ids, tokenizer)) for a in answers]
    lengths = sorted(len(a.token_ids) for a in answers)
    again = [as_text(tokenizer, a.text) for a in answers]
    own = [[i for i in a.token_ids if i != tokenizer.eos_token_id] for a in answers]
    other = [a != b for a, b in zip(own, again, strict=True)]
    return [
        ("answers", str(len(answers))),
        ("correct", percent([a.correct for a in answers])),
        ("with a box", percent(["boxed{" in a.text for a in answers])),
        ("without a box, whose last number is the reference", str(sum(map(right_in_words, answers)))),
        ("that go on with a question of their own", percent(["\nQuestion:" in a.text for a in answers])),
        ("cut off at the limit", percent([a.truncated for a in answers])),
        ("tokens, median and 90 %", f"{lengths[len(lengths) // 2]}, {lengths[len(lengths) * 9 // 10]}"),
        ("steps an answer, by lines", f"{mean([len(s) for s in steps]):.1f}, at most {max(map(len, steps))}"),
        ("steps an answer, by empty lines", f"{mean(paragraphs):.1f}, at most {max(paragraphs)}"),
        ("answers with one step, by lines", percent([len(s) == 1 for s in steps])),
        ("steps without a visible character", str(sum(not step.strip() for step in every))),
        ("lines without a letter or digit", percent([not from_first_word(line) for line in lines])),
        ("steps without a letter or digit", percent([not from_first_word(step) for step in every])),
        ("steps that repeat the one before", percent(repeated)),
        ("answers whose text encodes to other tokens", percent(other)),
    ]


def right_in_words(answer: Answer) -> bool:
    """As far as a pattern can say."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer.text)
    return answer.found is None and bool(numbers) and numbers[-1].replace(",", "") in answer.gold


def demonstrations(tokenizers: dict[str, Any], answers: Sequence[Answer]) -> Facts:
    """The teacher's answers in the student's tokens."""
    student, teacher = tokenizers["student"], tokenizers["teacher"]
    read_back: list[bool] = []
    complete: list[bool] = []
    cut: list[bool] = []
    boundaries: list[tuple[int, int]] = []
    lengths: list[tuple[int, int]] = []
    for a in answers:
        written = Completion(text=a.text, token_ids=list(a.token_ids), logprobs=None, truncated=a.truncated)
        ids = student_tokens(written, student, same=False)
        read_back.append(decode(student, ids) == a.text)
        (complete if not a.truncated else cut).append(ids[-1] == student.eos_token_id)
        bare = [i for i in ids if i != student.eos_token_id]
        whole = [i for i in a.token_ids if i != teacher.eos_token_id]
        ours, theirs = set(boundaries_of(student, bare)), set(boundaries_of(teacher, whole))
        boundaries.append((len(ours ^ theirs), len(ours | theirs)))
        lengths.append((len(bare), len(whole)))
    differ, all_of_them = map(sum, zip(*boundaries, strict=True))
    ours_long, theirs_long = map(sum, zip(*lengths, strict=True))
    return [
        ("demonstrations", str(len(answers))),
        ("text is the same after encoding and decoding", percent(read_back)),
        ("student's tokens for one of the teacher's", f"{ours_long / theirs_long:.3f}"),
        ("token boundaries that only one of the two has", f"{differ / all_of_them:.1%}"),
        ("ended, and have the student's end of sequence", f"{sum(complete)} of {len(complete)}"),
        ("cut off, and have it nevertheless", f"{sum(cut)} of {len(cut)}"),
        ("longer than 256 of the student's tokens", str(sum(ours > 256 for ours, _ in lengths))),
    ]


def boundaries_of(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Where tokens end in the text's bytes: one character of a byte-level token is one byte."""
    return list(accumulate(map(len, tokenizer.convert_ids_to_tokens(list(ids)))))


if __name__ == "__main__":
    auto_cli(main)
