"""Notices of the end of this machine, from its cloud's metadata service. Knows nothing of Ray."""

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
"""The time that Google gives; the service says only that preemption has started."""
_AZURE_ENDS = ("Preempt", "Terminate", "Redeploy")
_AZURE_VERSION = "api-version=2020-07-01"


@dataclass(frozen=True)
class Notice:
    """The news that this machine will be taken back, or may be."""

    why: str
    left_s: float | None
    """Seconds until the end; None: unknown, and possibly a long time."""


@dataclass(frozen=True)
class Service:
    """The metadata service of a cloud."""

    url: str

    def ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
        """The text at `path`, or None (404). Raises OSError if nothing answers."""
        request = urllib.request.Request(self.url + path, headers=dict(headers), method=method)
        # Never through a proxy from the environment: that would answer for its own machine.
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
    """AWS's notice by IMDSv2: spot/instance-action (two minutes before), else a recommendation to
    rebalance.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = {"X-aws-ec2-metadata-token": service.ask("/latest/api/token", ttl, "PUT") or ""}
    action = service.ask("/latest/meta-data/spot/instance-action", token)
    if action is not None:
        event = _object(action)
        return Notice(f"AWS will {event['action']} this spot instance", _left_s(event["time"]))
    if service.ask("/latest/meta-data/events/recommendations/rebalance", token) is not None:
        return Notice("AWS recommends leaving this spot instance", None)
    return None


def gcp(service: Service) -> Notice | None:
    """Google's notice of preemption.

    https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption
    """
    headers = {"Metadata-Flavor": "Google"}
    preempted = service.ask("/computeMetadata/v1/instance/preempted", headers)
    if (preempted or "").strip() == "TRUE":
        return Notice("Google Cloud preempts this instance", GCP_NOTICE_S)
    return None


def azure(service: Service) -> Notice | None:
    """Azure's notice: scheduled events that end this machine. Its neighbors' are listed, too.

    https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
    """
    headers = {"Metadata": "true"}
    events = _object(service.ask(f"/metadata/scheduledevents?{_AZURE_VERSION}", headers) or "{}")
    endings = [event for event in events.get("Events", ()) if event["EventType"] in _AZURE_ENDS]
    if not endings:
        return None
    name = service.ask(f"/metadata/instance/compute/name?{_AZURE_VERSION}&format=text", headers)
    for event in endings:
        if name in event["Resources"]:
            why = f"Azure: {event['EventType']} of this machine"
            # An event that has started no longer has a time.
            return Notice(why, _left_s(event["NotBefore"]) if event["NotBefore"] else 0.0)
    return None


CLOUDS: dict[str, tuple[Callable[[Service], Notice | None], str]] = {
    "aws": (aws, "http://169.254.169.254"),
    "gcp": (gcp, "http://metadata.google.internal"),
    "azure": (azure, "http://169.254.169.254"),
}
"""For each cloud, the function that asks for its notice and the URL of its metadata service."""


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"no JSON object: {text[:80]!r}")
    return value


def _left_s(when: str) -> float:
    """Seconds until a time written as AWS (2026-11-25T21:30:00Z) or Azure (RFC 1123) does."""
    moment = datetime.fromisoformat(when) if when[:4].isdecimal() else parsedate_to_datetime(when)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - time.time())
