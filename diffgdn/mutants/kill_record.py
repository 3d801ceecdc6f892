"""What became of mutants, kept in a file of JSON while more are hunted."""

from __future__ import annotations

import json
from pathlib import Path

from diffgdn.mutants.hunt import Kill
from diffgdn.mutants.peers.seen import Seen

PEERS = "peers"  # beside a kill, what the tests of each peer make of the mutant


class Record:
    """Kills and peers' answers by mutant, written to a file as they come.

    file: None for none. One that exists is taken up. Raises ValueError for a file of something else.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.kills: dict[str, Kill] = {}
        self.peers: dict[str, dict[str, Seen]] = {}
        if file is not None and file.exists():
            self._take_up(file)

    def _take_up(self, file: Path) -> None:
        try:
            for row in json.loads(file.read_text()):
                if "found" in row or PEERS not in row:
                    self.kills[row["mutant"]] = Kill.from_json(row)
                if PEERS in row:
                    self.peers[row["mutant"]] = {name: Seen(**seen) for name, seen in row[PEERS].items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a table of mutants: {error}") from error

    def add(self, kill: Kill) -> None:
        """Keep what became of a mutant."""
        self.kills[kill.mutant] = kill
        self._write()

    def add_peers(self, mutant: str, seen: dict[str, Seen]) -> None:
        """Keep what peers' tests make of a mutant."""
        self.peers[mutant] = seen
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            names = dict.fromkeys((*self.kills, *self.peers))
            rows = [{**self._kill_of(name), **self._peers_of(name)} for name in names]
            self._file.write_text(json.dumps(rows, indent=1))

    def _kill_of(self, mutant: str) -> dict[str, object]:
        return self.kills[mutant].to_json() if mutant in self.kills else {"mutant": mutant}

    def _peers_of(self, mutant: str) -> dict[str, object]:
        if mutant not in self.peers:
            return {}
        return {PEERS: {name: seen.to_json() for name, seen in self.peers[mutant].items()}}
