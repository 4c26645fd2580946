"""`stepgram completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands and options: `eval "$(stepgram completion bash)"`."""
    known = get_completion_class(shell)
    assert known is not None  # click.Choice lets no other through
    click.echo(known(click.get_current_context().find_root().command, {}, "stepgram", "_STEPGRAM_COMPLETE").source())
