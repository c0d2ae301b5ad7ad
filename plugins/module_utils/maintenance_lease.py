# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose lock it is, by what a coordination.k8s.io/v1 Lease says, and the Lease as the next step leaves it.

Pure. All times are the API server's: the caller takes them from the Date of its answers. ``leaseTransitions`` is the
fencing token: it rises whenever the lock changes hands, also when a run takes up its own lock again, so that whatever
is left of its earlier process is found out. That is why a lock is released and never deleted.
"""

from __future__ import annotations

import datetime
import json
import typing as t
from dataclasses import dataclass, field, replace

Lease = t.Mapping[str, t.Any]

# Answers carry whole seconds, and the clocks of several API servers differ a little.
SKEW_SECONDS = 15
# How long an announced claim may be on its way. Who announces writes no later than half of it, and a request ends
# within a minute.
ANNOUNCED_SECONDS = 120

MINE = "mine"
FREE = "free"
EXPIRED = "expired"
HELD = "held"
UNCLEAR = "unclear"


@dataclass(frozen=True)
class Lock:
    """What the Lease says. ``announced`` are nodes that a claim is about to take, with the time it said so."""

    holder: str = ""
    acquired: datetime.datetime | None = None
    renewed: datetime.datetime | None = None
    seconds: int | None = None
    transitions: int = 0
    announced: t.Mapping[str, str] = field(default_factory=dict)
    started: int = 0
    lease: Lease = field(default_factory=dict, repr=False, compare=False)

    @property
    def run(self) -> str:
        return self.holder.partition("/")[0]

    @property
    def owner(self) -> str:
        return self.holder.partition("/")[2]

    @property
    def ends(self) -> datetime.datetime | None:
        """When it expires unless it is renewed."""
        if self.renewed is None or not self.seconds:
            return None
        return self.renewed + datetime.timedelta(seconds=self.seconds + SKEW_SECONDS)

    def still_announced(self, now: datetime.datetime) -> dict[str, str]:
        """The announced nodes whose claim can still arrive."""
        moments = {name: parse_time(at) for name, at in self.announced.items()}
        return {
            name: self.announced[name]
            for name, at in moments.items()
            if at is not None and (now - at).total_seconds() < ANNOUNCED_SECONDS
        }


# --- Reading --------------------------------------------------------------------------------------------------------


def lock_of(lease: Lease, prefix: str) -> Lock:
    spec = lease.get("spec") or {}
    notes = (lease.get("metadata") or {}).get("annotations") or {}
    started = notes.get(f"{prefix}/maint-started", "")
    return Lock(
        holder=spec.get("holderIdentity") or "",
        acquired=parse_time(spec.get("acquireTime")),
        renewed=parse_time(spec.get("renewTime")),
        seconds=spec.get("leaseDurationSeconds"),
        transitions=spec.get("leaseTransitions") or 0,
        announced=_announced(notes.get(f"{prefix}/maint-announced", "")),
        started=int(started) if started.isdigit() else 0,
        lease=lease,
    )


def _announced(text: str) -> dict[str, str]:
    try:
        return {str(name): str(at) for name, at in json.loads(text).items()}
    except (ValueError, AttributeError):
        return {}


def judge(lock: Lock | None, run: str, now: datetime.datetime) -> str:
    """Whose lock it is. A renewTime in the future is valid: clocks differ, and a lock must not be taken for that."""
    if lock is None or not lock.holder:
        return FREE
    if lock.run == run:
        return MINE
    if lock.ends is None:
        return UNCLEAR
    return EXPIRED if lock.ends < now else HELD


def due(lock: Lock, seconds: int, now: datetime.datetime) -> bool:
    """Whether it is time to renew: a third of the duration is over, or another duration is asked for."""
    if lock.renewed is None or lock.seconds != seconds:
        return True
    return (now - lock.renewed).total_seconds() > seconds / 3


# --- The next Lease -------------------------------------------------------------------------------------------------


def taken(
    lock: Lock | None,
    holder: str,
    seconds: int,
    now: datetime.datetime,
    *,
    first_token: int = 0,
    seen: t.Container[str] = (),
) -> Lock:
    """The lock in new hands, or in those of a new process of the same run.

    The latter inherits count and announcements, but those that were ``seen`` claimed. ``first_token`` is used where
    there is no Lease yet.
    """
    before = lock or Lock(transitions=first_token - 1)
    same_run = before.run == holder.partition("/")[0]
    announced = {name: at for name, at in before.still_announced(now).items() if name not in seen}
    return Lock(
        holder=holder,
        acquired=now,
        renewed=now,
        seconds=seconds,
        transitions=before.transitions + 1,
        announced=announced if same_run else {},
        started=before.started if same_run else 0,
        lease=before.lease,
    )


def renewed(lock: Lock, seconds: int, now: datetime.datetime) -> Lock:
    return replace(lock, renewed=now, seconds=seconds)


def announcing(
    lock: Lock, seconds: int, now: datetime.datetime, nodes: t.Collection[str], seen: t.Container[str]
) -> Lock:
    """Renewed, with more nodes that are about to be claimed. Forgets those that were ``seen`` claimed."""
    earlier = {name: at for name, at in lock.still_announced(now).items() if name not in seen}
    fresh = [name for name in nodes if name not in earlier]
    announced = {**earlier, **dict.fromkeys(nodes, format_time(now) or "")}
    return replace(renewed(lock, seconds, now), announced=announced, started=lock.started + len(fresh))


def arrived(lock: Lock, seconds: int, now: datetime.datetime, nodes: t.Collection[str]) -> Lock:
    """Renewed, without announced nodes whose claims have come to an end."""
    announced = {name: at for name, at in lock.announced.items() if name not in nodes}
    return replace(renewed(lock, seconds, now), announced=announced)


def released(lock: Lock, now: datetime.datetime) -> Lock:
    return Lock(renewed=now, acquired=lock.acquired, seconds=1, transitions=lock.transitions, lease=lock.lease)


def lease_of(lock: Lock, name: str, namespace: str, prefix: str) -> dict[str, t.Any]:
    """The Lease to send. Where the lock was read from one, that one's version and other people's fields go along."""
    metadata = dict(lock.lease.get("metadata") or {"name": name, "namespace": namespace})
    metadata.pop("managedFields", None)
    ours = {f"{prefix}/maint-announced": "", f"{prefix}/maint-started": ""}
    if lock.announced:
        ours[f"{prefix}/maint-announced"] = json.dumps(lock.announced, sort_keys=True)
    if lock.started:
        ours[f"{prefix}/maint-started"] = str(lock.started)
    annotations = {**(metadata.get("annotations") or {}), **ours}
    metadata["annotations"] = {key: value for key, value in annotations.items() if value or key not in ours}
    spec = {
        **(lock.lease.get("spec") or {}),
        "holderIdentity": lock.holder,
        "leaseDurationSeconds": lock.seconds,
        "leaseTransitions": lock.transitions,
        "acquireTime": format_time(lock.acquired),
        "renewTime": format_time(lock.renewed),
    }
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {name: value for name, value in spec.items() if value is not None},
    }


# --- Times ----------------------------------------------------------------------------------------------------------


def parse_time(text: str | None) -> datetime.datetime | None:
    """RFC 3339 as the API server writes it; None for anything else."""
    try:
        moment = datetime.datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def format_time(moment: datetime.datetime | None) -> str | None:
    """MicroTime: the API server takes exactly six decimals."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
