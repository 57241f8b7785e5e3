"""The command `mead faces`: the faces of a photo, without a server."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from mead.cli.parser import Commands
from mead.imaging.pictures import read_picture
from mead.model_spec import ModelSpec


def add_command(commands: Commands, spec: ModelSpec) -> None:
    """Add the command that finds the faces that a model can edit."""
    about = "List the faces of a photo, from the left; the numbers are those of the option --face"
    command = commands.add("faces", partial(_run, spec), about)
    command.add_argument("img", type=Path, metavar="FILE", help="The photo.")
    command.add_argument(
        "--weights",
        default="demo",
        help='Set of weights: "demo", "full" or one of your own (default: %(default)s).',
    )


def _run(spec: ModelSpec, options: argparse.Namespace) -> None:
    """Print a line for each face: its number, left, upper, right and lower edge, and its angle."""
    photo = read_picture(options.img, "img")
    for face in spec.load_finder(options.weights)(photo):
        left, upper, right, lower = face.box
        print(f"{face.number}: {left},{upper} to {right},{lower}, turned by {face.angle} degrees")
