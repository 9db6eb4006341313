"""The options that make `plan` compute something on this machine. Knows click and Trial only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import click

from jobs.options import Decorator, F, add
from pipeline.settings import NO_TRIAL, Trial

TRIAL: tuple[Decorator[Any], ...] = (
    click.option(
        "--calibrate",
        is_flag=True,
        show_default="a nominal rate",
        help="Measure how long a window takes on this machine, with as many replicas at once as"
        " the run would have here, and estimate the time from that. Takes half a minute, longer"
        " for a large network on a CPU. There it measures float32 and bfloat16 beside each other,"
        " and notes if the other --dtype is faster, and how many pixels of three random blocks of"
        " the scenes would keep their class.",
    ),
    click.option(
        "--sample",
        type=int,
        metavar="N",
        default=NO_TRIAL.sample,
        show_default=True,
        help="Segment N random blocks, a count, the same ones each time, and report their classes"
        " and how confident the network is. Pictures go to --sample-to.",
    ),
    click.option(
        "--sample-to",
        metavar="FOLDER",
        default=NO_TRIAL.sample_to,
        show_default="none: required by --sample",
        help="Folder for the samples' pictures, sample-NNN.png: pixels on the left, classes on the"
        " right. They replace those of an earlier sampling.",
    ),
)


def trial_options(command: F) -> F:
    """Add the options of a trial, which do not change the plan."""
    return add(command, TRIAL)


def parse_trial(options: Mapping[str, Any]) -> Trial:
    """The parsed options as a Trial. Raises UsageError for impossible values."""
    return Trial(**{field.name: options[field.name] for field in fields(Trial)})
