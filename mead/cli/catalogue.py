"""The command `models`: what can be made, and with which parameters."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from mead.cli.parser import Commands
from mead.http.models import models_of
from mead.http.schemas import ModelDescription
from mead.settings import Settings
from mead.terminal import say

WIDTH = 100


def add_command(commands: Commands) -> None:
    """Add the command."""
    about = "Print what can be made: the models, their parameters, and what the weights draw, as GET /models"
    command = commands.add("models", _print, about)
    command.add_argument("--weights", help="Set of weights (default: the setting WEIGHTS).")


def _print(options: argparse.Namespace) -> None:
    settings = Settings()
    if options.weights is not None:
        settings = settings.model_copy(update={"weights": options.weights})
    found = models_of(settings, files_required=False)
    say(f"Weights {found.weights}: {found.description}")
    if found.draws:
        say(textwrap.fill(found.draws, WIDTH))
    for model in found.models:
        _print_model(model)


def _print_model(model: ModelDescription) -> None:
    say(f"\n{model.route.lstrip('/')}: {model.summary}")
    for prompt in model.examples:
        say(f'  as in "{prompt}"')
    for name, schema in model.parameters.items():
        say(f"  {name}: {', '.join(_facts(schema, name in model.required))}")
        say(textwrap.fill(schema["description"], WIDTH, initial_indent="      ", subsequent_indent="      "))


def _facts(schema: dict[str, Any], required: bool) -> list[str]:
    """What a parameter takes, in a few words each."""
    facts = ["required"] if required else []
    if schema.get("format") == "binary":
        facts.append("a picture")
    if "enum" in schema:
        facts.append(" or ".join(map(str, schema["enum"])))
    if "minimum" in schema:
        facts.append(f"{schema['minimum']} to {schema['maximum']}")
    if "maxLength" in schema:
        facts.append(f"up to {schema['maxLength']} characters")
    if "default" in schema:
        facts.append(f"default {schema['default']}")
    return facts
