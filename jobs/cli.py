"""The console script `swath`: the group of commands, and what an error looks like.

Does not know what any command does. Nothing here or at the top of a command's file imports torch,
ray, pyarrow or duckdb, so that help and refusals appear at once.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError

from jobs import job_file_option
from jobs.jobs import jobs
from jobs.logs import logs
from jobs.model import model
from jobs.plan import plan
from jobs.query import query
from jobs.run import run
from jobs.status import status
from jobs.stop import stop
from jobs.submit import THERE, submit
from pipeline.errors import CheckpointError, SwathError, UsageError
from pipeline.version import VERSION

DONE, FAILED, USAGE = 0, 1, 2


class _InOrder(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 0 done; 1 failed or unfinished (the same command resumes where it stopped);"
        " 2 the command cannot be carried out as given; 3 done, with something in quarantine."
    ),
)
@click.version_option(VERSION, prog_name="swath", message="%(prog)s %(version)s")
def swath() -> None:
    """Segment archives of satellite and aerial imagery into Parquet tables.

    Results go to stdout, progress and messages to stderr.
    """


for _command in (plan, run, status, query, model, submit, jobs, logs, stop):
    swath.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code. Never returns."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _print_notes()
    stop = _Stop(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        code = swath.main(args=arguments, prog_name="swath", standalone_mode=False)
        sys.stdout.flush()
    except SwathError as error:
        code = _complain(str(error), USAGE if _is_usage(error) else FAILED)
    except NoArgsIsHelpError as error:
        error.show()
        code = USAGE
    except click.ClickException as error:
        code = _complain(_click_message(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = _complain(_how_to_resume(arguments), FAILED)
    except BrokenPipeError:
        code = _quiet_pipe()
    except OSError as error:  # a full disk, a path below a file, no permission
        where = f"{error.filename}: " if error.filename else ""
        code = _complain(f"{where}{error.strerror or error}", FAILED)
    if not stop.asked:  # everything is done: nothing is left to stop in order
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code if isinstance(code, int) else DONE)


class _Notes(logging.Handler):
    """Prints what the pipeline logs, such as what it is retrying, as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        start = "\n" if sys.stderr.isatty() else ""  # below the live line
        click.echo(f"{start}note: {record.getMessage()}", err=True)


def _print_notes() -> None:
    log = logging.getLogger("swath")
    log.handlers = [_Notes()]
    log.propagate = False


class _Stop:
    """Handles Ctrl-C, and SIGTERM, with which clusters, containers and `kill` stop a process: the
    first signal stops in order, the third Ctrl-C ends the process at once."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self.asked = 0

    def __call__(self, number: int, frame: object) -> None:
        del frame
        self.asked += 1
        if self.asked == 1:
            raise KeyboardInterrupt
        if number != signal.SIGINT:
            return
        # Not through sys.stderr: the interrupted code may be writing to it.
        if self.asked == 2:
            os.write(2, b"\nnote: stopping in order; press Ctrl-C again to end it at once\n")
        else:
            os.write(2, f"\nswath: error: {_how_to_resume(self._arguments)}\n".encode())
            os._exit(FAILED)


def _is_usage(error: SwathError) -> bool:
    return isinstance(error, (UsageError, CheckpointError))


def _complain(message: str, code: int) -> int:
    click.echo(f"swath: error: {' '.join(message.split())}", err=True)
    return code


def _click_message(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    message = job_file_option.located_message(error)
    return f"{message} See: {context.command_path} --help" if context else message


def _how_to_resume(arguments: Sequence[str]) -> str:
    if arguments[:1] != ["run"]:
        return "stopped"
    command = list(arguments)
    if tuple(command[-len(THERE) :]) == THERE:
        command = ["submit", *command[1 : -len(THERE)]]
    again = shlex.join(["swath", *command])
    return f"stopped; what is done is kept. To resume, run the same command again: {again}"


def _quiet_pipe() -> int:
    # `swath query ... | head` closes our stdout. Python would flush it again on exit and
    # complain, so whatever is left is discarded.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


if __name__ == "__main__":
    main()
