"""`--corpus`, a folder of findings or the URL of a storage that many machines share; and `--shard`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from diffgdn.cli.options import Problem, writable_folder
from diffgdn.findings import storage
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.storage import Storage, StorageError
from diffgdn.report.finding_lines import DEFAULT_CORPUS

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Place:
    """The folder of findings here, and the URL that it is exchanged with, None for a folder alone."""

    path: Path
    url: str | None = None


class Corpora(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """A path, or a URL of fsspec: a Place."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        if isinstance(value, Place):
            return value
        if storage.is_url(value):
            return Place(storage.mirror(value, Path(DEFAULT_CORPUS)), value)
        return Place(Path(value))


class Shard(click.ParamType):  # type: ignore[type-arg]
    """N/M: which of how many machines."""

    name = "shard"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"expected N/M with N from 1 to M, such as 3/40, got {value!r}", param, ctx)
        return int(found[1]), int(found[2])


def checked(place: Place) -> Place:
    """The place, if findings can be kept there as far as can be told without asking it. Raises Problem."""
    writable_folder(place.path, "--corpus")
    _opened(place)
    return place


def corpus_option(command: Command) -> Command:
    """Adds --corpus to a command that only reads findings, as `corpus`, the path of their folder."""

    @functools.wraps(command)
    def with_folder(*given: Any, corpus: Place, **named: Any) -> Any:
        return command(*given, corpus=here(corpus), **named)

    option = click.option(
        "--corpus",
        type=Corpora(),
        default=DEFAULT_CORPUS,
        show_default=True,
        help="The folder, or the URL, that IDs belong to.",
    )
    return cast(Command, option(with_folder))


def here(place: Place) -> Path:
    """The folder of a place, with the findings that lie in its storage now. Raises Problem."""
    opened = _opened(place)
    if opened is not None:
        try:
            pulled(opened, Corpus(place.path))
        except (StorageError, OSError) as error:
            raise Problem(f"--corpus {storage.without_secrets(opened.url)}: {error}") from None
    return place.path


def pulled(opened: Storage, corpus: Corpus) -> None:
    """Take what lies in a storage, and not in a folder, into it; what is no finding stays where it is."""
    from diffgdn.findings.parse import CorpusError

    have = {path.name for path in corpus.files()}
    for name in sorted(opened.names() - have):
        if name.endswith(".json"):
            try:
                storage.take(name, opened.get(name), corpus.path)
            except CorpusError as error:
                click.echo(f"diffgdn: {error}; it is left out", err=True)


def _opened(place: Place) -> Storage | None:
    if place.url is None:
        return None
    try:
        return Storage.at(place.url)
    except ValueError as error:
        raise Problem(f"--corpus {storage.without_secrets(place.url)}: {error}") from None
