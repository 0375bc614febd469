"""The command line: ``diffcore <command>``, or ``python -m diffcore <command>``.

    diffcore study --profile demo --notebook 01_generation --set seed=3
    diffcore verify --profile demo
    diffcore <command> --help

A command that only measures or trains has its options where its code is; here each gets a line.
"""

import argparse
import importlib
import shutil
import sys
from collections.abc import Sequence

from diffcore.params import (
    SAVED,
    UserError,
    load_params,
    parse_assignments,
    project_root,
)
from diffcore.report.claims import results_table
from diffcore.report.run import NotebookError, build_index, notebooks, run_notebook
from diffcore.store import folder_whole, write_text

#: Command -> the module whose main(arguments) it is, or whose other function, and what it does.
_ELSEWHERE = {
    "draw": ("diffcore.engines:draw", "draw a study's images: all, a part, or on a Ray cluster"),
    "train": ("diffcore.engines:train", "train its classifiers in the same ways"),
    "verify": ("diffcore.report.verify", "compare a fresh report with the committed one"),
    "tune": ("diffcore.training.tuning", "choose each method's settings on training images"),
    "choose": ("paperbirds.pretrain.choose", "choose the sampler's settings without the oracle"),
    "label": ("paperbirds.pretrain.labels", "lay images out for labels by eye, to check the oracle"),
    "photographs": ("benchmarks.photographs", "measure what the filter finds on them"),
    "estimate": ("diffcore.measure.estimate", "say what a profile will need before it is run"),
    "bench": ("benchmarks.bench", "measure the parts against each other, in one run"),
    "pretrain": ("paperbirds.pretrain.stages", "train the shipped models from seeds"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after printing why it did not work."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given and given[0] in _ELSEWHERE:
            module, _, function = _ELSEWHERE[given[0]][0].partition(":")
            run = getattr(importlib.import_module(module), function or "main")
            return run(given[1:]) or 0
        options = _parser().parse_args(given)
        return options.run(options) or 0
    except UserError as error:  # a mistake of the person's own needs no stack
        print(error, file=sys.stderr)
        return 1


def _study(options: argparse.Namespace) -> None:
    """Run one notebook of a profile, or all of them and the index."""
    overrides = parse_assignments(options.assignments)
    for name in options.notebook or notebooks():
        print(run_notebook(name, options.profile, overrides))
    if not options.notebook:
        print(build_index(load_params(options.profile, overrides).profile))


def _index(options: argparse.Namespace) -> None:
    print(build_index(options.profile))


def _publish(options: argparse.Namespace) -> None:
    """Put a fresh report in the place of the committed one; that of the demo, in docs/ too."""
    fresh = project_root() / "runs" / options.profile / "report"
    if not (fresh / "index.html").is_file():
        raise NotebookError(f"{fresh} holds no index; run `make study` first")
    profile = load_params(options.profile)
    for saved in sorted(fresh.glob(f"*/{SAVED}")):
        if load_params(saved) != profile:  # a parameter may have come since, at its default
            raise NotebookError(
                f"{saved} differs from the profile {options.profile}; run `make study` again, "
                "without SET, or give that study a name of its own"
            )
    committed = project_root() / "reports" / options.profile
    with folder_whole(committed) as aside:
        shutil.copytree(fresh, aside, dirs_exist_ok=True)
    print(committed)
    if options.profile == "demo":
        print(write_text(project_root() / "docs" / "results.md", results_table(committed)))


def _parser() -> argparse.ArgumentParser:
    """Describe the commands, those of other modules too, so that ``--help`` lists all."""
    parser = argparse.ArgumentParser(prog="diffcore", description="A study of DiffCoRe-Mix.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="<command>")
    study = commands.add_parser("study", help="run the notebooks of a profile")
    index = commands.add_parser("index", help="sum up the executed notebooks on one page")
    publish = commands.add_parser("publish", help="copy a fresh report into reports/")
    for command, run in ((study, _study), (index, _index), (publish, _publish)):
        command.add_argument("--profile", default="demo", help="file in params/, or path of one")
        command.set_defaults(run=run)
    study.add_argument("--notebook", action="append", help="only this one; can be repeated")
    study.add_argument(
        "--set", "-s", dest="assignments", action="append", default=[], metavar="KEY=VALUE",
        help="change one parameter, such as generation.guidance_scale=4; can be repeated",
    )  # fmt: skip
    for name, (_, told) in _ELSEWHERE.items():
        commands.add_parser(name, help=told)
    return parser
