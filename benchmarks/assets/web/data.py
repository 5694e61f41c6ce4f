"""Training rows: trajectories of searching and scoring prompts as token ids, targets and weights."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.assets.rows import ERROR_WEIGHT, EXPECTED_WEIGHT, SEVERITY, Row, Verdict
from benchmarks.assets.web.searching import (
    SIZES,
    Alter,
    Judged,
    Library,
    Piece,
    faults,
    habits,
    into_steps,
    judge,
    rightly,
    write,
)
from benchmarks.assets.web.vocabulary import (
    CURRENT,
    EOS,
    IDS,
    INVALID,
    PAD,
    PREVIOUS,
    PROBLEM,
    QUESTION,
    SOLUTION,
    STEP_TAIL,
    TRAJECTORY_TAIL,
    UNK,
    encode,
)
from ovd_lightning.tasks.small_world import World, ask

Chain = tuple[str, tuple[str, ...]]
"""(entity, relations)"""


def libraries(count: int, first_seed: int) -> list[Library]:
    """Worlds to pretrain on; the task's own seeds are small, these begin at ``first_seed``."""
    return [Library(World(first_seed + i, {"train": SIZES})) for i in range(count)]


def draw_chain(rng: random.Random, library: Library, one_hop: float = 0.5) -> Chain:
    chains = library.chains[0 if rng.random() < one_hop else 1]
    return chains[int(rng.random() * len(chains))]


def trajectory_row(chain: Chain, pieces: Sequence[Piece]) -> Row:
    """A trajectory to learn as it is written; nothing is learned of observations."""
    tokens = encode(f"{QUESTION} {ask(*chain)}\n")
    weights = [0.0] * len(tokens)
    for text, observed in pieces:
        ids = encode(text)
        tokens += ids
        weights += [0.0 if observed else 1.0] * len(ids)
    return Row(tokens, [*tokens[1:], IDS[EOS]], [*weights[1:], 1.0])


def scoring_row(chain: Chain, steps: Sequence[Judged], scored: int | None) -> Row:
    """The prompt that scores step ``scored``, or the whole trajectory if it is None.

    Along the way the position before each written token predicts the token that *should* stand there, and the
    positions from the first that should not to the end of the step predict ``<unk>``: the comparison that a score
    needs is taught where it happens.
    """
    inputs = encode(f"{PROBLEM} {ask(*chain)}{SOLUTION if scored is None else PREVIOUS} ")
    targets, weights = [IDS[PAD]] * (len(inputs) - 1), [0.0] * (len(inputs) - 1)

    def add(token: int, target: int, weight: float) -> None:
        inputs.append(token)
        targets.append(target)
        weights.append(weight)

    if scored == 0:
        add(IDS[CURRENT], IDS[PAD], 0.0)
        add(IDS[" "], IDS[PAD], 0.0)
    shown = steps if scored is None else steps[: scored + 1]
    for i, step in enumerate(shown):
        matches, read = True, False
        due = iter(encode(step.query))
        for piece in step.pieces:
            if piece.observed:
                for token in encode(piece.text):
                    add(token, IDS[PAD], 0.0)
                if piece.text != INVALID and not read:
                    read, due = True, iter(encode(step.reading))
                continue
            for token in encode(piece.text):
                right = next(due, IDS[UNK]) if matches else IDS[UNK]
                add(token, right, EXPECTED_WEIGHT if matches else ERROR_WEIGHT)
                matches = matches and token == right
        if i == len(shown) - 1:
            add(IDS[TRAJECTORY_TAIL if scored is None else STEP_TAIL], IDS[PAD], 0.0)
        elif i + 1 == scored:
            add(IDS[CURRENT], IDS[PAD], 0.0)
            add(IDS[" "], IDS[PAD], 0.0)
        elif scored is not None:
            add(IDS["\n"], IDS[PAD], 0.0)
    verdict: Verdict
    verdict = steps[scored].verdict if scored is not None else max((s.verdict for s in steps), key=SEVERITY.index)
    return Row(inputs, [*targets, IDS[PAD]], [*weights, 0.0], verdict)


def student_row(worlds: Sequence[Library], rate: float, rng: random.Random) -> Row:
    """A trajectory with habits."""
    library = worlds[int(rng.random() * len(worlds))]
    chain = draw_chain(rng, library)
    return trajectory_row(chain, write(library, rng, *chain, habits(rate)))


def teacher_row(worlds: Sequence[Library], scoring: float, rng: random.Random) -> Row:
    """A right trajectory, or with probability ``scoring`` a scoring prompt (one in ten of a whole trajectory)."""
    library = worlds[int(rng.random() * len(worlds))]
    chain = draw_chain(rng, library)
    if rng.random() >= scoring:
        return trajectory_row(chain, write(library, rng, *chain, rightly))
    alter: Alter = rightly
    if (kind := rng.random()) < 0.35:
        alter = habits(rng.choice((0.4, 0.8)))
    elif kind < 0.85:
        alter = faults(int(rng.random() * len(chain[1])))
    steps = judge(library.world, *chain, into_steps(write(library, rng, *chain, alter)))
    if rng.random() < 0.1:
        return scoring_row(chain, steps, None)
    first_wrong = next((i for i, step in enumerate(steps) if step.verdict != "right"), None)
    if first_wrong is None or rng.random() >= 0.5:
        return scoring_row(chain, steps, int(rng.random() * len(steps)))
    return scoring_row(chain, steps, first_wrong)
