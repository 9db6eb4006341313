"""The cases of the crash campaign: a fixed list of faults and the moments when they strike a run.

Phases are recognized by their requests. Knows how a run's requests look, not how they are made.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

BUCKET = "campaign"
SEED = 20261101
PHASES = ("describe", "plan", "mid-unit", "mid-publish", "before commit", "clean-up")
FAULTS = {
    "driver": "SIGKILL of the driver",
    "tree": "SIGKILL of the driver and every process it has started",
    "replica": "SIGKILL of a replica's process",
    "reader": "SIGKILL of a process that reads a unit",
    "publisher": "SIGKILL of the process that publishes",
    "stop": "SIGSTOP of the store for 20 s",
    "storm": "503 to 30 % of the requests for 10 s",
    "cut": "answers cut within their body or lost, 8 at most",
    "reset": "connections reset, 8 at most",
    "gateway": "the store's gateway killed and started again",
}
_COUNTS = {
    "driver": ((2, 4), (2, 2)),
    "tree": ((0, 4), (0, 2)),  # with the local runner one process: the same as driver
    "replica": ((0, 16), (0, 0)),
    "reader": ((0, 16), (0, 0)),
    **dict.fromkeys(("stop", "storm", "cut", "reset", "gateway"), ((2, 4), (3, 1))),
}
"""Numbers of cases with the runners local and ray: in mid-unit, and in each other phase. Replicas
and readers live in mid-unit only."""
_PUBLISHING = ("mid-publish", "before commit", "clean-up")
_PUBLISHERS = 2
"""Number of cases in each of these phases: on Ray a separate process publishes."""


@dataclass(frozen=True)
class Case:
    """A run, and the fault that strikes it once."""

    number: int
    runner: str
    fault: str
    phase: str
    reading: bool = False
    """Whether a mid-unit fault strikes while an input is read, not while a unit file is written."""
    skip: int = 0
    """Requests of the phase that pass before the fault."""
    forward: bool = True
    """Whether a request whose sender is killed still reaches the store."""
    after_bytes: int = 0
    """Bytes of an answer's body that pass before it is cut."""

    def is_one_of(self, words: Sequence[str]) -> bool:
        """Whether its number is among the words, or all words that are no numbers are its runner,
        fault or phase. No words match any case."""
        names = {word for word in words if not word.isdecimal()}
        if str(self.number) in words or not words:
            return True
        return bool(names) and names <= {self.runner, self.fault, self.phase}

    def requests(self, out: str) -> list[str]:
        """Regular expressions of request lines: the fault strikes when a request has matched each
        of them in turn, before the last one reaches the store.

        out: the path of OUT, `/bucket/folder`.
        """
        read, planned = rf"^(GET|HEAD) /{BUCKET}/in/\w+\.tif ", rf"^PUT {out}/plan/"
        match self.phase:
            case "describe":
                return [read]
            case "plan":
                return [rf"^PUT {out}/(classes|job|plan)"]
            case "mid-unit":
                return [planned, read] if self.reading else [rf"^PUT {out}/work/"]
            case "mid-publish":
                return [rf"^PUT {out}/(masks|statistics|scenes|quarantine)/"]
            case "before commit":
                return [rf"^PUT {out}/commits/"]
            case "clean-up":
                return [rf"^(POST /{BUCKET}/?\?delete|DELETE {out}/work/)"]
        raise ValueError(f"phase {self.phase!r}: one of {', '.join(PHASES)}")


_SKIPS = {"describe": 6, "plan": 3, "mid-unit": 8, "mid-publish": 4}
"""The number of first requests of a phase that the struck one is drawn from; 1 for others."""


def cases() -> list[Case]:
    """All cases, the same every time, in an order that mixes them."""
    rng = random.Random(SEED)
    kinds = [
        (runner, fault, phase)
        for fault, counts in _COUNTS.items()
        for phase in PHASES
        for runner, count in zip(("local", "ray"), counts[phase != "mid-unit"], strict=True)
        for _ in range(count)
    ]
    rng.shuffle(kinds)
    # After the others, which keep their numbers.
    kinds += [("ray", "publisher", phase) for phase in _PUBLISHING for _ in range(_PUBLISHERS)]
    return [_case(number, *kind, rng) for number, kind in enumerate(kinds, 1)]


def _case(number: int, runner: str, fault: str, phase: str, rng: random.Random) -> Case:
    return Case(
        number,
        runner,
        fault,
        phase,
        # A reader exists only while it reads, and so does a replica: it is loading then.
        reading=fault == "reader" or (phase == "mid-unit" and rng.random() < 0.5),
        skip=rng.randrange(_SKIPS.get(phase, 1)),
        forward=fault not in ("driver", "tree", "publisher") or rng.random() < 0.5,
        after_bytes=rng.choice((0, 100, 5000)),
    )
