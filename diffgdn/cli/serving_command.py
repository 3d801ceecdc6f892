"""`diffgdn serving`: the pool as a state machine, searched for traces that fail."""

from __future__ import annotations

from typing import Any

import click

from diffgdn.cases.operations import FAMILIES
from diffgdn.cli.fuzz_command import campaign_options, coverage_option, explore
from diffgdn.cli.options import CONTEXT


@click.command(context_settings=CONTEXT)
@click.option(
    "--family",
    type=click.Choice((*FAMILIES, "both")),
    default="both",
    show_default=True,
    help="Whose operations the loop calls.",
)
@campaign_options
@coverage_option
@click.option("--max-traces", type=click.IntRange(min=1), hidden=True)  # as --max-cases was called at first
def serving(family: str, max_traces: int | None, max_cases: int | None, **asked: Any) -> int:
    """Serve requests over one pool of states, in random order, and check every request after every step.

    A campaign as `diffgdn fuzz` runs it, whose cases are traces: requests arrive, prefill in pieces, decode
    in batches with padding, verify drafts, commit what is accepted, finish and leave their slot to others.
    What fails is made smaller and saved; `diffgdn replay` runs it again.

    Exit status: 0 every operation was called and nothing found, 1 findings, 2 usage or set-up problem, or no
    trace that called an operation which was asked for, 130 interrupted with nothing found. Of `both` families
    those are asked for that the target has.
    """
    loops = tuple(f"{name}.serving" for name in (FAMILIES if family == "both" else (family,)))
    return explore(loops, "serving", max_cases=max_cases or max_traces, **asked)
