"""The measurements of docs/speed.md: workers that take turns, tables, the simulator, all at a size of seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.speed import compare, padding, report, simulator
from benchmarks.speed.rounds.drive import Side, interleave, ratio
from benchmarks.speed.rounds.environment import DEFAULT, installed
from benchmarks.speed.rounds.pace import Cost
from benchmarks.speed.rounds.workload import TINY, load, prepare, reward


def cost(cpu: float, tokens: int = 10) -> Cost:
    return Cost(wall=2 * cpu, cpu=cpu, phases={}, sequences=1, tokens=tokens)


# ------------------------------------------------------------------ workloads


def test_completions_of_the_random_model_are_as_long_as_they_are_meant_to_be(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prepare(TINY, tmp_path)
    workload, rows = load(tmp_path)
    assert workload == TINY
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    torch.manual_seed(0)
    walks = set()
    for row, length in zip(rows, TINY.lengths, strict=True):
        ids = tokenizer(row["prompt"], return_tensors="pt").input_ids
        assert TINY.prompts[0] <= ids.shape[1] <= TINY.prompts[1]
        for _ in range(4):
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TINY.max_tokens)
            completion = out[0, ids.shape[1] :].tolist()
            assert len(completion) == length
            assert completion[-1] == model.generation_config.eos_token_id
            walks.add(reward(tokenizer.decode(completion), ""))
    assert len(walks) > 1  # rewards differ


def test_rewards() -> None:
    assert reward("1+1=2\n\\boxed{2}", "2") == 1
    assert reward("\\boxed{2} \\boxed{3}", "2") == 0
    assert reward("no box", "2") == 0
    assert reward("w4 w5 w7 w8 <eos>", "") == 0.5
    assert reward("", "") == 0


# --------------------------------------------------------------------- driver


WORKER = """
import os, sys
from benchmarks.speed.rounds.pace import Pace, take_stdout
pace = Pace(take_stdout())
print("noise")
while True:
    pace.begin()
    with open(sys.argv[2], "a") as file:
        file.write(sys.argv[1])
    pace.end({"train": 0.0}, 1, 5)
