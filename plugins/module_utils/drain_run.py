# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a drain out: one list and one watch for each node, one request for each pod, and a fresh list as the proof.

Nothing is polled. Watches and answers of evictions arrive in one inbox; the one thread that reads it decides what is
sent next. Budgets are watched too once one of them stands in the way, so a pod is asked for again when its budget has
recovered and not before. Whatever ends a run, requests that are out are waited for, so that what was done is known.
"""

from __future__ import annotations

import collections
import queue
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Query,
)
from ansible_collections.onprem.gpu.plugins.module_utils.disruption_budgets import (
    LATER,
    NEVER,
    NOW,
    Budget,
    budget_of,
    permits,
    protecting,
    takes_one,
)
from ansible_collections.onprem.gpu.plugins.module_utils.drain_plan import (
    WAIT_JOB,
    WAIT_TERMINATING,
    Manner,
    Pod,
    Policy,
    deletion_time,
    eviction_order,
    judge,
    name_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.drain_read import (
    BUDGETS,
    PODS,
    Situation,
    learned,
    list_budgets,
    list_pods,
    slim,
)
from ansible_collections.onprem.gpu.plugins.module_utils.eviction import (
    ACCEPTED,
    BLOCKED,
    FATAL,
    GONE,
    IMPOSSIBLE,
    Outcome,
    evict,
)
from ansible_collections.onprem.gpu.plugins.module_utils.followed_pods import (
    BUDGET,
    RESPAWNING,
    RULE,
    Followed,
    progress,
)

WATCH_SECONDS = 290
TICK_SECONDS = 1.0
PROGRESS_SECONDS = 5.0
# After a refusal that contradicts what is known of the budget; else its watch tells when to ask again.
BLOCKED_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """How long and how often. ``timeout_seconds`` counts from the first eviction, ``wait_seconds`` before it."""

    timeout_seconds: float
    wait_seconds: float
    concurrency: int
    max_rounds: int


def rehearse(cluster: Cluster, followed: t.Collection[Followed], manner: Manner, concurrency: int) -> None:
    """Let the server judge each eviction (admission, rights, budgets) without evicting anything.

    Its answer corrects the prediction only where it is worse: it takes nothing off a budget, so it would let all pods
    of one go.
    """
    going = [each for each in followed if each.planned.goes]
    with ThreadPoolExecutor(concurrency) as pool:
        outcomes = list(pool.map(lambda each: evict(cluster, each.pod, manner, dry_run=True), going))
    for each, outcome in zip(going, outcomes):
        if outcome.error:
            raise outcome.error
        if outcome.meaning == IMPOSSIBLE:
            each.prediction, each.obstacle, each.message = NEVER, BUDGET, outcome.message
        elif outcome.meaning == BLOCKED and each.prediction == NOW:
            each.prediction, each.message = LATER, outcome.message


class Drain:
    """One run over some nodes. After ``run`` the pods tell what became of them, and ``error`` what ended it early."""

    def __init__(
        self,
        cluster: Cluster,
        situation: Situation,
        policy: Policy,
        manner: Manner,
        limits: Limits,
    ) -> None:
        self.manner, self.limits = manner, limits
        self.cluster, self._policy = cluster, policy
        self._known = situation.known
        self.budgets, self._budgets_version = situation.budgets, situation.budgets_version
        self._budgets_watched = False
        self._watched: set[str] = set()
        self._taken: collections.Counter[tuple[str, str]] = collections.Counter()
        self._busy: set[tuple[str, str]] = set()
        self._heard_of: set[tuple[str, str]] = set()  # since the latest request under that budget
        self._held: dict[tuple[str, str], float] = {}
        self._inbox: queue.Queue[tuple[t.Callable[..., None], tuple[t.Any, ...]]] = queue.Queue()
        self._over = False
        self._order: list[Followed] | None = None
        self._versions = {node: listing.version for node, listing in situation.listings.items()}
        self._unproven: set[str] = set()
        self._waited_until: float | None = None
        self._deadline: float | None = None
        self.error: ClusterError | None = None
        self.pods: dict[str, Followed] = {}
        for node, listing in situation.listings.items():
            for pod in listing.pods:
                self._take_up(node, pod, late=False)
        self._first_of_owner = collections.Counter((each.node, each.owner) for each in self.pods.values())
        self._asking_of_owner: collections.Counter[tuple[str, str]] = collections.Counter()
        self._accepted_of_owner: collections.Counter[tuple[str, str]] = collections.Counter()

    def run(self, written: t.Collection[str], tell: t.Callable[[str], None] = lambda line: None) -> None:
        """Until every node is proven empty of what should go, or time is over, or nothing more can be done.

        ``written`` are nodes that were cordoned after their list was made: theirs has to be made again even when it
        had nothing to evict. ``tell`` is called with a line about how far it is when that has changed, not too often.
        """
        self._unproven = {*written, *(each.node for each in self.pods.values() if each.open)}
        if not self._unproven:
            return
        pool = ThreadPoolExecutor(self.limits.concurrency)
        try:
            self._run(pool, tell)
        except ClusterError as error:
            self.error = error
        except KeyboardInterrupt:
            self.error = ClusterError(
                "interrupted", "Interrupted: nothing more is evicted, the nodes stay as they are."
            )
        finally:
            self._over = True
            pool.shutdown(wait=True)
            self._take_what_is_there()

    def _run(self, pool: ThreadPoolExecutor, tell: t.Callable[[str], None]) -> None:
        told, told_at = "", time.monotonic()
        while self._unproven and not self.error:
            self._watch_busy_nodes()
            self._send(pool)
            self._prove()
            if not self._unproven or self._out_of_time():
                break
            self._take_next()
            self._give_up_stuck()
            if time.monotonic() - told_at >= PROGRESS_SECONDS:
                line, told_at = progress(self.pods.values()), time.monotonic()
                if line not in ("", told):
                    tell(line)
                told = line
        if not self.error:
            for node in sorted(self._unproven):
                self._list_again(node)

    # --- hearing ---

    def _watch_busy_nodes(self) -> None:
        for node in sorted({each.node for each in self.pods.values() if each.open} - self._watched):
            self._watched.add(node)
            query = {"fieldSelector": f"spec.nodeName={node}", "resourceVersion": self._versions[node]}
            self._follow(PODS, query, self._on_pod_event, self._on_pod_watch_ended, node)

    def _watch_budgets(self) -> None:
        if not self._budgets_watched:
            self._budgets_watched = True
            query = {"resourceVersion": self._budgets_version}
            self._follow(BUDGETS, query, self._on_budget_event, self._on_budget_watch_ended)

    def _follow(
        self, path: str, query: Query, on_event: t.Callable[..., None], on_end: t.Callable[..., None], *node: str
    ) -> None:
        """One watch in a thread of its own, which ends with the process: a silent watch cannot be interrupted."""

        def listen() -> None:
            try:
                for event in self.cluster.watch(path, query, WATCH_SECONDS):
                    self._post(on_event, *node, event)
            except ClusterError as error:
                self._post(self._on_failure, error)
            else:
                self._post(on_end, *node)

        threading.Thread(target=listen, daemon=True).start()

    def _post(self, handler: t.Callable[..., None], *arguments: t.Any) -> None:
        self._inbox.put((handler, arguments))

    def _take_next(self) -> None:
        """Wait for something to happen, a second at most, and take all that has."""
        try:
            handler, arguments = self._inbox.get(timeout=TICK_SECONDS)
        except queue.Empty:
            return
        handler(*arguments)
        self._take_what_is_there()

    def _take_what_is_there(self) -> None:
        while True:
            try:
                handler, arguments = self._inbox.get_nowait()
            except queue.Empty:
                return
            handler(*arguments)

    def _on_failure(self, error: ClusterError) -> None:
        self.error = self.error or error

    def _on_pod_event(self, node: str, event: t.Mapping[str, t.Any]) -> None:
        if event["type"] == "DELETED":
            followed = self.pods.get(event["object"]["metadata"]["uid"])
            if followed:
                followed.gone = True
        elif event["type"] in ("ADDED", "MODIFIED") and not self._over:
            self._on_pod(node, slim(event["object"]))

    def _on_pod_watch_ended(self, node: str) -> None:
        self._watched.discard(node)
        if not self._over:
            self._list_again(node)

    def _list_again(self, node: str) -> None:
        """Only the thread that reads the inbox lists, so that what a list says is never older than what is known."""
        listing = list_pods(self.cluster, node)
        self._versions[node] = listing.version
        present = {pod["metadata"]["uid"] for pod in listing.pods}
        for followed in self.pods.values():
            if followed.node == node and followed.pod["metadata"]["uid"] not in present:
                followed.gone = True
        for pod in listing.pods:
            self._on_pod(node, pod)

    def _on_pod(self, node: str, pod: Pod) -> None:
        followed = self.pods.get(pod["metadata"]["uid"])
        if followed is None:
            followed = self._take_up(node, pod, late=True)
        elif followed.gone or (deletion_time(followed.pod) and not deletion_time(pod)):
            return  # older news than the list's
        else:
            followed.pod = pod
            followed.judgement = judge(pod, self._policy, self._known, time.time())
        self._order = None
        if followed.open:
            self._unproven.add(node)

    def _take_up(self, node: str, pod: Pod, late: bool) -> Followed:
        if late:
            self._known = learned(self.cluster, [pod], self._policy, self._known)
        judgement = judge(pod, self._policy, self._known, time.time())
        followed = Followed(pod, node, judgement, judgement, late)
        self.pods[pod["metadata"]["uid"]] = followed
        return followed

    def _on_budget_event(self, event: t.Mapping[str, t.Any]) -> None:
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return
        budget = budget_of(event["object"])
        key = (budget.namespace, budget.name)
        budgets = {**(self.budgets or {}), key: budget}
        if event["type"] == "DELETED":
            del budgets[key]
        self._on_budgets(budgets, [key])

    def _on_budget_watch_ended(self) -> None:
        self._budgets_watched = False
        if not self._over:
            budgets, self._budgets_version = list_budgets(self.cluster)
            self._on_budgets(budgets, list(budgets))

    def _on_budgets(self, budgets: dict[tuple[str, str], Budget], heard_of: t.Iterable[tuple[str, str]]) -> None:
        """The server's own numbers, even unchanged ones, replace what was reckoned since."""
        for key in heard_of:
            self._taken.pop(key, None)
            self._held.pop(key, None)
            self._heard_of.add(key)
        self.budgets = budgets
        self._order = None

    # --- asking ---

    def _send(self, pool: ThreadPoolExecutor) -> None:
        """Ask for as many pods as may be asked for at the same time."""
        if self._deadline is None:
            if self._waiting_for_jobs() or self.error:
                return
            self._deadline = time.monotonic() + self.limits.timeout_seconds
        free = self.limits.concurrency - sum(each.requested for each in self.pods.values())
        for followed in self._in_order():
            if free <= 0:
                return
            if followed.to_send and time.monotonic() >= followed.not_before and self._may_go(followed):
                followed.requested = True
                self._asking_of_owner[followed.node, followed.owner] += 1
                self._busy.update(followed.over)
                self._heard_of.difference_update(followed.over)
                pool.submit(self._request, followed)
                free -= 1

    def _request(self, followed: Followed) -> None:
        try:
            self._post(self._on_outcome, followed, evict(self.cluster, followed.pod, self.manner))
        except ClusterError as error:
            self._post(self._on_outcome, followed, Outcome(FATAL, str(error), error=error))

    def _in_order(self) -> list[Followed]:
        """Pods that are to be asked for, in the order of the plan."""
        if self._order is None:
            candidates = [each for each in self.pods.values() if each.to_send]
            if candidates and self.budgets is None:
                self.budgets, self._budgets_version = list_budgets(self.cluster)
            budgets = [] if self.manner.disable_eviction else list((self.budgets or {}).values())
            for each in candidates:
                each.over = tuple((one.namespace, one.name) for one in protecting(each.pod, budgets))
            pods = eviction_order([each.pod for each in candidates], budgets)
            self._order = [self.pods[pod["metadata"]["uid"]] for pod in pods]
        return self._order

    def _may_go(self, followed: Followed) -> bool:
        return self._rounds_let_go(followed) and self._budget_lets_go(followed)

    def _rounds_let_go(self, followed: Followed) -> bool:
        """Whether its owner may lose one more on this node; one that makes pods again and again is given up."""
        owner = (followed.node, followed.owner)
        enough = self.limits.max_rounds * max(1, self._first_of_owner[owner])
        if followed.late and self._accepted_of_owner[owner] >= enough:
            followed.obstacle = RESPAWNING
            followed.message = f"{followed.owner} makes pods for this node again and again"
        return not followed.late or self._accepted_of_owner[owner] + self._asking_of_owner[owner] < enough

    def _budget_lets_go(self, followed: Followed) -> bool:
        if len(followed.over) != 1:
            return True  # without a budget it goes; with two the server's own words are what has to be told
        [key] = followed.over
        if key in self._busy:
            return False
        budget = (self.budgets or {})[key]
        if key in self._held:
            lets_go = time.monotonic() >= self._held[key]
        else:
            lets_go = permits(budget, followed.pod, self._taken[key])
        if not lets_go:
            followed.blocked, followed.message = True, f"blocked by budget {budget.text}"
            self._watch_budgets()
        return lets_go

    def _on_outcome(self, followed: Followed, outcome: Outcome) -> None:
        followed.requested = False
        self._busy.difference_update(followed.over)
        self._asking_of_owner[followed.node, followed.owner] -= 1
        if outcome.meaning == ACCEPTED:
            self._on_accepted(followed)
        elif outcome.meaning == GONE:
            followed.gone = True
        elif outcome.meaning == BLOCKED:
            self._on_blocked(followed, outcome)
        elif outcome.meaning == IMPOSSIBLE:
            followed.obstacle, followed.message, followed.blocked = BUDGET, outcome.message, True
        elif outcome.meaning == FATAL:
            followed.message = outcome.message
            self._on_failure(t.cast(ClusterError, outcome.error))
        else:
            followed.message = outcome.message
            self._pause(followed, outcome.retry_after)

    def _on_accepted(self, followed: Followed) -> None:
        followed.accepted, followed.blocked, followed.message = True, False, ""
        self._accepted_of_owner[followed.node, followed.owner] += 1
        for key in followed.over:
            budget = (self.budgets or {}).get(key)
            self._held.pop(key, None)
            if budget and takes_one(budget, followed.pod) and key not in self._heard_of:
                self._taken[key] += 1

    def _on_blocked(self, followed: Followed, outcome: Outcome) -> None:
        self._order = None
        followed.blocked, followed.message = True, outcome.message
        self._watch_budgets()
        for key in followed.over:
            pause = FIRST_PAUSE_SECONDS if key in self._heard_of else BLOCKED_SECONDS
            self._held[key] = time.monotonic() + (outcome.retry_after or pause)
        if not followed.over:  # a budget that came after the list
            self._pause(followed, outcome.retry_after)

    def _pause(self, followed: Followed, seconds: float | None) -> None:
        self._order = None
        followed.tries += 1
        pause = min(BLOCKED_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (followed.tries - 1))
        followed.not_before = time.monotonic() + (seconds or pause)

    # --- ending ---

    def _waiting_for_jobs(self) -> bool:
        """Whether a pod is left that its rule says to wait for. When the time for that is over the rules change."""
        if self._waited_until is None:
            self._waited_until = time.monotonic() + self.limits.wait_seconds
        over = not self._jobs() or time.monotonic() >= self._waited_until
        if over:
            self._end_the_wait()
        return not over or bool(self._jobs())

    def _jobs(self) -> list[Followed]:
        return [each for each in self.pods.values() if each.open and each.judgement.verdict == WAIT_JOB]

    def _end_the_wait(self) -> None:
        unyielding = [each for each in self._jobs() if "never" in each.judgement.reasons]
        for each in unyielding:
            each.obstacle, each.message = RULE, "still runs, and its rule says that it is never evicted"
        if unyielding:
            names = ", ".join(sorted(name_of(each.pod) for each in unyielding))
            self.error = ClusterError(
                "timeout",
                f"Pods that must not be evicted still run after {self.limits.wait_seconds:.0f} s "
                f"(wait_timeout_seconds): {names}. Nothing was evicted.",
            )
            return
        self._policy = self._policy.when_waited_enough()
        for each in list(self.pods.values()):
            self._on_pod(each.node, each.pod)

    def _prove(self) -> None:
        """Make a fresh list of each node that nothing is left to do on; what it shows counts."""
        busy = {each.node for each in self.pods.values() if each.open}
        for node in sorted(self._unproven - busy):
            self._unproven.discard(node)
            self._list_again(node)

    def _give_up_stuck(self) -> None:
        """Pods that were being deleted for longer than the caller wants to wait are not waited for any more."""
        for each in self.pods.values():
            if each.open and each.judgement.verdict == WAIT_TERMINATING:
                each.judgement = judge(each.pod, self._policy, self._known, time.time())

    def _out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline
