"""The command line: ``diffcore <command>``, or ``python -m diffcore <command>``.

diffcore study --profile demo --notebook 01_generation --set seed=3
diffcore verify --profile demo
diffcore <command> --help
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial

from diffcore import engines
from diffcore.measure import estimate
from diffcore.methods import method_of, study_methods, tuning
from diffcore.params import SAVED, UserError, load_params, parse_assignments, project_root
from diffcore.report.claims import results_table
from diffcore.report.run import NotebookError, build_index, notebooks, run_notebook
from diffcore.report.verify import verify_profile
from diffcore.store import write_text, written_whole
from diffcore.study import Study
from diffcore.sweeps import pairs_at


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after printing why it did not work."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["estimate"]:  # which parses its options itself
            return estimate.main(words[1:])
        options = _parser().parse_args(words)
        return options.run(options) or 0
    except UserError as error:  # a person's mistake needs no stack
        print(error, file=sys.stderr)
        return 1


def _study(options: argparse.Namespace) -> None:
    """Run one notebook of a profile, or all of them and the index."""
    overrides = parse_assignments(options.set)
    for name in options.notebook or notebooks():
        print(run_notebook(name, options.profile, overrides))
    if not options.notebook:
        print(build_index(load_params(options.profile, overrides).profile))


def _draw(options: argparse.Namespace) -> None:
    """Draw the images of a study, embed them, and filter where rejected ones are drawn again."""
    engines.work("draw", options)


def _train(options: argparse.Namespace) -> None:
    """Train the classifiers of a study, of the main table and the sweeps; draw first."""
    engines.work("train", options)


def _index(options: argparse.Namespace) -> None:
    """Sum up the executed notebooks on one page."""
    print(build_index(options.profile))


def _verify(options: argparse.Namespace) -> int:
    """Compare a fresh report with the committed one."""
    return verify_profile(options.profile)


def _publish(options: argparse.Namespace) -> None:
    """Put a fresh report in the place of the committed one; that of the demo, in docs/ too."""
    fresh = project_root() / "runs" / options.profile / "report"
    if not (fresh / "index.html").is_file():
        raise NotebookError(f"{fresh} holds no index; run `make study` first")
    profile = load_params(options.profile)
    for saved in sorted(fresh.glob(f"*/{SAVED}")):
        if load_params(saved) != profile:  # a new parameter has its default here
            remedy = "run `make study` again, without SET, or give that study a name of its own"
            raise NotebookError(f"{saved} differs from the profile {options.profile}; {remedy}")
    committed = project_root() / "reports" / options.profile
    with written_whole(committed, folder=True) as aside:
        shutil.copytree(fresh, aside, dirs_exist_ok=True)
    print(committed)
    if options.profile == "demo":
        print(write_text(project_root() / "docs" / "results.md", results_table(committed)))


def _tune(options: argparse.Namespace) -> None:
    """Choose each method's settings on training images."""
    study = Study.open("tuning", options.profile)
    methods = options.methods or study_methods(study.params)
    for name in methods:
        method_of(name, study.params)  # checked before hours of training
    table = tuning.tune_profile(study, methods, partial(pairs_at, study))
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print("Written to", tuning.write_choice(table, study.params.profile))


def _parser() -> argparse.ArgumentParser:
    """Describe all commands, so that ``--help`` lists them by the first lines of docstrings."""
    parser = argparse.ArgumentParser(prog="diffcore", description="A study of DiffCoRe-Mix.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="<command>")
    for run in (_study, _draw, _train, _index, _verify, _publish, _tune):
        command = commands.add_parser(run.__name__.strip("_"), help=run.__doc__)
        command.add_argument("--profile", default="demo", help="file in params/, or path of one")
        command.set_defaults(run=run)
    commands.add_parser("estimate", help=estimate.main.__doc__)
    text = "change one parameter, such as generation.guidance_scale=4; can be repeated"
    for name in ("study", "draw", "train"):
        add = commands.choices[name].add_argument
        add("--set", "-s", action="append", default=[], metavar="KEY=VALUE", help=text)
    for name in ("draw", "train"):
        add = commands.choices[name].add_argument
        add("--part", type=_part, default=(1, 1), metavar="K/N", help="the K-th of N parts")
        add("--engine", choices=("local", "ray"), default="local", help="ray: all of a cluster")
        add("--address", help="of a Ray cluster; without one Ray is started on this machine")
        add("--workers", type=int, help="of Ray, at most; by default one per GPU, else per core")
    commands.choices["study"].add_argument("--notebook", action="append", help="only these")
    commands.choices["tune"].add_argument("--methods", nargs="+", help="only these")
    return parser


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write 3/64 for the third of 64")
    return int(part), int(parts)
