"""The command line.

Nothing here imports torch before it must: that takes seconds, and a wrong argument should be told at once.
"""

from __future__ import annotations

import signal
import sys
import traceback
from importlib import import_module
from types import FrameType

import click

from diffgdn import __version__
from diffgdn.cli.options import CONTEXT

# Name: module and attribute, and the first sentence of its help: `diffgdn --help` imports none of them.
COMMANDS = {
    "fuzz": (
        "fuzz_command:fuzz",
        "Generate cases, run them on a target, check them against the oracle, shrink and save what fails.",
    ),
    "calibrate": (
        "calibrate_command:calibrate",
        "Measure how large errors are, in sigmas, which is what the limit on them rests on.",
    ),
    "serving": (
        "serving_command:serving",
        "Serve requests over one pool of states, in random order, and check every request after every step.",
    ),
    "probe": (
        "probe_command:probe",
        "Find out what a target supports, feature by feature, and print the promises that fit.",
    ),
    "replay": (
        "replay_command:replay",
        "Run findings again: FIXED, FAILED, FLAKY n/m or ERROR for each.",
    ),
    "show": (
        "replay_command:show",
        "Show a finding: the case, what was wrong, and, after running it once more, where.",
    ),
    "report": (
        "report_command:report",
        "Write a finding as an issue in Markdown, ready to be pasted into a maintainer's tracker.",
    ),
    "bisect": (
        "bisect_command:bisect",
        "Find the first version with which a finding fails, or the first with which it fails no more.",
    ),
    "shrink": (
        "shrink_command:shrink",
        "Take up the shrink of findings, also of those that were saved unshrunk.",
    ),
    "corpus": (
        "corpus_command:commands",
        "Look after a folder of findings.",
    ),
    "selftest": (
        "selftest_command:selftest",
        "Measure how good the verdicts are: planted faults, the smallest error that is found, time to find.",
    ),
    "mutants": (
        "mutants_command:mutants",
        "Put bugs that shipped elsewhere back into copies of the kernels, and look for each.",
    ),
    "resolution": (
        "resolution_command:resolution",
        "Measure how small an error in correct results is still found, by our verdict and by others.",
    ),
    "scoreboard": (
        "scoreboard_command:scoreboard",
        "Write a page of released kernels, feature by feature, and of the defects found in them.",
    ),
    "targets": (
        "targets_command:targets",
        "List targets: found or what is missing, version, operations, and where they run.",
    ),
    "bench": (
        "bench_command:bench",
        "Time kernels of targets side by side on the shapes that serving sees.",
    ),
    "doctor": (
        "doctor_command:doctor",
        "Tell the backend, versions and GPUs of this machine, and what is missing.",
    ),
}


class Commands(click.Group):
    """The commands of COMMANDS, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(f"diffgdn.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="diffgdn", message="%(prog)s %(version)s")
def cli() -> None:
    """Property-based differential testing for gated delta-rule attention kernels.

    Exit status: 0 did what was asked and found nothing, 1 findings, 2 could not do what was asked, 130
    interrupted with nothing found.
    """


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
