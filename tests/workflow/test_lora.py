"""Runs that train an adapter: every method, resumed, on two ranks, and what they leave behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

from ovd_lightning.student import Student
from tests.helpers import save_tiny_model
from tests.push.test_push import on_hub, push
from tests.workflow import cli
from tests.workflow.test_resume import OVD_HF, assert_same_continuation

pytest.importorskip("peft")
LORA = ["--config=configs/overlays/lora.yaml"]
GRPO_HF = [*cli.HF, *cli.GRPO]
BASE = "ovd_lightning/assets/student"


def methods() -> list[Path]:
    """A config of every class of a method: rules of OVD differ in what is credited, not in what trains. ROPD's judge
    must write JSON, which no embedded model does; it trains by GRPO's objective."""
    found: dict[str, Path] = {}
    for path in sorted((cli.ROOT / "configs/method").glob("*.yaml")):
        found.setdefault(yaml.safe_load(path.read_text()).get("class_path", "ovd_lightning.methods.ovd.OVD"), path)
    del found["ovd_lightning.methods.ropd.ROPD"]
    return sorted(found.values())


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student/adapter/adapter_model.safetensors")


def merged_by_peft(folder: Path) -> dict[str, torch.Tensor]:
    """From the initial student and the exported adapter."""
    from peft import PeftModel

    model = Student(str(cli.ROOT / BASE)).hf
    return dict(PeftModel.from_pretrained(model, str(folder / "student/adapter")).merge_and_unload().named_parameters())


def assert_trained_over_a_frozen_base(folder: Path) -> None:
    own = adapter(folder)
    assert all(value.abs().max() > 0 for name, value in own.items() if "lora_B" in name), "B begins at 0"
    exported, expected = load_file(folder / "student/model.safetensors"), merged_by_peft(folder)
    assert all(torch.equal(exported[name], value) for name, value in expected.items()), "nothing else has changed"
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=False)["state_dict"]
    assert saved
    assert all(".lora_" in name for name in saved), "and nothing else is saved"


def on_transformers(method: Path) -> list[str]:
    """The teacher's engine is transformers' where the method has one."""
    config = yaml.safe_load(method.read_text())
    teacher = config.get("init_args", {}).get("teacher", "" if "class_path" in config else "verbal")
    if not teacher:
        return []
    engine = "method.init_args.teacher.init_args."
    if isinstance(teacher, dict):
        if "demonstrator" not in teacher["init_args"]:
            return []
        engine += "demonstrator.init_args."
    engine += "engine"
    return [f"--{engine}=configs/engine/hf.yaml", f"--{engine}.init_args.model=ovd_lightning/assets/teacher"]


@pytest.mark.slow
@pytest.mark.parametrize("method", methods(), ids=lambda p: p.stem)
def test_every_method_trains_it(method: Path, tmp_path: Path) -> None:
    args = [*LORA, *cli.HF, f"--method={method}", *on_transformers(method), "--data.rounds=2"]
    cli.fit(tmp_path, *args, "--data.problems_per_round=8", "--benchmark.every_n_rounds=0")
    rows = [row for row in cli.metrics(tmp_path) if "loss" in row]
    assert [row["round"] for row in rows] == [0, 1]
    first = next(row for row in cli.metrics(tmp_path) if "mismatch/first_sync_abs_max" in row)
    assert first["mismatch/first_sync_abs_max"] < 1e-4
    if method.stem not in ("seqkd", "oprd"):  # all tokens are the teacher's; no log-probability is computed
        gaps = [row["mismatch/logprob_abs_max"] for row in rows if "mismatch/logprob_abs_max" in row]
        assert max(gaps) < 1e-4, "the engine has the adapter's weights too"  # GAD's first round imitates
    if "policy/kl" in rows[0]:
        assert all(row["policy/kl"] > 0 for row in rows), "to the base, which the first update leaves"
    assert_trained_over_a_frozen_base(tmp_path)


