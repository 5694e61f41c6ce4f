"""A command that tells what it finds, for tests/test_warm.py: ``python -m tests.tells {0,3,raise,wait,draw}``."""

from __future__ import annotations

import atexit
import json
import os
import random
import sys
import time
from pathlib import Path


def main() -> None:
    atexit.register(print, "at exit")
    how = sys.argv[1]
    found = {
        "arguments": sys.argv[1:], "name": Path(sys.argv[0]).name, "original": sys.orig_argv[1:], "main": __spec__.name,
        "folder": os.getcwd(), "leader": os.getsid(0) == os.getpid(), "input": sys.stdin.read(),
        "environment": dict(os.environ),
    }  # fmt: skip
    if how == "draw":  # what is made while libraries are imported would be shared
        from wandb.sdk.data_types._private import MEDIA_TMP

        found = {"random": random.random(), "folder": MEDIA_TMP.name, "there": Path(MEDIA_TMP.name).is_dir()}
    print(json.dumps(found))
    print("beside", file=sys.stderr)
    if how == "raise":
        raise ValueError("told to")
    if how == "wait":
        sys.stdout.flush()
        time.sleep(600)
    sys.exit(int(how) if how.isdigit() else 0)


if __name__ == "__main__":
    main()
