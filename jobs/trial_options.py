"""The options by which `plan` computes something on this machine. Knows click and Trial only."""

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
        help="Measure how long a window takes here, with as many replicas at once as the run has"
        " here, and rest the time on that: half a minute, longer with a large network on a CPU.",
    ),
    click.option(
        "--sample",
        type=int,
        metavar="N",
        default=NO_TRIAL.sample,
        show_default=True,
        help="Segment N random blocks, a count, the same ones each time, and say which classes they"
        " show and how sure the network is. Pictures go to --sample-to.",
    ),
    click.option(
        "--sample-to",
        metavar="FOLDER",
        default=NO_TRIAL.sample_to,
        show_default="none: --sample needs it",
        help="Folder of the samples' pictures, sample-NNN.png: pixels on the left, classes on the"
        " right. They take the place of an earlier sampling's.",
    ),
)


def trial_options(command: F) -> F:
    """Add them. They change nothing of the plan."""
    return add(command, TRIAL)


def parse_trial(options: Mapping[str, Any]) -> Trial:
    """What click parsed. UsageError for values that cannot be."""
    return Trial(**{field.name: options[field.name] for field in fields(Trial)})
