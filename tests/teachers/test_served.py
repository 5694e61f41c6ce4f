"""One vLLM server as a reasoning teacher: it judges the bare prompt, and answers through its chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovd_lightning.engines.base import Engine
from ovd_lightning.engines.hf import HFEngine
from ovd_lightning.engines.openai import OpenAIEngine
from ovd_lightning.judges.verbal import VerbalJudge
from ovd_lightning.teachers.verbal import VerbalTeacher
from tests.engines.tiny import CONTEXT, save_tiny_model
from tests.served import serve

ASKED = ["ab", "c+d:"]
ASK: tuple[Any, ...] = (["ab", "cd", "(7+3)"], ["", "ef", "12 "], [1, 2, 3], [24, 24, 24])


@pytest.mark.vllm
@pytest.mark.slow
def test_a_served_teacher_says_what_a_local_one_says(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model", tied=True, seed=0)
    local = HFEngine(path)
    local.start()
    settings: dict[str, Any] = {"demonstrator_chat": True, "demonstration_temperature": 0.0}

    def taught(engine: Engine) -> VerbalTeacher:
        return VerbalTeacher(engine, VerbalJudge(min_mass=0.0), **settings)

    here = taught(local)

    def judge(teacher: VerbalTeacher) -> VerbalJudge:
        assert isinstance(teacher.judge, VerbalJudge)
        return teacher.judge

    with serve(path, "tiny", CONTEXT, tmp_path / "log") as url:
        there = taught(OpenAIEngine(url, "tiny", tokenizer=path))
        there.engine.check()
        for mine, other in zip(judge(here).score(ASKED), judge(there).score(ASKED), strict=True):
            assert other.distribution == pytest.approx(mine.distribution, abs=1e-5)
            assert other.mass == pytest.approx(mine.mass, abs=1e-5)
        whole = here.demonstrate(*ASK)
        assert [c.token_ids for c in there.demonstrate(*ASK)] == [c.token_ids for c in whole]
        bare = VerbalTeacher(local, **{**settings, "demonstrator_chat": False})
        assert [c.text for c in bare.demonstrate(*ASK)] != [c.text for c in whole], "the template matters"
        stop = (whole[0].text[3:5],)
        steps = there.demonstrate(*ASK, stop=stop)
        assert [(c.text, c.token_ids) for c in steps] == [
            (c.text, c.token_ids) for c in here.demonstrate(*ASK, stop=stop)
        ]
        assert whole[0].text.startswith(steps[0].text)
        assert steps[0].text.endswith(stop)
        # the same server as a black box: its text, cut here
        box = OpenAIEngine(url, "tiny", tokenizer=path, vllm_extensions=False, extra_body={"top_k": 0})
        cut = taught(box).demonstrate(*ASK, stop=stop)
        assert [c.text for c in cut] == [c.text for c in steps]
