"""``python -m ovd_lightning push RUN ENTITY/NAME``: the trained student on the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ovd_lightning.errors import ConfigError, RunError, raise_errors
from ovd_lightning.push import Upload, access_errors, prepare, repo_errors, send, student_errors, student_of


def main(argv: Sequence[str] | None = None) -> int:
    """0; 2 for an error that the user can correct, 1 for one of the hub or the network."""
    parser = argparse.ArgumentParser(
        prog="python -m ovd_lightning push",
        description="Upload the student that a run has trained, or its adapter, to the Hugging Face hub: weights, "
        "tokenizer, a model card with curves and final numbers, and the run's config, metrics and versions, in one "
        "commit.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="runs/<name>/<time>, or a student's folder")
    parser.add_argument("repo", metavar="ENTITY/NAME", help="on the hub; made if it is not there")
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapter alone, as peft loads it")
    parser.add_argument(
        "--base",
        metavar="ENTITY/NAME",
        help="with --adapter: the model on the hub that it was trained over (default: model.student, if that is an id)",
    )
    parser.add_argument("--private", action="store_true", help="a repository that is made now is for its owner only")
    parser.add_argument(
        "--license", metavar="ID", help="e.g. apache-2.0 (default: that of the base model, if its card names one)"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the files and the card; send nothing")
    options = parser.parse_args(argv)
    folder, adapter = options.folder, options.adapter
    if options.base is not None and not adapter:
        parser.error("--base is of an adapter: give --adapter, too")
    try:
        if not options.dry_run:
            wrong = [*student_errors(folder, student_of(folder), adapter), *repo_errors(options.repo), *access_errors()]
            raise_errors(wrong)
        upload = prepare(folder, options.repo, options.license, options.dry_run, adapter, options.base)
        for note in upload.notes:
            print(f"note: {note}", file=sys.stderr)
        if options.dry_run:
            show(upload)
        else:
            print(send(upload, options.private))
    except (ConfigError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def show(upload: Upload) -> None:
    """The files with their sizes, and the card."""
    for name, content in upload.files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"{size:>14,} bytes  {name}")
    print(f"\n{upload.card}", end="")
