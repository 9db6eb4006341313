"""A plain loop in a process of its own, which may die: the only process of a run on this machine
that needs torch, unless Ray computes.

It starts at once, so that torch loads while this process reads headers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.driver.laps import CHECKPOINT
from pipeline.driver.plain_loop import PlainLoop
from pipeline.errors import UnfinishedError
from pipeline.job import Job
from pipeline.model import Model
from pipeline.processes.companion import Companion, CompanionDiedError
from pipeline.processes.sandbox import Limits, run_in_sandbox
from pipeline.processes.worker_process import START_S, Outcome
from pipeline.settings import LOCAL, Execution, Settings
from pipeline.unit import Unit
from segformer.checkpoints.folder import stated_channels
from segformer.checkpoints.hub.name import is_hub_name

if TYPE_CHECKING:
    from pipeline.stages import Work

_READING_S = 3600.0
"""Time limit for reading a checkpoint, which may be large and far away."""
_LOADING_S = 600.0
"""Time limit for loading a replica."""
FEW = 16
"""Items for which no worker of the sandbox is started."""


class LoopProcess:
    """See `PlainLoop`; what is called here runs there."""

    def __init__(self, loop: PlainLoop) -> None:
        """loop: runs there."""
        self._loop = loop
        self.laps = loop.laps
        self._companion = Companion(loop)
        self._model: Model | None = None
        self._on_hub = is_hub_name(loop.checkpoint)
        if not self._on_hub:
            self._read(None)

    def close(self) -> None:
        """End the process; nothing if it has ended."""
        self._companion.close()

    def model(self, recorded: Job | None) -> Model:
        """The facts about the checkpoint; waits until it is read.

        recorded: the job to be continued; the commit of a name on the Hub may be its. Raises what
        `PlainLoop.model` raises, and UnfinishedError if the process dies.
        """
        if self._model is None:
            if self._on_hub:
                self._read(recorded)
            try:
                with self.laps.time(CHECKPOINT):
                    self._model = self._companion.result()
            except CompanionDiedError as error:
                what = f"{self._loop.checkpoint}: it cannot be read"
                raise UnfinishedError(f"{what}: {error.died.how}; run it again") from error
        return self._model

    def _read(self, recorded: Job | None) -> None:
        """Begin to read the checkpoint; `model` waits for it."""
        self._companion.start("model", recorded, limit_s=_READING_S)

    @property
    def is_ready(self) -> bool:
        """Whether `model` answers at once, with the model or with what is wrong."""
        return self._model is not None or self._companion.has_answered

    def stated_channels(self) -> int | None:
        """The number of the network's input channels, as the checkpoint's folder states it while
        its weights are still being read; None: they have to be waited for, as those of a name on
        the Hub, whose commit is not known before."""
        if self._on_hub:
            return None
        url, access = self._loop.checkpoint, self._loop.access
        return stated_channels(url, storage_options=access.fsspec(url))

    def run_items(
        self, function: Callable[[Any], Any], items: Sequence[Any], limits: Limits
    ) -> Generator[tuple[int, Outcome[Any]], None, None]:
        """See `run_in_sandbox`. A few items are tried here first, where libraries are loaded
        already that a worker of the sandbox would have to load, too."""
        if len(items) <= FEW:
            self.model(None)
            try:
                self._companion.start("try_items", function, items, limits, limit_s=limits.item_s)
                outcomes = self._companion.result()
            except (CompanionDiedError, MemoryError):  # one of them is to blame: which?
                self._companion.close()
                self._companion = Companion(self._loop)
            else:
                self._companion.start("import_ahead", limit_s=START_S)
                yield from enumerate(outcomes)
                return
        yield from run_in_sandbox(function, items, limits)

    def load(self, work: Work) -> None:
        """Begin to load the replica; `compute` waits for it."""
        self._companion.start("import_ahead", limit_s=START_S)
        self._companion.start("load", work, limit_s=_LOADING_S)

    def loaded(self, meanwhile: Callable[[], None]) -> None:
        """Wait until the replica is loaded. Raises what loading raises, and CompanionDiedError."""
        self._companion.result(meanwhile)

    def compute(self, work: Work, unit: Unit, meanwhile: Callable[[], None]) -> int:
        """See `PlainLoop.compute`. meanwhile: called at once, and then once a second.

        Raises CompanionDiedError if the process dies, or makes no progress for `unit_timeout_s`.
        """
        self._companion.start("compute", work, unit, limit_s=work.unit_timeout_s)
        meanwhile()
        result: Any = self._companion.result(meanwhile)
        return int(result)


OpenLoop = PlainLoop | LoopProcess


@contextmanager
def open_loop(checkpoint: str, settings: Settings, execution: Execution) -> Iterator[OpenLoop]:
    """A plain loop that begins to read the checkpoint: in this process for `--runner local`, else
    in one of its own, which ends with the block at the latest."""
    access = execution.access.impatient()
    if execution.runner == LOCAL:
        yield PlainLoop(checkpoint, settings, access)
        return
    process = LoopProcess(PlainLoop(checkpoint, settings, access))
    try:
        yield process
    finally:
        process.close()
