# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a maintenance run: lock, fleet, claims and transitions, each of them safe to repeat after a crash.

Every step that writes begins with the lock. A claim first says on the lock which nodes it is about to take, with the
version of the lock it had read before it looked at the fleet. So two claims at once never use the same slot, and a
claim that was killed half-way still counts.
"""

from __future__ import annotations

import functools
import random
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Cluster, ClusterError, OutcomeUnknown
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_claims import (
    Member,
    Plan,
    Rules,
    batch_of,
    foreign_holders,
    member_of,
    plan_claims,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lease import (
    ANNOUNCED_SECONDS,
    EXPIRED,
    FREE,
    Lock,
    judge,
    lock_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lock import LEASES, Raced, RunLock, Taking
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_state import (
    CLAIMED,
    CORDONED,
    FAILED,
    IRREVOCABLE,
    REBOOTING,
    VALIDATING,
    Advance,
    Claim,
    Declined,
    Keys,
    Run,
    abort,
    adopt,
    advance,
    boot_obstacle,
    claim,
    fail,
    restore,
    retry,
    roll_back,
    standing_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import Node, Patch, patched
from ansible_collections.onprem.gpu.plugins.module_utils.node_write import (
    NODES,
    Written,
    is_ready,
    read_named,
    read_selected,
    unknown_node,
    write_all,
)

ATTEMPTS = 10
# How a rehearsal (check mode) finds out what would happen: ask the server with dry runs, or compute.
ASK_SERVER = "server"
COMPUTE = "compute"

Decide = t.Callable[[Node], t.Optional[Patch]]


@dataclass(frozen=True)
class Wanted:
    """A node that should be claimed."""

    target: str
    record: t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Claims:
    """What a run would like to claim, of which fleet, and what it may.

    ``operand_labels`` are the labels by which the GPU Operator's pods can be paused.
    """

    wanted: t.Mapping[str, Wanted]
    rules: Rules
    selector: str
    operand_labels: t.Sequence[str] = ()
    medik8s_namespace: str = ""


@dataclass(frozen=True)
class Started:
    """The lock that was taken, what it was before, and the fleet."""

    lock: Lock
    before: Lock | None
    nodes: dict[str, Node]


class Maintenance:
    """One run on one cluster.

    ``written`` grows while a step is under way, so that an error in the middle of it does not hide what was done
    before. ``rehearsal`` is '' when it is meant.
    """

    def __init__(
        self,
        cluster: Cluster,
        lock: RunLock,
        keys: Keys,
        rehearsal: str = "",
        *,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.cluster, self.lock, self.keys, self.rehearsal = cluster, lock, keys, rehearsal
        self._clock, self._sleep = clock, sleep
        self.written: dict[str, Written] = {}
        self.plan: Plan | None = None

    # --- Lock and fleet ---

    def start(
        self,
        run: str,
        owner: str,
        selector: str,
        names: t.Collection[str] = (),
        *,
        break_lock: bool = False,
        wait_seconds: float = 0,
    ) -> Started:
        """Take the lock, or take it up again, once it is clear that the fleet is the right one."""
        nodes = self.fleet(selector, names)
        standings = {name: standing_of(node, self.keys) for name, node in nodes.items()}
        tokens = [standing.token for standing in standings.values() if standing.run]
        taking = Taking(
            run=run,
            owner=owner,
            # Where somebody has deleted the Lease the tokens must go on rising all the same.
            first_token=max(tokens, default=-1) + 1,
            seen=[name for name, standing in standings.items() if standing.in_maintenance and standing.run == run],
            break_lock=break_lock,
            wait_seconds=wait_seconds,
        )
        if self.rehearsal:
            before = self.lock.read()
            return Started(self.lock.foreseen(before, taking, self.lock.now()), before, nodes)
        lock, before = self.lock.take(taking)
        return Started(lock, before, nodes)

    def fleet(self, selector: str, names: t.Collection[str] = ()) -> dict[str, Node]:
        """The nodes a label selector matches, and those of this pool in maintenance.

        The latter may have lost what the selector asks for: labels of GPUs come and go with the driver. Raises
        ClusterError when there are none, or when one of ``names`` is not among them.
        """
        nodes = read_selected(self.cluster, selector)
        if not nodes:
            raise ClusterError(
                "not_found",
                f"label_selector {selector!r} matches no node of {self.cluster.where}. Check the selector, and that "
                "this is the right cluster. Nothing was changed.",
            )
        for name, node in self._marked().items():
            if name not in nodes and standing_of(node, self.keys).pool == self.lock.terms.pool:
                nodes[name] = node
        self._refuse_strangers(selector, sorted(set(names) - set(nodes)))
        return nodes

    def _refuse_strangers(self, selector: str, strangers: list[str]) -> None:
        if not strangers:
            return
        existing = read_named(self.cluster, strangers)
        problems = [
            f"Node {name} is not among those that label_selector {selector!r} matches, so it would not count against "
            "max_unavailable."
            if name in existing
            else str(unknown_node(self.cluster, name))
            for name in strangers
        ]
        reason = "refused" if len(existing) == len(strangers) else "not_found"
        raise ClusterError(reason, " ".join([*problems, "Nothing was changed."]))

    def _marked(self) -> dict[str, Node]:
        return read_selected(self.cluster, self.keys.label)

    def _own_lock(self, run: Run, renew: bool = False) -> Lock:
        if not self.rehearsal:
            return self.lock.check(run.id, run.token, renew)
        lock = self.lock.read()
        self.lock.refuse_held(lock, run.id, self.lock.now())
        return lock or Lock()

    def renew(self, run: Run) -> Lock:
        return self._own_lock(run, renew=True)

    def release(self, run: Run) -> bool:
        """Leave the lock to others; whether it was ours.

        Nodes still in maintenance keep their states and may be adopted at once.
        """
        if self.rehearsal:
            lock = self.lock.read()
            return lock is not None and lock.run == run.id
        return self.lock.release(run.id, run.token)

    # --- Claims ---

    def claim(self, run: Run, claims: Claims) -> Plan:
        """Claim as many of the wanted nodes as the rules let through now."""
        targets = {name: each.target for name, each in claims.wanted.items()}
        for attempt in range(ATTEMPTS):
            lock = self._own_lock(run)
            nodes = self.fleet(claims.selector, claims.wanted)
            fleet = {name: member_of(node, self.keys, is_ready(node)) for name, node in nodes.items()}
            if claims.medik8s_namespace:
                fleet = self._with_medik8s(fleet, claims.medik8s_namespace)
            seen = {name for name, member in fleet.items() if member.standing.in_maintenance}
            announced = [name for name in lock.still_announced(self.lock.now()) if name not in seen]
            self.plan = plan = plan_claims(
                fleet, targets, claims.rules, run.id, announced=announced, started=lock.started
            )
            decide = functools.partial(self._claim, run, claims, fleet, self._clock())
            chosen = {name: nodes[name] for name in plan.chosen}
            if not chosen or self.rehearsal:
                self._write(chosen, decide)
                return plan
            try:
                self.lock.announce(lock, plan.chosen, seen)
            except (Raced, OutcomeUnknown):
                self._sleep(0.05 * 2**attempt * random.uniform(0.5, 1.5))
                continue
            self._write(chosen, decide)
            self.lock.arrive(run.id, run.token, plan.chosen)
            return plan
        raise ClusterError(
            "conflict", f"Could not claim in {ATTEMPTS} tries: the lock was written by others each time. Run again."
        )

    def _claim(
        self, run: Run, claims: Claims, fleet: t.Mapping[str, Member], announced_at: float, node: Node
    ) -> Patch | None:
        """Decide on one chosen node, also when it had to be read again."""
        name = node["metadata"]["name"]
        holders = foreign_holders(node)
        if holders and not standing_of(node, self.keys).in_maintenance:
            raise Declined(f"was taken by somebody else in between: {'; '.join(holders)}", "conflict")
        if self._clock() - announced_at > min(ANNOUNCED_SECONDS / 2, self.lock.terms.seconds):
            raise Declined("was not claimed: its announcement is too old by now; claim again", "timeout")
        order = Claim(
            target=claims.wanted[name].target,
            now=self._now(),
            record=claims.wanted[name].record,
            operand_labels=claims.operand_labels,
            batch=batch_of(fleet[name], claims.rules),
        )
        return claim(node, self.keys, run, order)

    def _with_medik8s(self, fleet: t.Mapping[str, Member], namespace: str) -> dict[str, Member]:
        """The same fleet, with what medik8s' operators hold by leases named node-NAME."""
        held = {}
        for page in self.cluster.list_pages(f"{LEASES}/{namespace}/leases"):
            for lease in page["items"]:
                lock = lock_of(lease, self.keys.prefix)
                if judge(lock, "", self.lock.now()) not in (FREE, EXPIRED):
                    held[lease["metadata"]["name"]] = f"medik8s holds it ({lock.holder})"
        return {
            name: replace(member, holders=(*member.holders, held[f"node-{name}"])) if f"node-{name}" in held else member
            for name, member in fleet.items()
        }

    # --- Transitions ---

    def advance(
        self,
        run: Run,
        names: t.Collection[str],
        to: str,
        *,
        boot_ids: t.Mapping[str, str] | None = None,
        deadline_seconds: float | None = None,
        recordon: bool = False,
        wait_seconds: float = 0,
    ) -> None:
        """Bring nodes into a state. ``wait_seconds``: how long to wait for the proof that they have rebooted."""
        lock = self._own_lock(run, renew=to in IRREVOCABLE)
        nodes = self._named(names, lock)
        deadline = self._now(deadline_seconds) if deadline_seconds is not None else ""

        def decide(node: Node) -> Patch | None:
            boot_id = (boot_ids or {}).get(node["metadata"]["name"], "")
            order = Advance(to, self._now(), deadline, boot_id, recordon)
            return advance(node, self.keys, run, order, is_ready(node))

        waiting = self._rebooting(nodes) if to == VALIDATING and wait_seconds and not self.rehearsal else {}
        nodes = self._without_laggards(run, nodes, to)
        self._write({name: node for name, node in nodes.items() if name not in waiting}, decide)
        if waiting:
            self._write_once_rebooted(run, waiting, decide, wait_seconds)
        self._tell_failed()

    def roll_back(self, run: Run, errors: t.Mapping[str, str]) -> None:
        """Back to upgrading, to what was there before, each with the reason."""
        nodes = self._named(errors, self._own_lock(run, renew=True))
        self._write(nodes, lambda node: roll_back(node, self.keys, run, self._now(), errors[node["metadata"]["name"]]))

    def fail(self, run: Run, errors: t.Mapping[str, str]) -> None:
        """Stop work on nodes, each with its reason."""
        nodes = self._named(errors, self._own_lock(run))
        self._write(nodes, lambda node: fail(node, self.keys, run, self._now(), errors[node["metadata"]["name"]]))

    def retry(self, run: Run, names: t.Collection[str] | None) -> None:
        """Failed nodes back to where they failed; without names all of the run."""
        lock = self._own_lock(run)
        nodes = self._named(names, lock) if names is not None else self._of_run(run)
        self._write(nodes, lambda node: retry(node, self.keys, run, self._now()))

    def restore(self, run: Run, names: t.Collection[str]) -> None:
        """Validated nodes back into service, as they were found."""
        nodes = self._named(names, self._own_lock(run))
        self._write(nodes, lambda node: restore(node, self.keys, run))

    def abort(self, run: Run, names: t.Collection[str] | None, to_service: bool) -> None:
        """Give nodes back as they were found; without names all of the run."""
        lock = self._own_lock(run)
        nodes = self._named(names, lock) if names is not None else self._of_run(run)
        self._write(nodes, lambda node: abort(node, self.keys, run, to_service))

    def adopt(self, run: Run, names: t.Collection[str] | None) -> None:
        """Take over nodes of dead runs; without names all of this pool."""
        lock = self._own_lock(run)
        nodes = self._named(names, lock) if names is not None else self.orphans(run.id, self._marked())
        self._write(nodes, lambda node: adopt(node, self.keys, run))

    def orphans(self, run: str, nodes: t.Mapping[str, Node]) -> dict[str, Node]:
        """Those in maintenance by other runs of this pool."""
        standings = {name: standing_of(node, self.keys) for name, node in nodes.items()}
        return {
            name: nodes[name]
            for name, standing in standings.items()
            if standing.in_maintenance and standing.run != run and standing.pool == self.lock.terms.pool
        }

    # --- Reading ---

    def _of_run(self, run: Run) -> dict[str, Node]:
        return {name: node for name, node in self._marked().items() if standing_of(node, self.keys).run == run.id}

    def _named(self, names: t.Collection[str], lock: Lock) -> dict[str, Node]:
        """The named nodes that are what they were; the others become errors."""
        marked = self._marked() if len(names) > 1 else {}
        found = {name: marked[name] for name in names if name in marked}
        found.update(read_named(self.cluster, [name for name in names if name not in found]))
        for name in names:
            if name not in found:
                self.written[name] = Written(False, None, None, unknown_node(self.cluster, name))
            elif self._replaced(found[name], lock):
                self.written[name] = Written(False, found[name], None, self._replacement(found.pop(name)))
        return dict(sorted(found.items()))

    def _replaced(self, node: Node, lock: Lock) -> bool:
        """A Node object that is younger than the run and has no state is not the one that was claimed."""
        born = node["metadata"].get("creationTimestamp", "")
        began = f"{lock.acquired:%Y-%m-%dT%H:%M:%SZ}" if lock.acquired else ""
        return bool(began) and born > began and not standing_of(node, self.keys).in_maintenance

    def _replacement(self, node: Node) -> ClusterError:
        name, born = node["metadata"]["name"], node["metadata"]["creationTimestamp"]
        return ClusterError(
            "conflict",
            f"Node {name} was replaced during this run: it was registered again at {born}, and its maintenance state "
            "is gone with the old object. Nothing was written to the new one. Look whether it should be in service.",
        )

    def _without_laggards(self, run: Run, nodes: t.Mapping[str, Node], to: str) -> dict[str, Node]:
        """The same nodes but those whose batch is not cordoned as a whole yet; these become errors."""
        standings = {name: standing_of(node, self.keys) for name, node in nodes.items()}
        batches = {name: each.batch for name, each in standings.items() if each.batch and each.state == CORDONED}
        if not batches or to == CORDONED:
            return dict(nodes)
        mates = {name: standing_of(node, self.keys) for name, node in self._of_run(run).items()}
        late = {each.batch: name for name, each in sorted(mates.items()) if each.state == CLAIMED}
        for name, batch in batches.items():
            if batch in late:
                message = f"Node {name} waits for its batch {batch}: {late[batch]} is not cordoned yet."
                self.written[name] = Written(False, nodes[name], None, ClusterError("refused", message))
        return {name: node for name, node in nodes.items() if batches.get(name) not in late}

    # --- Writing ---

    def _write(self, nodes: t.Mapping[str, Node], decide: Decide) -> None:
        """Each node's patch, or what it would do; results go to ``written``."""
        compute = functools.partial(_judged, decide)
        if self.rehearsal != COMPUTE:
            self.written.update(write_all(self.cluster, nodes, lambda name: compute, dry_run=bool(self.rehearsal)))
            return
        for name, node in nodes.items():
            try:
                patch = compute(node)
            except ClusterError as error:
                self.written[name] = Written(False, node, None, error)
            else:
                self.written[name] = Written(patch is not None, node, patched(node, patch))

    def _tell_failed(self) -> None:
        """Nodes that failed, now or before, are no success of a step that should have brought them forward."""
        for name, result in self.written.items():
            standing = standing_of(result.after, self.keys) if result.after else None
            if standing and standing.state == FAILED and standing.error and result.error is None:
                failure = standing.error
                message = f"Node {name} failed in {failure.state} ({failure.reason}): {failure.message}."
                self.written[name] = replace(result, error=ClusterError("refused", message))

    def _now(self, later_seconds: float = 0) -> str:
        moment = self.lock.now().timestamp() + later_seconds
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))

    # --- Waiting ---

    def _rebooting(self, nodes: t.Mapping[str, Node]) -> dict[str, Node]:
        return {name: node for name, node in nodes.items() if self._boot_obstacle(node)}

    def _boot_obstacle(self, node: Node) -> str:
        standing = standing_of(node, self.keys)
        return boot_obstacle(node, standing, is_ready(node)) if standing.state == REBOOTING else ""

    def _write_once_rebooted(self, run: Run, nodes: dict[str, Node], decide: Decide, wait_seconds: float) -> None:
        """Advance each node when its reboot is proven. The lock is renewed meanwhile."""
        deadline = self._clock() + wait_seconds
        try:
            while nodes and self._clock() < deadline:
                self._watch(nodes, decide, min(deadline - self._clock(), self.lock.terms.seconds / 3))
                self.lock.check(run.id, run.token)
            reason, why = "timeout", f"not within {wait_seconds:.0f} s (timeout_seconds)"
        except KeyboardInterrupt:
            reason, why = "interrupted", "the wait was interrupted; the same call goes on with it"
        for name, node in nodes.items():
            message = f"Node {name} {self._boot_obstacle(node)}; {why}. It stays {REBOOTING}."
            self.written[name] = Written(False, node, node, ClusterError(reason, message))

    def _watch(self, nodes: dict[str, Node], decide: Decide, seconds: float) -> None:
        """Follow the nodes for a while; those that are done with leave ``nodes``."""
        until = self._clock() + seconds
        for event in self.cluster.watch(NODES, {"labelSelector": self.keys.label}, seconds):
            node, name = event["object"], event["object"]["metadata"].get("name")
            if name in nodes and event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                if event["type"] == "DELETED" or node["metadata"]["uid"] != nodes[name]["metadata"]["uid"]:
                    self.written[name] = Written(False, nodes.pop(name), None, self._vanished(name))
                elif not self._boot_obstacle(node):
                    self._write({name: node}, decide)
                    del nodes[name]
                else:
                    nodes[name] = node
            if not nodes or self._clock() >= until:
                return

    def _vanished(self, name: str) -> ClusterError:
        return ClusterError(
            "conflict",
            f"Node {name} was removed or lost its maintenance state while it was {REBOOTING}. Look who did that; what "
            "is registered under this name now was not changed.",
        )


def _judged(decide: Decide, node: Node) -> Patch | None:
    """The patch, with a refusal as the error that ``write`` reports."""
    try:
        return decide(node)
    except Declined as refusal:
        raise ClusterError(refusal.reason, f"Node {node['metadata']['name']} {refusal}.") from refusal
