"""Drains the Ray node of a machine that its cloud is about to take back.

    python -m deploy.spot watch aws|gcp|azure    beside `ray start`: wait for the cloud's notice
    python -m deploy.spot drain --seconds 90     now, as a pod's preStop hook does

After the notice Ray gives the node no more work; a run computes again what was not finished. Exits
when the node is drained. Exit codes: 0 drained; 1 not drained; 2 usage.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import time
from collections.abc import Callable, Sequence

from deploy.node import Node, NodeError
from deploy.notices import CLOUDS, Notice, Service

EVERY_S = 5.0
"""The pause between two questions to the metadata service."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "drain":
            return _drain_now(options.node_id, options.seconds)
        ask, url = CLOUDS[options.cloud]
        service = Service((options.metadata or url).rstrip("/"))
        notice = watch(lambda: ask(service), options.every, options.rebalance)
        _say(f"{notice.why}; {_left(notice.left_s)}")
        node = Node.here(options.node_id)
        node.drain(notice.why, notice.left_s)
    except NodeError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 1
    _say(f"node {node.node_id} takes no more work")
    return 0


def watch(ask: Callable[[], Notice | None], every_s: float, rebalance: bool) -> Notice:
    """Wait for the first notice that this machine ends. A recommendation counts with `rebalance`.

    A service that does not answer is asked again, and reported once.
    """
    silent, advised = False, False
    while True:
        try:
            notice = ask()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            if not silent:
                _say(f"the metadata service gives no answer ({error}); it is asked again")
            silent, notice = True, None
        else:
            if silent:
                _say("the metadata service answers again")
            silent = False
        if notice is not None and (notice.left_s is not None or rebalance):
            return notice
        if notice is not None and not advised:
            _say(f"{notice.why}; waiting for its notice (--rebalance drains now)")
            advised = True
        time.sleep(every_s)


def _drain_now(node_id: str | None, seconds: float) -> int:
    """Drain this node and wait for its end. If there is none, there is nothing to do."""
    try:
        node = Node.here(node_id)
    except NodeError as error:
        _say(str(error))
        return 0
    node.drain("its pod or machine is being ended", seconds)
    ended = node.wait_for_end(seconds)
    _say(f"node {node.node_id} {'has ended' if ended else 'still works; its time is over'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.spot", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True)
    watcher = verbs.add_parser("watch", help="wait for the cloud's notice, then drain this node")
    watcher.add_argument("cloud", choices=sorted(CLOUDS))
    watcher.add_argument("--every", type=float, default=EVERY_S, metavar="S", help="seconds")
    watcher.add_argument(
        "--metadata", metavar="URL", help="URL of the service, if not the usual one"
    )
    watcher.add_argument(
        "--rebalance",
        action="store_true",
        help="drain on AWS's recommendation, too: the node is lost to the run from then on, though"
        " the machine may live for hours",
    )
    drainer = verbs.add_parser("drain", help="drain this node now and wait until it has ended")
    drainer.add_argument("--seconds", type=float, required=True, metavar="S", help="wait no longer")
    for verb in (watcher, drainer):
        verb.add_argument("--node-id", metavar="ID", help="if several Ray nodes run here")
    return parser


def _left(left_s: float | None) -> str:
    return "draining" if left_s is None else f"{left_s:.0f} s are left, draining"


def _say(what: str) -> None:
    print(f"spot: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
