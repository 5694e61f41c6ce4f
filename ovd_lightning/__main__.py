"""``python -m ovd_lightning``. Heavy imports wait until there is something to do."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HELP = """\
usage: python -m ovd_lightning {fit,validate,test,predict,dry_run} --config CONFIG [--config OVERLAY] [--KEY VALUE]

On-policy Verbal Distillation: a student writes groups of trajectories, a teacher scores them with one digit,
trajectories under a threshold are replaced by the teacher's, the student learns from the mixture.

  fit        train: --config configs/quickstart.yaml runs on a laptop; --ckpt_path last continues the newest run
  validate   answer the validation problems of every benchmark
  test       answer the test problems of every benchmark
  predict    write the answers to the test problems
             all three with --ckpt_path: last, runs/.../last.ckpt, a student's folder (runs/.../student) or a hub id
  dry_run    print what `fit` would need, and load nothing: memory, calls and tokens of the teacher

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


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(HELP, end="")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    if sys.argv[1] == "dry_run":
        with importing():
            from ovd_lightning.dry_run.command import main as dry_run

            if not {"-h", "--help"} & set(sys.argv):
                import ovd_lightning.dry_run.plan  # noqa: F401

        dry_run(sys.argv[2:])
        return
    from ovd_lightning.stop import ending_on_signals

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
