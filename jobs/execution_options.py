"""The options that do not decide the result. Knows click and Execution only."""

from __future__ import annotations

from typing import Any

import click

from jobs.option_decorator import Decorator, option
from jobs.option_types import Replicas, Shards
from pipeline.settings import AUTO, LOCAL, RAY, Execution

EXECUTION: tuple[Decorator[Any], ...] = (
    option(
        Execution,
        "block",
        type=int,
        metavar="PX",
        show_default="planned from time and number of replicas",
        help="Edge of a block's core, in pixels, a multiple of 512. Does not change the result.",
    ),
    option(
        Execution,
        "replicas",
        type=Replicas(),
        show_default="two per GPU, or one per CPU core",
        help="Number of loaded models, a count; MIN:MAX: a pool that grows and shrinks with the"
        " work, on an autoscaling cluster beyond the present nodes. Does not change the result.",
    ),
    option(
        Execution,
        "runner",
        type=click.Choice([AUTO, RAY, LOCAL]),
        help="ray: on Ray Data; local: a plain loop in this process, which ends with it; auto: for"
        " small jobs, which are done before Ray has started, a plain loop in a process of its own,"
        " from which Ray takes over if it dies; else ray. Does not change the result.",
    ),
    option(
        Execution,
        "address",
        metavar="URL",
        show_default="none: Ray is started on this machine",
        help="Ray cluster to join.",
    ),
    option(
        Execution,
        "unit-timeout",
        type=float,
        metavar="S",
        help="Seconds after which a unit that is being read or segmented counts as hanging: its"
        " process is ended, and a unit that hangs again by itself goes to quarantine. Waiting for a"
        " store does not count. Not with --runner local.",
    ),
    option(
        Execution,
        "max_quarantined",
        type=int,
        metavar="N",
        show_default="100, or 1 % of the inputs if that is more",
        help="Stop when more inputs than this are in quarantine, a count, and say what they have in"
        " common; the run resumes with a larger N.",
    ),
    option(
        Execution,
        "retry_quarantined",
        is_flag=True,
        show_default="only those whose files have changed",
        help="Retry what earlier runs left in quarantine, partial scenes as a whole; the new rows"
        " replace the old ones.",
    ),
    option(
        Execution,
        "shards",
        type=Shards(),
        show_default="all: one driver does everything",
        help="Compute the I-th of N parts of the plan, while other drivers compute the others into"
        " the same OUT. The first driver plans. Does not change the result.",
    ),
    option(
        Execution,
        "max_hours",
        type=float,
        metavar="H",
        show_default="none",
        help="Hours after which no new unit is started: running units are finished, complete shards"
        " are published, and the exit code is 1; the same command resumes.",
    ),
    option(
        Execution,
        "price_per_hour",
        type=float,
        metavar="P",
        show_default="none: no cost is stated",
        help="Price of an hour of all machines of the run together, in any currency: states the"
        " cost of the run and of 1,000 km2.",
    ),
)
