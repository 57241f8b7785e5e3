"""The command `completion`: what a shell runs so that it completes the command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mead.cli.parser import CommandError


def completion_command(name: str) -> click.Command:
    """`mead completion bash`, `mead completion zsh`."""

    @click.command(name)
    @click.argument("shell", type=click.Choice(["bash", "zsh"]))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        """Print what completes `mead` in a shell.

        \b
        bash:  eval "$(mead completion bash)"    in ~/.bashrc
        zsh:   eval "$(mead completion zsh)"     in ~/.zshrc
        """
        kind = get_completion_class(shell)
        if kind is None:
            raise CommandError(f"there is no completion for {shell}")
        print(kind(context.find_root().command, {}, "mead", "_MEAD_COMPLETE").source())

    return completion
