"""The commands that made the shipped models and the tables about them: ``--help`` lists them."""

import argparse
import sys
from pathlib import Path

from diffcore.params import UserError
from paperbirds.oracle import WEIGHTS
from paperbirds.pretrain import choose, labels, stages


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 1 after printing what has to be put right."""
    options = vars(_parser().parse_args(arguments))
    run = options.pop("run")
    try:
        run(**options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("paperbirds", description="Models of a small drawn world.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="<command>")
    pretrain = commands.add_parser("pretrain", help="train the shipped models again, from seeds")
    pretrain.add_argument("--scale", type=float, default=1.0, help="share of renders and steps")
    pretrain.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="checkpoints")
    pretrain.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write the models to")
    pretrain.add_argument("--note", action="append", dest="notes", help="line for the model card")
    pretrain.set_defaults(run=stages.pretrain)
    choice = commands.add_parser("choose", help="choose the sampler's settings without the oracle")
    choice.set_defaults(run=choose.run)
    label = commands.add_parser("label", help="lay images out to label, to check the oracle")
    label.add_argument("--count", type=int, default=300, help="images to label")
    label.set_defaults(run=labels.run)
    for command in (choice, label):
        command.add_argument("--profile", default="demo", help="file in params/, or path of one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
