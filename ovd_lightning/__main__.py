"""``python -m ovd_lightning``. Heavy imports wait until there is something to do."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HELP = """\
usage: python -m ovd_lightning {fit,validate,test,predict,dry_run} --config CONFIG [--config OVERLAY] [--KEY VALUE]
       python -m ovd_lightning configs [copy NAME [FILE]]
       python -m ovd_lightning compare RUN [RUN ...]
       python -m ovd_lightning push RUN ENTITY/NAME
       python -m ovd_lightning serve MODEL [--port PORT] [FLAGS OF vllm serve]

On-policy Verbal Distillation: a student writes groups of trajectories, a teacher scores them with one digit,
trajectories under a threshold are replaced by the teacher's, the student learns from the mixture.

  fit        train: --config quickstart runs on a laptop; --ckpt_path last continues the newest run
  validate   answer the validation problems of every benchmark
  test       answer the test problems of every benchmark
  predict    write the answers to the test problems
             all three with --ckpt_path: last, runs/.../last.ckpt, a student's folder (runs/.../student) or a hub id
  dry_run    print what `fit` would need, and load nothing: memory, calls and tokens of the teacher
  configs    list the configs that come with the package (--config quickstart); copy one, to edit it
  compare    runs side by side, in one HTML page: curves with their spread over seeds, a table of final numbers
  push       the trained student to the Hugging Face hub, with a model card; --dry_run shows it
  serve      vLLM's server for a student on other GPUs or machines than the trainer's (--engine vllm_server)

groups of settings (python -m ovd_lightning fit --help lists every one):
  method     what is credited and minimised, with its teacher   --method.init_args.threshold 5
  task       data, prompt, checker, reward                      --task.init_args.seed 1
  engine     what generates for the student                     --engine.class_path ovd_lightning.engines.hf.HFEngine
  model      student, optimiser, schedule                       --model.learning_rate 1e-6
  data       problems a round, rounds, updates a round          --data.rounds 60
  rollout    temperature, token limit                           --rollout.temperature 0.6
  benchmark  evaluation during and after training               --benchmark.samples 4
  checkpoint, summary, run, trainer                             --run.name mine --trainer.devices 8
  seed_everything  of problem order and of every sample         --seed_everything 1

the rest:
  python -m ovd_lightning.report RUN      the HTML page of a run
  python -m ovd_lightning.sweep FILE      a sweep without W&B's service
"""


def configs(words: list[str]) -> int:
    """``configs``: every config with a line on it; ``configs copy NAME [FILE]``: its text, to edit. 0, or 2 for an
    error."""
    from ovd_lightning.packaged import config_named, listing

    match words:
        case []:
            for name, line in listing():
                print(f"{name:40}  {line}")
            return 0
        case ["copy", name, *rest] if len(rest) < 2:
            source = config_named(name)
            target = Path(rest[0] if rest else f"{Path(name).stem}.yaml")
            if source is None:
                print(f"error: {name} is no config; `python -m ovd_lightning configs` lists them.", file=sys.stderr)
                return 2
            if target.exists():
                print(f"error: {target} is there already; name another file.", file=sys.stderr)
                return 2
            text = source.read_text(encoding="utf-8")
            target.write_text(text, encoding="utf-8")
            is_object = "\nclass_path:" in text  # for one setting, such as method
            option = f"--{source.parent.name}" if is_object else "--config"
            print(f"{target}: python -m ovd_lightning fit {'--config CONFIG ' * is_object}{option} {target}")
            return 0
    print("usage: python -m ovd_lightning configs [copy NAME [FILE]]", file=sys.stderr)
    return 2


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(HELP, end="")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    if sys.argv[1] == "configs":
        raise SystemExit(configs(sys.argv[2:]))
    if sys.argv[1] == "compare":
        from ovd_lightning.report.compare import main as compare

        raise SystemExit(compare(sys.argv[2:]))
    if sys.argv[1] == "push":
        from ovd_lightning.push.command import main as push

        raise SystemExit(push(sys.argv[2:]))
    if sys.argv[1] == "serve":
        from ovd_lightning.engines.serve import main as serve

        serve(sys.argv[2:])
    # A task or a rule of one's own is a file beside the config, however this was started; Lightning starts further
    # ranks with this path as well.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    if sys.argv[1] == "dry_run":
        with importing():
            from ovd_lightning.dry_run.command import main as dry_run

            if not {"-h", "--help"} & set(sys.argv):
                import ovd_lightning.dry_run.plan  # noqa: F401

        dry_run(sys.argv[2:])
        return
    from ovd_lightning.stop import ending_on_signals

    atexit.register(gc.freeze)  # nothing is left to free: the interpreter's collections at its end take seconds
    with ending_on_signals():
        with importing():
            from ovd_lightning.cli import main as run

        run()


@contextmanager
def importing() -> Iterator[None]:
    """No garbage collection while modules are imported, which stay, and none of them later: a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    main()
