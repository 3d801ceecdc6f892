"""A mutant: a bug as a few edits of the sources of the kernels. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


class DeadMutant(Exception):
    """Raised for a mutant whose edits no longer fit the sources, or change nothing: it proves nothing."""


@dataclass(frozen=True)
class Edit:
    """One change of a source file.

    file: in kernels/, as `chunk/state.py`. old: text that the file holds `count` times, no more and no less.
    new: what stands in its place.
    """

    file: str
    old: str
    new: str
    count: int = 1


@dataclass(frozen=True)
class Spot:
    """One change of a source file at one place, however often the same text stands elsewhere.

    file: as an Edit has it. start: where, in characters from the file's start. old: the text that stands
    there. new: what stands in its place.
    """

    file: str
    start: int
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A bug put back.

    id: a short name, of words joined by dashes. source: the project and number it was reported under,
    or what it has the shape of. about: what is wrong, in a line. edits: the change; spots are those of the
    text as it is, before any edit. operations: those whose kernels it changes, as shell
    patterns with commas between them. layout: of states, in which it is run.
    """

    id: str
    source: str
    about: str
    edits: tuple[Edit | Spot, ...]
    operations: str = "*"
    layout: str = "vk"

    def apply(self, file: str, text: str) -> str:
        """Return a source file with the mutant's edits of it. Raises DeadMutant."""
        spots = [edit for edit in self.edits if isinstance(edit, Spot) and edit.file == file]
        for spot in sorted(spots, key=lambda one: -one.start):  # the last first: the others stay in place
            text = self._at(spot, text)
        for edit in self.edits:
            if isinstance(edit, Spot) or edit.file != file:
                continue
            found = text.count(edit.old)
            if found != edit.count:
                raise DeadMutant(f"{self.id}: {file} holds the anchor {found} times, not {edit.count}")
            if edit.new == edit.old:
                raise DeadMutant(f"{self.id}: an edit of {file} changes nothing")
            text = text.replace(edit.old, edit.new)
        return text

    def _at(self, spot: Spot, text: str) -> str:
        """Return a source file with the change at one place. Raises DeadMutant."""
        end = spot.start + len(spot.old)
        if text[spot.start : end] != spot.old:
            raise DeadMutant(f"{self.id}: {spot.file} does not hold the anchor at {spot.start}")
        if spot.new == spot.old:
            raise DeadMutant(f"{self.id}: an edit of {spot.file} changes nothing")
        return text[: spot.start] + spot.new + text[end:]
