"""The command line.

Nothing here imports torch: that takes seconds, and a wrong argument should be told at once.
"""

from __future__ import annotations

import signal
import sys
import traceback
from types import FrameType

import click

from diffgdn import __version__
from diffgdn.cli.calibrate_command import calibrate
from diffgdn.cli.corpus_command import commands as corpus
from diffgdn.cli.doctor_command import doctor
from diffgdn.cli.fuzz_command import fuzz
from diffgdn.cli.options import CONTEXT
from diffgdn.cli.replay_command import replay, show
from diffgdn.cli.resolution_command import resolution
from diffgdn.cli.serving_command import serving
from diffgdn.cli.shrink_command import shrink


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="diffgdn", message="%(prog)s %(version)s")
def cli() -> None:
    """Property-based differential testing for gated delta-rule attention kernels.

    Exit status: 0 did what was asked and found nothing, 1 findings, 2 could not do what was asked, 130
    interrupted with nothing found.
    """


for command in (fuzz, calibrate, serving, replay, show, shrink, corpus, resolution, doctor):
    cli.add_command(command)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Run a command line; its exit status. A usage or set-up problem is one line on stderr."""
    try:
        status: int = cli.main(arguments or ["--help"], prog_name="diffgdn", standalone_mode=False)
        return status
    except click.ClickException as error:
        click.echo(f"diffgdn: {error.format_message()}", err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("diffgdn: interrupted", err=True)
        return 130
    except (
        Exception
    ) as error:  # ours: never to be taken for findings, which is what Python's own exit status would say
        traceback.print_exc()
        click.echo(f"diffgdn: internal error: {error}", err=True)
        return 2


def main() -> None:
    """Entry point."""
    signal.signal(
        signal.SIGTERM, _terminate
    )  # a CI job that is cancelled ends like Ctrl-C: its findings are kept
    sys.exit(run(sys.argv[1:]))