"""


def test_rounds_of_two_workers_alternate_and_the_first_do_not_count(tmp_path: Path) -> None:
    order = tmp_path / "order"
    sides = [Side(name=name, command=[sys.executable, "-c", WORKER, name, str(order)]) for name in "AB"]
    costs = interleave(sides, rounds=2, warmup=1, threads=1)
    assert order.read_text() == "ABABAB"
    assert {name: len(of) for name, of in costs.items()} == {"A": 2, "B": 2}
    assert costs["A"][0].tokens == 5
    assert costs["A"][0].phases["other"] == pytest.approx(costs["A"][0].wall)


def test_a_worker_that_ends_is_an_error_with_the_end_of_its_log() -> None:
    side = Side(name="A", command=[sys.executable, "-c", "raise SystemExit('out of order')"])
    with pytest.raises(RuntimeError, match="A ended with 1:\nout of order"):
        interleave([side], rounds=1, warmup=0, threads=1)


def test_a_ratio_is_the_median_over_pairs_and_may_be_by_token() -> None:
    costs = {"A": [cost(1), cost(1), cost(4)], "B": [cost(2), cost(3), cost(4, tokens=20)]}
    assert ratio(costs, "A", "B", "cpu") == 2
    assert ratio(costs, "A", "B", "wall", by_token=True) == 2
    assert ratio({"A": costs["A"][2:], "B": costs["B"][2:]}, "A", "B", "cpu", by_token=True) == 0.5


# ------------------------------------------------------------------ documents


def test_a_table_takes_the_place_between_its_markers_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- growth -->\n\nold\n\n<!-- end of growth -->\nafter\n")
    report.write(page, "growth", report.table(["a", "b"], [["1", "2"]]))
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert page.read_text() == f"before\n<!-- growth -->\n\n{table}\n\n<!-- end of growth -->\nafter\n"
    with pytest.raises(ValueError, match="no markers <!-- head -->"):
        report.write(page, "head", "new")


def test_what_was_measured_in_parts_stays_until_it_is_measured_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- compare -->\nnothing yet\n<!-- end of compare -->\n")

    def measured(command: str, *rows: list[str]) -> str:
        return report.Section(["round of", "side"], rows, ["A note."]).text(["compare", command])

    first, second = measured("grpo", ["41M, grpo", "TRL"]), measured("gkd", ["41M, gkd", "TRL"], ["41M, gkd", "ours"])
    again, both = measured("grpo again", ["41M, grpo", "TRL"]), measured("", ["41M, grpo", "a"], ["41M, gkd", "b"])
    for text, stands in ((first, [first]), (second, [first, second]), (again, [second, again]), (both, [both])):
        report.write(page, "compare", text)
        assert page.read_text() == "\n\n".join(["<!-- compare -->", *stands, "<!-- end of compare -->\n"])


def test_the_command_is_named_without_where_files_are() -> None:
    given = ["--write", "a.md", "head", "--tokens", "64", "--environment", "b"]
    assert report.command(given) == "python -m benchmarks.speed head --tokens 64"
    text = report.Section(["a"], [["1"]], ["Note."]).text(["head"])
    assert text.startswith("`python -m benchmarks.speed head` on ")
    assert text.endswith("| a |\n| --- |\n| 1 |\n\nNote.")


def test_the_page_has_a_place_for_every_measurement() -> None:
    from benchmarks.speed.__main__ import MEASUREMENTS

    page = (Path(__file__).parents[2] / "docs/speed.md").read_text()
    for name in MEASUREMENTS:
        assert f"<!-- {name} -->\n" in page
        assert f"<!-- end of {name} -->" in page


# ------------------------------------------------------------------ simulator


def test_a_round_of_math_yaml_as_the_issue_has_it() -> None:
    r = simulator.simulate(simulator.Assumptions())
    assert [round(x) for x in (r.generate, r.score, r.replace, r.total)] == [55, 265, 1978, 2418]


def test_a_batch_decodes_at_its_rate_and_then_at_its_latency() -> None:
    a = simulator.Assumptions(student_decode=100, student_latency=0.02)
    # Two steps of three sequences at 100 tokens/s, then two of one at 0.02 s (0.01 s by the rate).
    finish = simulator.student_finish(simulator.np.array([2.0, 2.0, 4.0]), a)
    assert finish.tolist() == pytest.approx([0.06, 0.06, 0.10])


def test_a_teacher_shares_its_rate_within_its_slots() -> None:
    a = simulator.Assumptions(teacher_decode=100, teacher_stream=60, teacher_slots=2)
    at_once = simulator.np.zeros(3)
    # Two at 50 tokens/s for 2 s, then the third alone at 60 for 0.5 s.
    assert simulator.teacher_finish(at_once, simulator.np.array([100.0, 100.0, 30.0]), a) == pytest.approx(2.5)
    assert simulator.teacher_finish(simulator.np.zeros(0), simulator.np.zeros(0), a) == 0


def test_less_work_never_takes_longer() -> None:
    base = simulator.simulate(simulator.Assumptions(repeats=1)).total
    for name, a in simulator.scenarios(simulator.Assumptions(repeats=1), 8).items():
        assert simulator.simulate(a).total <= base, name


# -------------------------------------------------------------------- padding


def test_equal_lengths_have_no_padding_and_a_long_one_costs_its_micro_batch() -> None:
    assert padding.padding([6] * 8, 2, 2) == (1, 1)
    ratio_, _ = padding.padding([18, *[8] * 7], 2, 1)
    assert ratio_ == pytest.approx(8 * 20 / (20 + 7 * 10))


# ---------------------------------------------------------------------- slow


@pytest.mark.slow
def test_rounds_of_this_project_are_measured() -> None:
    """Beside TRL's where it is installed; both sample exactly the tokens that the workload says."""
    beside = installed(DEFAULT)
    found = compare.main(methods=["grpo/hf", "opd/hf"], trl=beside, tiny=True)
    rows = [dict(zip(found.header, row, strict=True)) for row in found.rows]
    assert len(rows) == (4 if beside else 2)
    for row in rows:
        assert row["sampled tokens"] == str(2 * sum(TINY.lengths))
        assert all(float(row[name]) > 0 for name in ("wall s", "CPU s", "generate", "train", "peak GiB"))


@pytest.mark.slow
def test_a_round_costs_what_the_run_logs(tmp_path: Path) -> None:
    prepare(TINY, tmp_path)
    [side] = compare.sides("grpo", "hf", tmp_path, 3, None)
    costs = interleave([side], rounds=2, warmup=1, threads=1)[compare.OURS]
    for one in costs:
        assert one.sequences == TINY.sequences
        assert 0 < one.phases["generate"] + one.phases["train"] < one.wall
        assert one.peak_mib >= one.loaded_mib > 0
        json.dumps(one.phases)
