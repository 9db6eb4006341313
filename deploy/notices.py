"""What a cloud says of the end of this machine, asked of its metadata service. Knows no Ray."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

TIMEOUT_S = 2.0
"""The service is on the machine's own host and answers within milliseconds, or never."""
GCP_NOTICE_S = 30.0
"""What Google gives; the service says only that it has begun."""
_AZURE_ENDS = ("Preempt", "Terminate", "Redeploy")
_AZURE_VERSION = "api-version=2020-07-01"


@dataclass(frozen=True)
class Notice:
    """That this machine will end, or may."""

    why: str
    left_s: float | None
    """Until it ends; None: it may go on for long, and nobody knows."""


@dataclass(frozen=True)
class Service:
    """A metadata service."""

    url: str

    def ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
        """None where there is no such thing (404). Raises OSError where nothing answers."""
        request = urllib.request.Request(self.url + path, headers=dict(headers), method=method)
        # Never by a proxy that the environment may name: it would be asked of its own machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise


def aws(service: Service) -> Notice | None:
    """IMDSv2: spot/instance-action (two minutes before), else a recommendation to rebalance.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = {"X-aws-ec2-metadata-token": service.ask("/latest/api/token", ttl, "PUT") or ""}
    action = service.ask("/latest/meta-data/spot/instance-action", token)
    if action is not None:
        told = _object(action)
        return Notice(f"AWS will {told['action']} this spot instance", _left_s(told["time"]))
    if service.ask("/latest/meta-data/events/recommendations/rebalance", token) is not None:
        return Notice("AWS recommends to leave this spot instance", None)
    return None


def gcp(service: Service) -> Notice | None:
    """https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption"""
    headers = {"Metadata-Flavor": "Google"}
    told = service.ask("/computeMetadata/v1/instance/preempted", headers)
    if (told or "").strip() == "TRUE":
        return Notice("Google Cloud preempts this instance", GCP_NOTICE_S)
    return None


def azure(service: Service) -> Notice | None:
    """Scheduled events that end this machine; those of its neighbours are listed, too.

    https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
    """
    headers = {"Metadata": "true"}
    events = _object(service.ask(f"/metadata/scheduledevents?{_AZURE_VERSION}", headers) or "{}")
    ends = [event for event in events.get("Events", ()) if event["EventType"] in _AZURE_ENDS]
    if not ends:
        return None
    name = service.ask(f"/metadata/instance/compute/name?{_AZURE_VERSION}&format=text", headers)
    for event in ends:
        if name in event["Resources"]:
            why = f"Azure: {event['EventType']} of this machine"
            # An event that has begun has no time any more.
            return Notice(why, _left_s(event["NotBefore"]) if event["NotBefore"] else 0.0)
    return None


CLOUDS: dict[str, tuple[Callable[[Service], Notice | None], str]] = {
    "aws": (aws, "http://169.254.169.254"),
    "gcp": (gcp, "http://metadata.google.internal"),
    "azure": (azure, "http://169.254.169.254"),
}
"""By name: what asks, and where."""


def _object(text: str) -> dict[str, Any]:
    told = json.loads(text)
    if not isinstance(told, dict):
        raise ValueError(f"no JSON object: {text[:80]!r}")
    return told


def _left_s(when: str) -> float:
    """Of a time as AWS (2026-11-25T21:30:00Z) or as Azure (RFC 1123) writes it."""
    moment = datetime.fromisoformat(when) if when[:4].isdecimal() else parsedate_to_datetime(when)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - time.time())
