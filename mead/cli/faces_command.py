"""The command `mead faces`: the faces of a photo, without a server."""

from __future__ import annotations

from pathlib import Path

import click

from mead.cli.model_commands import PICTURE
from mead.cli.parser import json_option, print_json
from mead.imaging.pictures import read_picture
from mead.registry import MODELS
from mead.terminal import say


def faces_command(name: str) -> click.Command:
    """`mead faces`."""

    @click.command(name)
    @click.argument("img", type=PICTURE, metavar="FILE")
    @click.option("--weights", default="demo", envvar="WEIGHTS", show_default=True, help="Set of weights.")
    @json_option
    def faces(img: Path, weights: str, as_json: bool) -> None:
        """List the faces of a photo, from the left; the numbers are those of the option --face.

        A line tells a face's number, its left, upper, right and lower edge, and its angle.
        """
        (spec,) = (spec for spec in MODELS.values() if spec.finder)
        found = spec.load_finder(weights)(read_picture(img, "img"))
        if as_json:
            print_json([face.model_dump() for face in found])
            return
        if not found:
            click.echo(f"mead: there is no face in {img}", err=True)
        for face in found:
            left, upper, right, lower = face.box
            say(f"{face.number}: {left},{upper} to {right},{lower}, turned by {face.angle} degrees")

    return faces
