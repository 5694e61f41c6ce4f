"""The embedded student, ready to answer."""

from __future__ import annotations

import pytest

from ovd_lightning.engines.hf import HFEngine
from tests.workflow.cli import ROOT


@pytest.fixture(scope="session")
def student() -> HFEngine:
    engine = HFEngine(str(ROOT / "ovd_lightning/assets/student"))
    engine.start()
    return engine