def test_resume_is_exact_bit_for_bit(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    cli.fit(whole, *LORA, *OVD_HF)
    cli.fit(resumed, *LORA, *OVD_HF, f"--ckpt_path={whole}/checkpoints/step-000002.ckpt")
    assert_same_continuation(whole, resumed)
    for name, value in adapter(whole).items():
        assert torch.equal(value, adapter(resumed)[name])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One round of GRPO."""
    folder = tmp_path_factory.mktemp("adapter")
    cli.fit(folder, *LORA, *GRPO_HF, "--data.rounds=1")
    return folder


def refused(run: Path, tmp_path: Path, *args: str) -> str:
    done = cli.run(
        "fit", "--config=configs/quickstart.yaml", *cli.SMALL, *GRPO_HF, *args,
        f"--trainer.default_root_dir={tmp_path / 'on'}", f"--ckpt_path={run}/checkpoints/last.ckpt",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_checkpoint_is_an_adapters_and_its_base_is_known(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert "model.lora: is None, and the checkpoint was trained with {'r': 16" in refused(run, tmp_path)
    assert "model.lora: is {'r': 8, " in refused(run, tmp_path, *LORA, "--model.lora.r=8")
    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(cli.ROOT / BASE)
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-2
    model.save_pretrained(other)
    for file in (cli.ROOT / BASE).glob("*token*"):
        (other / file.name).write_bytes(file.read_bytes())
    assert "trained over other weights" in refused(run, tmp_path, *LORA, f"--model.student={other}")
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    assert "of another architecture" in refused(
        run, tmp_path, *LORA, f"--model.student={save_tiny_model(smaller, tied=True)}"
    )


def test_an_evaluation_of_the_checkpoint_is_that_of_the_exported_student(run: Path, tmp_path: Path) -> None:
    args = ["test", "--config=configs/quickstart.yaml", *cli.SMALL, *GRPO_HF]
    rows: list[dict[str, Any]] = []
    for name, more in (
        ("a", [*LORA, f"--ckpt_path={run}/checkpoints/last.ckpt"]),
        ("b", [f"--ckpt_path={run}/student"]),
    ):
        done = cli.run(*args, *more, f"--trainer.default_root_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr[-3000:]
        rows.append(next(row for row in cli.metrics(tmp_path / name) if "test/arithmetic/accuracy" in row))
    found = [{k: v for k, v in cli.timeless(row).items() if k.startswith("test/")} for row in rows]
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_it_as_one(strategy: str, run: Path, tmp_path: Path) -> None:
    two, on = tmp_path / "two", tmp_path / "on"
    args = [*LORA, *GRPO_HF, "--trainer.devices=2"]
    if strategy == "ddp":
        args += ["--trainer.strategy=ddp"]
    else:
        args += ["--config=configs/strategy/fsdp2.yaml", "--trainer.devices=2",
                 "--trainer.strategy.init_args.data_parallel_size=2"]  # fmt: skip
    cli.fit(two, *args, "--data.rounds=1")
    norms = [cli.rounds(f)[0]["policy/grad_norm"] for f in (run, two)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    one, other = adapter(run), adapter(two)
    assert one.keys() == other.keys()
    assert max(float((one[n] - other[n]).abs().max()) for n in one) < 5e-4  # of updates of 3e-3
    assert_trained_over_a_frozen_base(two)
    cli.fit(on, *args, "--data.rounds=2", f"--ckpt_path={two}/checkpoints/last.ckpt")
    assert [row["round"] for row in cli.rounds(on)] == [1]
    assert cli.rounds(on)[0]["policy/kl"] > 0
    assert_trained_over_a_frozen_base(on)


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_over_a_quantised_base(bits: str, tmp_path: Path) -> None:
    """QLoRA, by bitsandbytes on the CPU. The engine has the weights dequantised, the checkpoint none of them."""
    pytest.importorskip("bitsandbytes")
    opsd = [
        *cli.HF,
        "--method=configs/method/opsd.yaml",
    ]  # this small a student in 4 bits earns no reward to learn from
    cli.fit(tmp_path, *LORA, *opsd, "--data.rounds=2", f"--model.lora.quantize={bits}")
    rows = cli.rounds(tmp_path)
    assert max(row["mismatch/logprob_abs_mean"] for row in rows) < (1e-4 if bits == "4bit" else 0.1)
    assert all(value.abs().max() > 0 for value in adapter(tmp_path).values())
    plain = load_file(cli.ROOT / BASE / "model.safetensors")
    exported = load_file(tmp_path / "student/model.safetensors")
    assert {n: t.shape for n, t in exported.items()} == {n: t.shape for n, t in plain.items()}
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=False)["state_dict"]
    assert all(".lora_" in name for name in saved)


@pytest.mark.slow
@pytest.mark.extras
def test_with_moments_of_8_bits_a_resumed_run_is_exact_too(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    args = [*GRPO_HF, "--model.optimizer=adamw_8bit"]
    cli.fit(whole, *args)
    cli.fit(resumed, *args, f"--ckpt_path={whole}/checkpoints/step-000002.ckpt")
    x, y = (torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (whole, resumed))
    assert all(torch.equal(x["state_dict"][name], y["state_dict"][name]) for name in x["state_dict"])
    one, two = (tree_leaves(of["optimizer_states"][0]["state"]) for of in (x, y))
    moments = [(a, b) for a, b in zip(one, two, strict=True) if isinstance(a, torch.Tensor)]
    assert {torch.uint8, torch.float32} <= {a.dtype for a, _ in moments}
    assert all(torch.equal(a, b) for a, b in moments)
    a, b = cli.rounds(whole)[1:], cli.rounds(resumed)
    assert [cli.timeless(row) for row in a] == [cli.timeless(row) for row in b]


@pytest.mark.slow
@pytest.mark.vllm
def test_with_vllm(tmp_path: Path) -> None:
    """Its engine takes base and adapter as one, and its exported student."""
    cli.fit(tmp_path, *LORA, *cli.GRPO)
    rows = cli.rounds(tmp_path)
    assert max(row["mismatch/logprob_abs_max"] for row in rows) < 1e-3
    assert_trained_over_a_frozen_base(tmp_path)
    done = cli.run(
        "test", "--config=configs/quickstart.yaml", *cli.SMALL, *cli.GRPO, f"--ckpt_path={tmp_path}/student",
        f"--trainer.default_root_dir={tmp_path / 'test'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


LOADED = """
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
def plain(place):
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 9, 14, 7]])).logits
expected = logits(PeftModel.from_pretrained(plain({base!r}), {run!r} + "/student/adapter"))
there = PeftModel.from_pretrained(plain("them/base"), "me/lora")
named = AutoPeftModelForCausalLM.from_pretrained("me/lora", dtype=torch.float32)
assert torch.equal(expected, logits(there)) and torch.equal(expected, logits(named))
torch.testing.assert_close(expected, logits(plain({run!r} + "/student")), rtol=1e-4, atol=1e-4)
assert (expected - logits(plain({base!r}))).abs().max() > 1e-2
"""


def test_the_adapter_goes_to_the_hub_and_loads_from_there(run: Path, tmp_path: Path) -> None:
    hub, base = tmp_path / "hub", str(cli.ROOT / BASE)
    shutil.copytree(base, hub / "them/base")
    (hub / "me/lora").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "mine.txt"):  # a student was there
        (hub / "me/lora" / name).write_text("{}")
    done = push(hub, str(run), "me/lora", "--adapter", "--base", "them/base")
    assert done.returncode == 0, done.stderr
    assert "note: " not in done.stderr
    there = {str(path.relative_to(hub / "me/lora")) for path in (hub / "me/lora").rglob("*") if path.is_file()}
    assert there - {"curves.png"} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "mine.txt", "run/config.yaml",
        "run/metrics.csv", "run/provenance.yaml",
    }  # fmt: skip
    settings = json.loads((hub / "me/lora/adapter_config.json").read_text())
    kept = json.loads((run / "student/adapter/adapter_config.json").read_text())
    assert settings == {**kept, "base_model_name_or_path": "them/base"}
    card = ModelCard.load(hub / "me/lora/README.md")
    assert (card.data.library_name, card.data.base_model, card.data.license) == ("peft", "them/base", "apache-2.0")
    assert card.data.tags == ["ovd-lightning", "distillation", "grpo", "lora"]
    assert "| adapter's rank | 16 |" in card.text
    (program,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    program = program.replace('"..."', r'"12+34-5=?\n"')
    loaded = on_hub(hub, "-c", LOADED.format(base=base, run=str(run)) + program)
    assert loaded.returncode == 0, loaded.stderr
    assert "=" in loaded.stdout
