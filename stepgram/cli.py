"""The `stepgram` command: its group, its errors and its exit status.

Exit status: 0 done, 1 a turn failed or nothing could be done, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError

from functions.common.errors import ChannelError, SnapshotMissing
from stepgram.commands.access import access
from stepgram.commands.ask import ask
from stepgram.commands.completion import completion
from stepgram.commands.cost import cost
from stepgram.commands.doctor import doctor
from stepgram.commands.local import console, local
from stepgram.commands.sessions import session, sessions
from stepgram.commands.shared import Failed
from stepgram.commands.turns import executions, logs, rerun, show, stop, watch
from stepgram.commands.webhook import webhook
from stepgram.embedded.state import StateError
from stepgram.operators.rerun import RerunError
from stepgram.operators.stack import StackError, dotenv


class Group(click.Group):
    """Turns the errors of our own modules and of AWS into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (StackError, StateError, RerunError, SnapshotMissing, ChannelError, ValueError) as error:
            raise Failed(str(error)) from error
        except (ClientError, BotoCoreError) as error:
            raise Failed(f"AWS: {error}") from error
        except OSError as error:
            raise Failed(str(error)) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stepgram")
def main() -> None:
    """A Telegram bot that is a Claude agent; every message is one Step Functions execution."""
    dotenv()


for command in (
    *(ask, local, console),
    *(executions, show, watch, logs, rerun, stop),
    *(sessions, session, cost),
    *(doctor, webhook, access, completion),
):
    main.add_command(command)


def run() -> None:
    """The entry of the process.

    The local stack's threads (moto's executions, servers) are still there when the command is done. Python's own end
    would run into them: inside Rust and C++ code they abort the process ("exception not rethrown"), so it is left out.
    """
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    run()
