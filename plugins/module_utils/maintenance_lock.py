# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a maintenance run: the requests for its Lease.

Each write carries the version it was decided on. A conflict means: read again, decide again; and a write whose outcome
is unknown is settled by looking.
"""

from __future__ import annotations

import datetime
import email.utils
import random
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Answer, Cluster, ClusterError, OutcomeUnknown
from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lease import (
    EXPIRED,
    FREE,
    MINE,
    Lock,
    announcing,
    arrived,
    due,
    judge,
    lease_of,
    lock_of,
    released,
    renewed,
    taken,
)

LEASES = "/apis/coordination.k8s.io/v1/namespaces"
ATTEMPTS = 10
LOOK_SECONDS = 2

# The lock as it should be next, from the lock as it is (None: there is no Lease) and the time; None = leave it.
Decide = t.Callable[[t.Optional[Lock], datetime.datetime], t.Optional[Lock]]


class Raced(Exception):
    """Somebody else wrote the Lease in between."""


@dataclass(frozen=True)
class Terms:
    """Which lock, for whom and for how long."""

    pool: str
    namespace: str
    prefix: str
    seconds: int

    @property
    def name(self) -> str:
        return f"onprem-gpu-maint-{self.pool}"

    @property
    def path(self) -> str:
        return f"{LEASES}/{self.namespace}/leases"


@dataclass(frozen=True)
class Taking:
    """Who wants the lock. ``seen`` are nodes that the run is known to have; see ``taken``."""

    run: str
    owner: str
    first_token: int = 0
    seen: t.Collection[str] = ()
    break_lock: bool = False
    wait_seconds: float = 0


class RunLock:
    """The lock of one pool. ``written`` tells whether a request of ours has changed the Lease."""

    def __init__(
        self,
        cluster: Cluster,
        terms: Terms,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.cluster, self.terms = cluster, terms
        self._clock, self._sleep = clock, sleep
        self._server_time = (datetime.datetime.fromtimestamp(0, datetime.timezone.utc), clock())
        self.written = False

    def now(self) -> datetime.datetime:
        """The API server's time, by the Date of its last answer about the Lease and what has passed since."""
        date, at = self._server_time
        return date + datetime.timedelta(seconds=self._clock() - at)

    def read(self) -> Lock | None:
        """The lock as it is; None when there is no Lease."""
        answer = self.cluster.get(f"{self.terms.path}/{self.terms.name}")
        self._note_time(answer)
        if answer.status == 404:
            return None
        return lock_of(self.cluster.demand(answer, f"get lease {self.label}"), self.terms.prefix)

    def take(self, taking: Taking) -> tuple[Lock, Lock | None]:
        """The lock in our hands, and what it was before. Raises ClusterError with reason lock_held."""
        deadline = self._clock() + taking.wait_seconds
        while True:
            try:
                return self._take(taking)
            except ClusterError as error:
                if error.reason != "lock_held" or self._clock() + LOOK_SECONDS > deadline:
                    raise
            self._sleep(LOOK_SECONDS)

    def _take(self, taking: Taking) -> tuple[Lock, Lock | None]:
        before: list[Lock | None] = []

        def decide(lock: Lock | None, now: datetime.datetime) -> Lock | None:
            before.append(lock)
            return self.foreseen(lock, taking, now)

        lock = self._change(decide)
        return lock, before[0]

    def foreseen(self, lock: Lock | None, taking: Taking, now: datetime.datetime) -> Lock:
        """The lock as it is when we have it. Raises ClusterError when somebody else does."""
        self.refuse_held(lock, taking.run, now, taking.break_lock)
        holder = f"{taking.run}/{taking.owner}"
        return taken(lock, holder, self.terms.seconds, now, first_token=taking.first_token, seen=taking.seen)

    def refuse_held(self, lock: Lock | None, run: str, now: datetime.datetime, break_lock: bool = False) -> None:
        """Raises ClusterError when the lock is somebody else's."""
        if lock is None or judge(lock, run, now) in (MINE, FREE, EXPIRED) or break_lock:
            return
        if lock.ends is None or lock.renewed is None:
            raise ClusterError(
                "lock_held",
                f"{self._held_by(lock)}, and says neither when it was renewed nor for how long it is held. Somebody "
                "has changed it by hand; set break_lock to true once it is certain that nobody works on these nodes.",
            )
        raise ClusterError(
            "lock_held",
            f"{self._held_by(lock)}, renewed {_seconds(now - lock.renewed)} s ago; it expires in "
            f"{_seconds(lock.ends - now)} s unless it is renewed. Wait until that run ends (lock_timeout_seconds), or, "
            f"when it is certain that its process is dead, go on with it by run={lock.run}, or set break_lock to true "
            "and adopt its nodes.",
        )

    def check(self, run: str, token: int, renew: bool = False) -> Lock:
        """The lock, which is ours still and renewed when it was time or ``renew`` asks for it.

        Raises ClusterError with reason lock_held when it is not: then nothing more must be done.
        """

        def decide(lock: Lock | None, now: datetime.datetime) -> Lock | None:
            own = self.demand_own(lock, run, token)
            wanted = renew or due(own, self.terms.seconds, now)
            return renewed(own, self.terms.seconds, now) if wanted else None

        return self._change(decide)

    def demand_own(self, lock: Lock | None, run: str, token: int) -> Lock:
        """The same lock. Raises ClusterError when it is not the run's, or was taken up again since."""
        if lock is None:
            raise ClusterError(
                "lock_held", f"Lease {self.label}, the lock of run {run}, is gone. Start the run again to take it."
            )
        if lock.run != run:
            held = self._held_by(lock) if lock.holder else f"Lock {self.label} was released"
            raise ClusterError(
                "lock_held", f"{held}; run {run} no longer has it and must not go on. Its nodes keep their states."
            )
        if lock.transitions != token:
            raise ClusterError(
                "lock_held",
                f"Run {run} was taken up by another process ({lock.owner}; token {lock.transitions}, ours is {token}), "
                "so this one must not go on.",
            )
        return lock

    def announce(self, lock: Lock, nodes: t.Collection[str], seen: t.Container[str]) -> Lock:
        """Say which nodes are about to be claimed. Raises Raced when the lock was written since it was read."""
        return self._put(announcing(lock, self.terms.seconds, self.now(), nodes, seen))

    def arrive(self, run: str, token: int, nodes: t.Collection[str]) -> Lock:
        """Take announced nodes back off the lock."""

        def decide(lock: Lock | None, now: datetime.datetime) -> Lock | None:
            return arrived(self.demand_own(lock, run, token), self.terms.seconds, now, nodes)

        return self._change(decide)

    def release(self, run: str, token: int) -> bool:
        """Leave the lock to others; whether it was ours. Where it is not there is nothing to do."""
        held = False

        def decide(lock: Lock | None, now: datetime.datetime) -> Lock | None:
            nonlocal held
            own = lock is not None and lock.run == run and lock.transitions == token
            held = held or own
            return released(lock, now) if lock is not None and own else None

        self._change(decide)
        return held

    # --- Writing ---

    def _change(self, decide: Decide) -> Lock:
        """Write what ``decide`` wants of the lock as it is; as often as others write in between."""
        sent: Lock | None = None
        for attempt in range(ATTEMPTS):
            lock = self.read()
            if lock is not None and lock == sent:
                self.written = True
                return lock
            wanted = decide(lock, self.now())
            if wanted is None:
                return lock or Lock()
            try:
                return self._put(wanted)
            except Raced:
                sent = None
            except OutcomeUnknown:
                sent = wanted
            self._sleep(0.05 * 2**attempt * random.uniform(0.5, 1.5))
        raise ClusterError(
            "conflict",
            f"Could not write lease {self.label} in {ATTEMPTS} tries: others wrote it each time. Run again.",
        )

    def _put(self, lock: Lock) -> Lock:
        body = lease_of(lock, self.terms.name, self.terms.namespace, self.terms.prefix)
        exists = "resourceVersion" in body["metadata"]
        method, path = ("PUT", f"{self.terms.path}/{self.terms.name}") if exists else ("POST", self.terms.path)
        answer = self.cluster.request(method, path, {"fieldManager": "onprem.gpu"}, body)
        if answer.status == 409:
            raise Raced
        what = f"{'update' if exists else 'create'} lease {self.label}"
        stored = lock_of(self.cluster.demand(answer, what), self.terms.prefix)
        self.written = True
        return stored

    def _note_time(self, answer: Answer) -> None:
        """Raises ClusterError when the answer has no Date: nothing can be said about expiry then."""
        try:
            date = email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
        except (TypeError, ValueError) as error:
            raise ClusterError(
                "refused",
                f"The answer of {self.cluster.where} has no Date, so it cannot be told whether a lock has expired. "
                "Reach the API server without the proxy that removes it.",
            ) from error
        self._server_time = (date, self._clock())

    @property
    def label(self) -> str:
        return f"{self.terms.namespace}/{self.terms.name}"

    def _held_by(self, lock: Lock) -> str:
        return f"Lock {self.label} is held by run {lock.run} ({lock.owner or 'owner unknown'})"


def _seconds(span: datetime.timedelta) -> str:
    return f"{span.total_seconds():.0f}"
