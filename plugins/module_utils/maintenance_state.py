# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a node stands in a maintenance run, and how it gets from one state to the next.

Pure. The Node object holds the whole truth: a label that finds the nodes in maintenance, and annotations with state,
run, fencing token and everything that has to be given back. The state is written before its action begins, so state S
means "the actions of S may have happened partly", and going on after a crash means doing the action of S again.

Each function takes a node as it is and returns the one patch of its transition, None when there is nothing to do, or
raises Declined. Each of them may be computed again on its own result, which then needs no patch: that is how a lost
answer is settled. Times come as text.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import asdict, dataclass, field, replace

from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import (
    Node,
    Patch,
    TaintWish,
    Wish,
    compute,
    touched,
)

CLAIMED = "claimed"
CORDONED = "cordoned"
WAITING_JOBS = "waiting-jobs"
EVICTING = "evicting"
UPGRADING = "upgrading"
REBOOTING = "rebooting"
VALIDATING = "validating"
RESTORING = "restoring"
FAILED = "failed"
# Not in maintenance; only a note that the last change of this node was taken back.
ROLLED_BACK = "rolled-back"

# What each state leads to when all goes well, in the order of the way.
NEXT: dict[str, tuple[str, ...]] = {
    CLAIMED: (CORDONED,),
    CORDONED: (WAITING_JOBS, EVICTING),
    WAITING_JOBS: (EVICTING,),
    EVICTING: (UPGRADING, REBOOTING, VALIDATING),
    UPGRADING: (REBOOTING, VALIDATING),
    REBOOTING: (VALIDATING,),
    VALIDATING: (RESTORING,),
    RESTORING: (),
}
STATES = tuple(NEXT)
BEFORE_CHANGE = (CLAIMED, CORDONED, WAITING_JOBS, EVICTING)
CHANGED = (UPGRADING, REBOOTING, VALIDATING)
IRREVOCABLE = (UPGRADING, REBOOTING)
PROVING = (VALIDATING, RESTORING)

# Values of the label.
ACTIVE = "active"

INTERFERED = "interfered"
PAUSED = "paused-for-driver-upgrade"
EXPECTED_BACK = re.compile(r"nvidia\.com/(gpu|mig-)")

ANNOTATIONS = (
    *("state", "run", "token", "pool", "target", "since", "deadline", "orig", "bootid", "attempt", "error"),
    *("batch", "rollback"),
)
ERROR_MAX_BYTES = 512
RECORD_MAX_BYTES = 512


