# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What follows from the checks of acceptance.py: the verdict, what people are shown, and what the node is to carry.

Pure. A node that was refused carries a taint, an annotation with the failed checks, and an Event with all that is told
of them. An Event is gone after an hour; taint and annotation stay until the node is accepted.
"""

from __future__ import annotations

import json
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.acceptance import Check, Facts
from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding
from ansible_collections.onprem.gpu.plugins.module_utils.operator_plan import ACCEPTANCE

LONGEST_LINE = 130  # characters; kubectl describe cuts lines of an annotation a little later
LONGEST_EVENT = 1024  # characters, as the API has it
EVENT_REASON = "GPUAcceptanceFailed"
# Where to set what is wanted, for checks whose wish may be the mistake.
VARIABLES = {
    "gpus_on_bus": "gpu_acceptance_gpus",
    "driver_version": "gpu_driver_version",
    "mig_layout": "gpu_mig_layout",
}


def outcome(
    found: t.Sequence[Check], severity: t.Mapping[str, str], name: str, node: Facts | None, now: str
) -> dict[str, t.Any]:
    """Return what follows from the checks of the node of this name.

    passed and findings (for onprem.gpu.report_findings); node, an entry for onprem.gpu.nodes; event, to be written, or
    None; past_event, to be removed, or None. now: as 2026-11-26T11:20:00Z.
    """
    failed = _failed(found, severity)
    result: dict[str, t.Any] = {
        "passed": not failed,
        "findings": _findings(found, severity),
        "node": None,
        "event": None,
        "past_event": None,
    }
    if node is None:
        return result
    before = _record_found(node)
    record = {
        "passed": not failed,
        "driver": next((one["have"] for one in found if one["check"] == "driver_version"), ""),
        "failed": [_cut(f"{one['check']}: {one['message']}", LONGEST_LINE) for one in failed],
    }
    # Since when it is so: an acceptance that finds the same again writes nothing.
    same = {key: before.get(key) for key in record} == record
    record["time"] = before["time"] if same and before.get("time") else now
    # Indented, so that kubectl describe, which cuts lines, shows all of it.
    result["node"] = {
        "name": name,
        "annotations": {ACCEPTANCE: json.dumps(record, indent=1)},
        "taints": [_taint(bool(failed))],
    }
    if failed:
        said = "; ".join(f"{one['check']}: {one['message']}" for one in failed)
        message = _cut(f"{len(failed)} of {len(found)} checks failed. {said}", LONGEST_EVENT)
        result["event"] = {
            **_event_of(name, node["uid"]),
            "message": message,
            "firstTimestamp": record["time"],
            "lastTimestamp": now,
        }
    elif before.get("passed") is False:
        result["past_event"] = _event_name(name)
    return result


def _findings(found: t.Iterable[Check], severity: t.Mapping[str, str]) -> list[Finding]:
    return [
        finding(
            one["check"],
            one["have"],
            one["message"],
            "",
            VARIABLES.get(one["check"], "") if one["passed"] is False else "",
            severity=_severity(one, severity),
        )
        for one in found
        if one["passed"] is not True
    ]


def _record_found(node: Facts) -> dict[str, t.Any]:
    """What an earlier acceptance wrote; somebody may have edited it."""
    try:
        found = json.loads(node["annotations"].get(ACCEPTANCE) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _taint(failed: bool) -> dict[str, str]:
    """Whatever value the taint has: a node may join with it, and the first acceptance that passes takes it away."""
    if failed:
        return {"key": ACCEPTANCE, "value": "failed", "effect": "NoSchedule"}
    return {"key": ACCEPTANCE, "state": "absent"}


def _event_name(node: str) -> dict[str, t.Any]:
    """Events of nodes, which have no namespace, live in this one."""
    return {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{node}.gpu-acceptance", "namespace": "default"}}


def _event_of(node: str, uid: str) -> dict[str, t.Any]:
    return {
        **_event_name(node),
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid},
        "type": "Warning",
        "reason": EVENT_REASON,
        "source": {"component": "onprem.gpu"},
        "count": 1,
    }


def _cut(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 4]} ..."


def _failed(found: t.Iterable[Check], severity: t.Mapping[str, str]) -> list[Check]:
    return [one for one in found if one["passed"] is False and _severity(one, severity) == "error"]


def _severity(check: Check, severity: t.Mapping[str, str]) -> str:
    return severity.get(check["check"]) or "error" if check["passed"] is False else "info"
