# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A rolling maintenance before it begins, for people: the order, who would have to move, what blocks.

Pure. Takes what onprem.gpu.maintenance (action claim) and onprem.gpu.drain return in check mode.
"""

from __future__ import annotations

import typing as t

Result = t.Mapping[str, t.Any]

MOVES = ("evict", "evict:finished", "wait:job", "wait:terminating")


def preview_lines(claim: Result, drain: Result) -> list[str]:
    """Return the lines of the plan."""
    lines = [f"{claim['limit']} may be out of service at once."]
    if claim.get("unavailable"):
        lines.append(f"Out of service already: {_told(claim['unavailable'])}.")
    if claim.get("stopped"):
        lines.append(f"Nothing would be begun: {claim['stopped']}")
    for number, batch in enumerate(claim.get("batches") or [], 1):
        lines += [
            f"Batch {number}: {', '.join(batch)}",
            *(f"  {line}" for name in batch for line in _pods(name, drain)),
        ]
    planned = {name for batch in claim.get("batches") or [] for name in batch}
    waiting = [name for name in claim.get("remaining") or [] if name not in planned]
    if waiting:
        lines += [f"Waiting for a slot: {', '.join(waiting)}"]
        lines += [f"  {line}" for name in waiting for line in _pods(name, drain)]
    lines += [f"Left alone: {name}, {why}" for name, why in sorted((claim.get("skipped") or {}).items())]
    return lines


def _told(reasons: t.Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in sorted(reasons.items()))


def _pods(name: str, drain: Result) -> list[str]:
    pods = ((drain.get("nodes") or {}).get(name) or {}).get("pods") or []
    going = [pod for pod in pods if pod["verdict"] in MOVES]
    lines = [f"{name}: {_counted(len(going))} would go{': ' if going else ''}{', '.join(map(_going, going))}"]
    return lines + [
        f"{name}: {_id(pod)} blocks ({', '.join(pod['reasons'])})" for pod in pods if pod["verdict"] == "refused"
    ]


def _counted(count: int) -> str:
    return f"{count or 'no'} pod{'' if count == 1 else 's'}"


def _going(pod: Result) -> str:
    """A pod with what is special about it: that it is waited for, or that its budget holds it back at first."""
    if pod["verdict"] == "wait:job":
        return f"{_id(pod)} (is waited for)"
    later = {"later": " (when its budget allows)", "never": " (its budget never allows)"}
    return _id(pod) + later.get(pod.get("prediction") or "", "")


def _id(pod: Result) -> str:
    return f"{pod['namespace']}/{pod['name']}"
