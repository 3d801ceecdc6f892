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
class Mutant:
    """A bug put back.

    id: a short name, of words joined by dashes. source: the project and number it was reported under,
    or what it has the shape of. about: what is wrong, in a line. edits: the change. operations: a shell
    pattern of the operations whose kernels it changes.
    """

    id: str
    source: str
    about: str
    edits: tuple[Edit, ...]
    operations: str = "*"

    def apply(self, file: str, text: str) -> str:
        """Return a source file with the mutant's edits of it. Raises DeadMutant."""
        for edit in self.edits:
            if edit.file != file:
                continue
            found = text.count(edit.old)
            if found != edit.count:
                raise DeadMutant(f"{self.id}: {file} holds the anchor {found} times, not {edit.count}")
            if edit.new == edit.old:
                raise DeadMutant(f"{self.id}: an edit of {file} changes nothing")
            text = text.replace(edit.old, edit.new)
        return text
