# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a maintenance run says to people and playbooks: each node, the lock, the table. Pure."""

from __future__ import annotations

import collections
import datetime
import typing as t
from dataclasses import asdict

from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_claims import Member, Plan
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lease import (
    Lock,
    format_time,
    judge,
    parse_time,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import (
    EXPECTED_BACK,
    ROLLED_BACK,
    STATES,
    Standing,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import Node

NONE = "none"
HEADINGS = ("NODE", "STATE", "SINCE", "TRY", "RUN", "NODE IS", "NOTE")
ORDER = (*STATES, "failed", ROLLED_BACK, NONE)


def state_text(standing: Standing) -> str:
    return standing.state or NONE


def node_report(node: Node, member: Member, now: datetime.datetime) -> dict[str, t.Any]:
    """One node, with what a playbook needs to go on with it."""
    standing = member.standing
    deadline = parse_time(standing.deadline)
    offered = (node.get("status") or {}).get("allocatable") or {}
    return {
        "state": state_text(standing),
        "run": standing.run,
        "target": standing.target,
        "achieved": standing.achieved,
        "since": standing.since,
        "attempt": standing.attempt,
        "seconds_left": None if deadline is None else max(0, round((deadline - now).total_seconds())),
        "boot_id": standing.boot_id,
        "batch": standing.batch,
        "record": dict(standing.orig.record),
        "found": {"unschedulable": standing.orig.unschedulable, "allocatable": dict(standing.orig.allocatable)}
        if standing.in_maintenance
        else {},
        "allocatable": {name: str(count) for name, count in offered.items() if EXPECTED_BACK.match(name)},
        "error": asdict(standing.error) if standing.error else {},
        "rolled_back": standing.rollback,
        "ready": member.ready,
        "unschedulable": member.cordoned,
    }


def lock_report(lock: Lock | None, label: str, run: str, now: datetime.datetime) -> dict[str, t.Any]:
    known = lock or Lock()
    return {
        "lease": label,
        "state": judge(lock, run, now),
        "run": known.run,
        "owner": known.owner,
        "token": known.transitions if lock else None,
        "acquired": format_time(known.acquired),
        "renewed": format_time(known.renewed),
        "duration_seconds": known.seconds,
        "expires_in_seconds": None
        if known.ends is None or not known.holder
        else round((known.ends - now).total_seconds()),
        "started": known.started,
    }


def plan_report(plan: Plan) -> dict[str, t.Any]:
    return {
        "remaining": plan.remaining,
        "skipped": plan.skipped,
        "batches": plan.batches,
        "unavailable": plan.unavailable,
        "limit": plan.limit,
        "failures": plan.failures,
        "stopped": plan.stopped,
    }


# --- For people ---


def table(members: t.Mapping[str, Member], orphaned: t.Collection[str], now: datetime.datetime) -> list[str]:
    """One line for each node, those in maintenance first, then the sum of it."""
    rows = [_row(member, name in orphaned, now) for name, member in sorted(members.items(), key=_place)]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in (HEADINGS, *rows)]
    return [*lines, sum_text(members)]


def _place(entry: tuple[str, Member]) -> tuple[int, str]:
    name, member = entry
    return _rank(state_text(member.standing)), name


def _rank(state: str) -> int:
    return ORDER.index(state) if state in ORDER else -1


def _row(member: Member, orphaned: bool, now: datetime.datetime) -> tuple[str, ...]:
    standing = member.standing
    since = parse_time(standing.since)
    return (
        member.name,
        state_text(standing),
        "" if since is None else span_text((now - since).total_seconds()),
        str(standing.attempt or ""),
        standing.run,
        f"{'Ready' if member.ready else 'NotReady'}{', cordoned' if member.cordoned else ''}",
        _note(member, orphaned, now),
    )


def _note(member: Member, orphaned: bool, now: datetime.datetime) -> str:
    standing = member.standing
    deadline = parse_time(standing.deadline)
    notes = [
        f"unreadable: {standing.damage}" if standing.damage else "",
        "orphaned: its run holds no lock" if orphaned else "",
        f"{standing.error.state}: {standing.error.message}" if standing.error else "",
        f"rolled back: {standing.rollback}" if standing.rollback else "",
        f"{span_text((deadline - now).total_seconds())} left" if deadline else "",
        *member.holders,
    ]
    return "; ".join(note for note in notes if note)


def sum_text(members: t.Mapping[str, Member]) -> str:
    """How many nodes there are in each state."""
    counts = collections.Counter(state_text(member.standing) for member in members.values())
    others = counts.pop(NONE, 0)
    parts = [
        f"{counts[state]} {state}"
        for state in sorted(counts, key=lambda state: ORDER.index(state) if state in ORDER else -1)
    ]
    plural = "" if len(members) == 1 else "s"
    return f"{len(members)} node{plural}: {', '.join([*parts, f'{others} not in maintenance'])}"


def span_text(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"