class Declined(Exception):
    """A transition that must not be made. ``reason`` is refused or conflict."""

    def __init__(self, message: str, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Keys:
    """Names of what is written on nodes."""

    prefix: str = "onprem.gpu"

    @property
    def label(self) -> str:
        return f"{self.prefix}/maint"

    @property
    def taint(self) -> str:
        return f"{self.prefix}/maintenance"

    @property
    def achieved(self) -> str:
        return f"{self.prefix}/target"

    def of(self, part: str) -> str:
        return f"{self.prefix}/maint-{part}"


@dataclass(frozen=True)
class Run:
    """Who acts: a run, and the fencing token that its lock gave it."""

    id: str
    token: int
    pool: str


@dataclass(frozen=True)
class Original:
    """What a node was like when it was claimed, and what the caller noted then (versions to go back to)."""

    unschedulable: bool = False
    labels: t.Mapping[str, str] = field(default_factory=dict)
    allocatable: t.Mapping[str, str] = field(default_factory=dict)
    record: t.Mapping[str, t.Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a node failed, and the state it failed in."""

    state: str
    reason: str
    message: str


@dataclass(frozen=True)
class Standing:
    """What a node says of itself. ``damage`` tells what of it cannot be read."""

    state: str = ""
    run: str = ""
    token: int = 0
    pool: str = ""
    target: str = ""
    since: str = ""
    deadline: str = ""
    orig: Original = field(default_factory=Original)
    boot_id: str = ""
    attempt: int = 0
    error: Failure | None = None
    batch: str = ""
    rollback: str = ""
    achieved: str = ""
    damage: str = ""

    @property
    def in_maintenance(self) -> bool:
        return self.state not in ("", ROLLED_BACK)

    @property
    def untouched(self) -> bool:
        """Nobody has it, as far as can be told."""
        return not self.in_maintenance and not self.damage

    @property
    def active(self) -> bool:
        return self.in_maintenance and self.state != FAILED

    @property
    def place(self) -> str:
        """The state whose action may have happened partly, of a failed node as well."""
        return self.error.state if self.state == FAILED and self.error else self.state


# --- Reading --------------------------------------------------------------------------------------------------------


def standing_of(node: Node, keys: Keys) -> Standing:
    """What the node says of itself."""
    found = node["metadata"].get("annotations") or {}
    text = {part: found.get(keys.of(part), "") for part in ANNOTATIONS}
    plain = {part: text[part] for part in ("state", "run", "pool", "target", "since", "deadline", "batch", "rollback")}
    achieved = found.get(keys.achieved, "")
    try:
        standing = Standing(
            **plain,
            achieved=achieved,
            boot_id=text["bootid"],
            token=int(text["token"] or 0),
            attempt=int(text["attempt"] or 0),
            orig=Original(**json.loads(text["orig"])) if text["orig"] else Original(),
            error=Failure(**json.loads(text["error"])) if text["error"] else None,
        )
    except (TypeError, ValueError) as error:
        return Standing(**plain, achieved=achieved, damage=str(error))
    marked = keys.label in (node["metadata"].get("labels") or {}) or any(text.values())
    return replace(standing, damage=_damage(standing, marked, bool(text["orig"])))


def _damage(standing: Standing, marked: bool, has_original: bool) -> str:
    if not standing.state:
        return "there are traces of maintenance, but no state" if marked else ""
    if standing.state not in (*STATES, FAILED, ROLLED_BACK):
        return f"there is no state {standing.state}"
    if standing.in_maintenance and not has_original:
        return "what the node was like before is missing"
    return "why it failed is missing" if standing.state == FAILED and standing.error is None else ""


def view(node: Node, keys: Keys) -> dict[str, t.Any]:
    """What maintenance has written or may write on a node; for diffs."""
    operands = standing_of(node, keys).orig.labels
    everything = Wish(
        labels={keys.label: None, **dict.fromkeys(operands)},
        annotations={keys.achieved: None, **{keys.of(part): None for part in ANNOTATIONS}},
        taints=(TaintWish(keys.taint, None),),
        unschedulable=False,
    )
    return touched(node, everything)


# --- Transitions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What is noted on a node when it is claimed."""

    target: str
    now: str
    record: t.Mapping[str, t.Any] = field(default_factory=dict)
    operand_labels: t.Sequence[str] = ()
    batch: str = ""


def claim(node: Node, keys: Keys, run: Run, order: Claim) -> Patch | None:
    """Take a node that nobody has. What has to be given back is saved in the same patch."""
    standing = standing_of(node, keys)
    if not standing.untouched:
        _owned(standing, run)
        return None
    notes = {
        **dict.fromkeys(ANNOTATIONS),
        **_identity(run),
        "state": CLAIMED,
        "target": order.target,
        "since": order.now,
        "attempt": "1",
        "orig": _json(asdict(_original(node, order))),
        "batch": order.batch or None,
    }
    return compute(node, _wish(keys, ACTIVE, notes))


def _original(node: Node, order: Claim) -> Original:
    labels = node["metadata"].get("labels") or {}
    offered = (node.get("status") or {}).get("allocatable") or {}
    return Original(
        unschedulable=bool((node.get("spec") or {}).get("unschedulable")),
        labels={key: labels[key] for key in order.operand_labels if labels.get(key) == "true"},
        allocatable={
            name: str(count) for name, count in offered.items() if EXPECTED_BACK.match(name) and str(count) != "0"
        },
        record=order.record,
    )


@dataclass(frozen=True)
class Advance:
    """Where to. ``boot_id`` is of the boot that is about to end; without it the node's own report counts."""

    to: str
    now: str
    deadline: str = ""
    boot_id: str = ""
    recordon: bool = False


def advance(node: Node, keys: Keys, run: Run, order: Advance, ready: bool) -> Patch | None:
    """Enter a state. A node that is there or past it, or that has failed, stays as it is.

    A node that somebody opened to pods in the meantime fails, in this very patch.
    """
    standing = _owned(standing_of(node, keys), run)
    if standing.state == FAILED or STATES.index(standing.state) >= STATES.index(order.to):
        return None
    if order.to not in NEXT[standing.state]:
        ways = " or ".join(NEXT[standing.state])
        raise Declined(f"is {standing.state}; from there it goes to {ways}, not to {order.to}")
    interference = "" if order.recordon else _interference(node, keys, standing)
    if interference:
        return compute(node, _failed(keys, standing, order.now, INTERFERED, interference))
    obstacle = boot_obstacle(node, standing, ready) if standing.state == REBOOTING else ""
    if obstacle:
        raise Declined(obstacle)
    notes = {
        "state": order.to,
        "token": str(run.token),
        "since": order.now,
        "deadline": order.deadline or None,
        "attempt": "1",
    }
    if order.to == REBOOTING:
        notes["bootid"] = order.boot_id or _boot_id(node)
        if not notes["bootid"]:
            raise Declined("reports no boot id, so its reboot could not be proven; give boot_id")
    return compute(node, _wish(keys, ACTIVE, notes, _operands(node, standing, order.to), out=order.to))


def roll_back(node: Node, keys: Keys, run: Run, now: str, why: str) -> Patch | None:
    """Go back to upgrading, this time to what was there before. Possible once for each node and run."""
    standing = _owned(standing_of(node, keys), run)
    if standing.rollback and standing.state == UPGRADING:
        return None
    if standing.rollback:
        raise Declined(f"was rolled back before ({standing.rollback}); a person has to look at it")
    if standing.place not in CHANGED:
        raise Declined(f"is {_where(standing)}; only what is {' or '.join(CHANGED)} can be rolled back")
    notes = {
        **{"state": UPGRADING, "token": str(run.token), "since": now, "attempt": "1"},
        **{"deadline": None, "error": None, "rollback": _shortened(why)},
    }
    return compute(node, _wish(keys, ACTIVE, notes, _operands(node, standing, UPGRADING), out=UPGRADING))


def fail(node: Node, keys: Keys, run: Run, now: str, message: str) -> Patch | None:
    """Stop work on a node. It stays cordoned if it was; the first failure stays on record."""
    standing = _owned(standing_of(node, keys), run)
    if standing.state == FAILED:
        return None
    return compute(node, _failed(keys, standing, now, FAILED, message))


def retry(node: Node, keys: Keys, run: Run, now: str) -> Patch | None:
    """Bring a failed node back to the state it failed in.

    One that failed before it was cordoned serves pods, so it is let go: only a claim may take it out of service.
    """
    standing = standing_of(node, keys)
    if standing.untouched:
        return None
    _owned(standing, run)
    if standing.state != FAILED:
        return None
    if standing.place == CLAIMED:
        return compute(node, _given_back(node, keys, standing, {}))
    interference = _interference(node, keys, standing)
    if interference:
        raise Declined(f"{interference}; abort its maintenance, then claim it again")
    notes = {
        **{"state": standing.place, "token": str(run.token), "since": now},
        **{"deadline": None, "error": None, "attempt": str(standing.attempt + 1)},
    }
    return compute(node, _wish(keys, ACTIVE, notes))


def restore(node: Node, keys: Keys, run: Run) -> Patch | None:
    """Return a validated node to service, exactly as it was found, and note what was achieved."""
    standing = standing_of(node, keys)
    if standing.untouched:
        return None
    _owned(standing, run)
    if standing.state not in (VALIDATING, RESTORING):
        raise Declined(f"is {_where(standing)}; only what is {VALIDATING} or {RESTORING} goes back into service")
    return compute(node, _given_back(node, keys, standing, _result(keys, standing)))


def abort(node: Node, keys: Keys, run: Run, to_service: bool) -> Patch | None:
    """Give a node back as it was found, without a result. ``to_service``: even if it was changed already."""
    standing = standing_of(node, keys)
    if standing.untouched:
        return None
    _owned(standing, run)
    if standing.state in IRREVOCABLE:
        raise Declined(f"is {standing.state}, which cannot be interrupted; let it end or fail, then abort again")
    if standing.place in CHANGED and not to_service:
        raise Declined(
            f"is {_where(standing)}, so it may be changed and unproven; set abort_to_service to true to put it into "
            "service all the same"
        )
    result = _result(keys, standing) if standing.state == RESTORING else {}
    return compute(node, _given_back(node, keys, standing, result))


def adopt(node: Node, keys: Keys, run: Run) -> Patch | None:
    """Take over the node of a run that is dead. Its state and what it was like before stay."""
    standing = standing_of(node, keys)
    if standing.damage:
        raise _unreadable(standing)
    if not standing.in_maintenance:
        raise Declined("is not in maintenance")
    if standing.pool != run.pool:
        raise Declined(f"belongs to pool {standing.pool}, whose lock this run does not hold")
    if standing.token > run.token:
        raise _fenced(standing, run)
    return compute(node, _wish(keys, None, _identity(run)))


# --- What transitions share -----------------------------------------------------------------------------------------


def _owned(standing: Standing, run: Run) -> Standing:
    """The same standing, if it is ours to change."""
    if standing.damage:
        raise _unreadable(standing)
    if not standing.in_maintenance:
        raise Declined("is not in maintenance; claim it first")
    if standing.run != run.id:
        raise Declined(f"is in maintenance by run {standing.run} ({_where(standing)}), not by {run.id}", "conflict")
    if standing.token > run.token:
        raise _fenced(standing, run)
    return standing


def _unreadable(standing: Standing) -> Declined:
    return Declined(
        f"has maintenance annotations that somebody has changed ({standing.damage}); look whether it should be "
        "cordoned, then remove label, annotations and taint of maintenance by hand"
    )


def _fenced(standing: Standing, run: Run) -> Declined:
    message = f"was written under token {standing.token} of the lock, ours is {run.token}: the lock was taken over"
    return Declined(message, "conflict")


def _where(standing: Standing) -> str:
    return f"failed in {standing.place}" if standing.state == FAILED else standing.state


def _interference(node: Node, keys: Keys, standing: Standing) -> str:
    """What somebody undid of what takes the node out of service."""
    if standing.place == CLAIMED:
        return ""
    spec = node.get("spec") or {}
    undone = [] if spec.get("unschedulable") else ["uncordoned it"]
    is_tainted = any(taint["key"] == keys.taint for taint in spec.get("taints") or [])
    if not is_tainted and standing.place not in PROVING:
        undone.append(f"removed the taint {keys.taint}")
    return f"somebody {' and '.join(undone)} while it was {standing.place}" if undone else ""


def boot_obstacle(node: Node, standing: Standing, ready: bool) -> str:
    """What is missing for the proof that the node has rebooted and serves again; '' when nothing is."""
    if _boot_id(node) in ("", standing.boot_id):
        return f"has not rebooted: its kubelet still reports boot id {standing.boot_id}"
    return "" if ready else "has rebooted, but its kubelet has not reported Ready since"


def _boot_id(node: Node) -> str:
    return str(((node.get("status") or {}).get("nodeInfo") or {}).get("bootID") or "")


def _operands(node: Node, standing: Standing, to: str) -> dict[str, str]:
    """Labels that pause the operator's pods while GPUs are worked on, and those that let them come back."""
    labels = node["metadata"].get("labels") or {}
    if to == UPGRADING:
        return {key: PAUSED for key, value in standing.orig.labels.items() if labels.get(key) == value}
    if to == VALIDATING:
        return {key: value for key, value in standing.orig.labels.items() if labels.get(key) == PAUSED}
    return {}


def _failed(keys: Keys, standing: Standing, now: str, reason: str, message: str) -> Wish:
    error = Failure(standing.state, reason, _shortened(message))
    notes = {"state": FAILED, "since": now, "deadline": None, "error": _json(asdict(error))}
    return _wish(keys, FAILED, notes)


def _result(keys: Keys, standing: Standing) -> dict[str, str | None]:
    """Annotations that stay on a node that has been through it all."""
    if not standing.rollback:
        return {keys.achieved: standing.target}
    kept = {"state": ROLLED_BACK, "run": standing.run, "target": standing.target, "rollback": standing.rollback}
    return {keys.of(part): value for part, value in kept.items()}


def _given_back(node: Node, keys: Keys, standing: Standing, result: t.Mapping[str, str | None]) -> Wish:
    """The node as it was found. Where somebody has changed what we made of it, their wish is the later one."""
    labels = node["metadata"].get("labels") or {}
    paused = {key: value for key, value in standing.orig.labels.items() if labels.get(key) == PAUSED}
    still_cordoned = bool((node.get("spec") or {}).get("unschedulable"))
    return Wish(
        labels={keys.label: None, **paused},
        annotations={**{keys.of(part): None for part in ANNOTATIONS}, **result},
        taints=(TaintWish(keys.taint, None, present=False),),
        unschedulable=standing.orig.unschedulable if still_cordoned else None,
    )


def _wish(
    keys: Keys,
    label: str | None,
    notes: t.Mapping[str, str | None],
    operands: t.Mapping[str, str] | None = None,
    out: str = "",
) -> Wish:
    """Annotations and label of a state; ``out``, the state to enter, also takes the node out of service.

    While the node proves itself it is cordoned without the taint: the operator's pods, which do not tolerate it, have
    to come back.
    """
    return Wish(
        labels={**({keys.label: label} if label else {}), **(operands or {})},
        annotations={keys.of(part): value for part, value in notes.items()},
        taints=_taint(keys, out) if out else (),
        unschedulable=True if out else None,
    )


def _taint(keys: Keys, state: str) -> tuple[TaintWish, ...]:
    if state in PROVING:
        return (TaintWish(keys.taint, None, present=False),)
    return (TaintWish(keys.taint, "NoSchedule"),)


def _identity(run: Run) -> dict[str, str | None]:
    return {"run": run.id, "token": str(run.token), "pool": run.pool}


def _shortened(text: str) -> str:
    encoded = text.encode()
    return text if len(encoded) <= ERROR_MAX_BYTES else encoded[: ERROR_MAX_BYTES - 3].decode(errors="ignore") + "..."


def _json(data: t.Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))
