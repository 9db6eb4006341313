"""The options that do not decide the result. Knows click and Execution only."""

from __future__ import annotations

from typing import Any

import click

from jobs.option_decorator import Decorator, option
from jobs.option_types import Replicas, Shards
from pipeline.settings import Execution

EXECUTION: tuple[Decorator[Any], ...] = (
    option(
        Execution,
        "block",
        type=int,
        metavar="PX",
        show_default="planned from time and replicas",
        help="Edge of a block's core, in pixels, a multiple of 512. Does not change the result.",
    ),
    option(
        Execution,
        "replicas",
        type=Replicas(),
        show_default="two per GPU, or one per CPU core",
        help="Loaded models at work, a count; MIN:MAX: a pool that grows and shrinks with the work,"
        " on an autoscaling cluster beyond the nodes that are there. Does not change the result.",
    ),
    option(
        Execution,
        "runner",
        type=click.Choice(["ray", "local"]),
        help="ray: on Ray Data; local: a plain loop in this process. Same result.",
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
        help="Seconds after which reading or segmenting a unit is taken to hang: its process is"
        " ended, and what hangs again alone goes to quarantine. Waiting for a store does not count."
        " Runner ray only.",
    ),
    option(
        Execution,
        "max_quarantined",
        type=int,
        metavar="N",
        show_default="100, or 1 % of the inputs where that is more",
        help="Stop when more inputs than this are in quarantine, a count, and say what they have in"
        " common; with a larger N the run goes on.",
    ),
    option(
        Execution,
        "retry_quarantined",
        is_flag=True,
        show_default="only those whose files have changed",
        help="Try again what an earlier run left in quarantine, partial scenes as a whole; the new"
        " rows take the place of the old ones.",
    ),
    option(
        Execution,
        "shards",
        type=Shards(),
        show_default="all: one driver does everything",
        help="Compute the I-th of N parts of the plan, while other drivers compute the others into"
        " the same OUT. The first one plans. Does not change the result.",
    ),
    option(
        Execution,
        "max_hours",
        type=float,
        metavar="H",
        show_default="none",
        help="Hours after which no more units are begun: those under way are finished, what is"
        " complete is published, and the exit code is 1; the same command goes on.",
    ),
    option(
        Execution,
        "price_per_hour",
        type=float,
        metavar="P",
        show_default="none: nothing is said of cost",
        help="Price of an hour of all machines of the run together, in any currency: gives its cost"
        " and that of 1,000 km2.",
    ),
)
