# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of MIG partitioning: read the GPUs, plan, carry the plan out, put back what was there when that fails.

    converge(library, wish, check_mode) -> dict     what the module mig returns

What NVML answers is never taken for granted: after the last operation the GPUs are read again and compared with the
plan, and after a rollback with what was there before. A monitor may hold an instance for a moment, so "in use" is asked
again a few times before it counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.onprem.gpu.plugins.module_utils import mig_layout
from ansible_collections.onprem.gpu.plugins.module_utils.gpu_users import pods_and_others
from ansible_collections.onprem.gpu.plugins.module_utils.mig_config import ConfigError, select
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    Gpu,
    GpuInstance,
    HostPlan,
    LayoutError,
    Operation,
    Placement,
    Plan,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_picture import bars
from ansible_collections.onprem.gpu.plugins.module_utils.mig_wish import Wish
from ansible_collections.onprem.gpu.plugins.module_utils.nvml import (
    IN_USE,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESET_REQUIRED,
)

LOCK = "/run/onprem-gpu-mig.lock"
LOCK_POLL_SECONDS = 0.2
PAUSES_SECONDS = (0.5, 1.0, 2.0)  # between attempts at what is in use
# Activation statuses of platforms that hide the reset of a GPU from its machine (pass-through).
WAITS_FOR_REBOOT = (NOT_SUPPORTED, RESET_REQUIRED)

Result = dict[str, t.Any]


class Library(t.Protocol):
    """What mig_nvml.MigLibrary does; `errors` are the classes its calls raise, with NVML's code as `value`."""

    errors: tuple[type[Exception], ...]

    def gpus(self) -> list[Gpu]: ...

    def gpu(self, uuid: str) -> Gpu: ...

    def holders(self, uuid: str) -> list[str]: ...

    def reset(self, pci_address: str) -> str: ...

    def set_mode(self, uuid: str, enabled: bool) -> int: ...

    def create_gpu_instance(self, uuid: str, profile_id: int, placement: Placement) -> int: ...

    def destroy_gpu_instance(self, uuid: str, instance_id: int) -> None: ...

    def create_compute_instance(
        self, uuid: str, instance_id: int, slices: int, fills: bool, profile_id: int | None = None
    ) -> int: ...

    def destroy_compute_instance(self, uuid: str, instance_id: int, compute_instance_id: int) -> None: ...


class MigRunError(Exception):
    """A run that did not reach its plan; `reason` for programs, the text for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Pending:
    """A GPU whose mode did not become active; `status` is NVML's activation status."""

    gpu: Gpu
    status: int

    @property
    def needs_reboot(self) -> bool:
        return self.status in WAITS_FOR_REBOOT


# --- the whole of it --------------------------------------------------------------------------------------------------


def converge(library: Library, wish: Wish, check_mode: bool) -> Result:
    """Bring the host's GPUs where they are wanted; the result is that of the module mig, `failed` included.

    Never raises for what the GPUs or the driver do.
    """
    try:
        before = read_gpus(library)
    except MigRunError as error:
        return failure(error.reason, str(error))
    result = _converged(library, wish, before, check_mode)
    result["before"] = [described(gpu) for gpu in before]
    if "after" in result:
        result["changed"] = _states(result["after"]) != _states(result["before"])
    return result


def read_gpus(library: Library) -> list[Gpu]:
    """Every GPU of the host; raises MigRunError."""
    try:
        return library.gpus()
    except library.errors as error:
        text = f"The GPUs cannot be read, so nothing was changed. NVML: {error}"
        raise MigRunError(reason_of(error), text) from error


def _states(gpus: t.Sequence[Result]) -> list[Result]:
    """Without pictures, which show who computes at the moment."""
    return [{key: value for key, value in gpu.items() if key != "picture"} for gpu in gpus]


def _converged(library: Library, wish: Wish, gpus: list[Gpu], check_mode: bool) -> Result:
    try:
        selection = select(wish.document, wish.selected, gpus)
    except ConfigError as error:
        return failure("invalid", str(error))
    plan = mig_layout.plan_host(gpus, selection.wanteds)
    if plan.refusals:
        return _refused(plan)
    told: Result = {
        "changed": plan.changed,
        "reset_required": False,
        "reboot_required": False,
        "plan": [line for each in plan.plans for line in mig_layout.lines(each)],
        "gpus": [{**mig_layout.result(each), "picture": bars(mig_layout.foreseen(each))} for each in plan.plans],
        "notes": [*selection.notes, *(note for each in plan.plans for note in each.notes)],
    }
    if check_mode or not plan.changed:
        return told
    return {**told, **_carried_out(library, plan, wish)}


def _carried_out(library: Library, plan: HostPlan, wish: Wish) -> Result:
    executor = Executor(library)
    try:
        executor.carry_out(plan)
        outcome = _after_pending(library, wish, executor.pending)
    except MigRunError as error:
        outcome = failure(error.reason, str(error))
    outcome["changed"] = bool(executor.done)  # corrected by what is there, unless a GPU is lost now
    with contextlib.suppress(*library.errors):
        outcome["after"] = [described(gpu) for gpu in library.gpus()]
    return outcome


def _after_pending(library: Library, wish: Wish, pending: t.Sequence[Pending]) -> Result:
    """Reset what waits for it, if that is allowed and nobody is there, and go on; else say what to do."""
    if not pending:
        return {}
    messages = [_waiting(library, each, wish.reset) for each in pending]
    if any(messages):
        reboot = any(each.needs_reboot for each in pending)
        waiting = failure("reset_required", " ".join(filter(None, messages)))
        return {**waiting, "reset_required": not reboot, "reboot_required": reboot}
    once_more = _converged(library, replace(wish, reset=False), library.gpus(), check_mode=False)
    return {key: once_more[key] for key in ("failed", "msg", "reason", "blockers") if key in once_more}


def _waiting(library: Library, pending: Pending, may_reset: bool) -> str:
    """What keeps the mode of a GPU from being active; "" when a reset has made it so."""
    gpu = pending.gpu
    name, mode = mig_layout.named(gpu), "enabled" if gpu.mode.pending else "disabled"
    if pending.needs_reboot:
        return f"{name}: MIG will be {mode} when the machine is rebooted; its platform does not let it reset GPUs."
    holders = library.holders(gpu.uuid)
    if holders:
        return (
            f"{name}: MIG stays pending (to be {mode}), because the GPU is held by {', '.join(holders)}. "
            "Stop them and run again."
        )
    if not may_reset:
        return f"{name}: MIG stays pending (to be {mode}). Run again, or allow a reset of this GPU with reset: true."
    problem = library.reset(gpu.pci_address)
    return f"{name}: MIG stays pending (to be {mode}), and the reset failed: {problem}." if problem else ""


def _refused(plan: HostPlan) -> Result:
    errors = [mig_layout.error_result(refusal.error) for refusal in plan.refusals]
    blockers = [
        _with_pods(refusal.gpu, found) for refusal, error in zip(plan.refusals, errors) for found in error["blockers"]
    ]
    # in_use invites to free what is in the way, which is in vain while another GPU cannot have its layout at all
    reasons = sorted((error["reason"] for error in errors), key=lambda reason: reason == mig_layout.IN_USE)
    return failure(reasons[0], f"Nothing was changed. {plan.message}", blockers)


def _with_pods(gpu: Gpu, blocker: Result) -> Result:
    pods, others = pods_and_others(blocker["users"])
    return {"gpu": gpu.index, **blocker, "pods": pods, "others": others}


def failure(reason: str, message: str, blockers: t.Sequence[t.Any] = ()) -> Result:
    return {
        "failed": True,
        "changed": False,
        "reason": reason,
        "msg": message,
        "blockers": list(blockers),
        "reset_required": False,
        "reboot_required": False,
    }


def reason_of(error: Exception) -> str:
    return "no_permission" if getattr(error, "value", None) == NO_PERMISSION else "driver"


def described(gpu: Gpu) -> dict[str, t.Any]:
    """A GPU as results show it."""
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "pci_address": gpu.pci_address,
        "model": gpu.model,
        "mig_capable": gpu.mig_capable,
        "mode": {"current": int(gpu.mode.current), "pending": int(gpu.mode.pending)},
        "picture": bars(gpu),
        "instances": [
            {
                "profile": gpu.profile_name(each.profile_id),
                "start": each.placement.start,
                "size": each.placement.size,
                "gi_id": each.id,
                "compute_instances": [
                    {"ci_id": compute.id, "slices": compute.slices, "uuid": compute.uuid}
                    for compute in each.compute_instances
                ],
            }
            for each in gpu.instances
        ],
    }


def pictures(gpus: t.Iterable[Result]) -> list[str]:
    """The lines that draw GPUs as results show them."""
    return [line for gpu in gpus for line in gpu["picture"]]


def final_pictures(result: Result) -> list[str]:
    """The same of all GPUs at the end of a run, in check mode as they are going to be; [] when none could be read."""
    planned = {gpu["uuid"]: gpu for gpu in result.get("gpus", [])}
    foreseen = [planned.get(gpu["uuid"], gpu) for gpu in result.get("before", [])]
    return pictures(result.get("after", foreseen))


# --- one at a time ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def only_run(timeout_seconds: float, path: str = LOCK) -> t.Iterator[None]:
    """Keep other runs on this host away; raises MigRunError when one is still going after the time."""
    deadline = time.monotonic() + timeout_seconds
    with open(path, "a", encoding="ascii") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if time.monotonic() >= deadline:
                text = f"Another run partitions the GPUs of this host and did not end within {timeout_seconds:g} s"
                raise MigRunError("locked", f"{text}. Nothing was changed by this one; run again later.")
            time.sleep(LOCK_POLL_SECONDS)
        yield


class Executor:
    """Carries out the plans of one host, one operation after the other, and remembers what it did."""

    def __init__(self, library: Library) -> None:
        self._library, self._errors = library, library.errors
        self._failures: tuple[type[Exception], ...] = (*library.errors, LayoutError)
        self._status = 0
        self._doing = ""
        self.done: list[tuple[Gpu, Operation]] = []
        self.pending: list[Pending] = []

    def carry_out(self, plan: HostPlan) -> None:
        """Raises MigRunError; by then it has put back what it could."""
        try:
            for each in plan.plans:
                self._carry_out(each)
            self._doing = "A look at what was made"
            for each in plan.plans:
                if not any(pending.gpu.uuid == each.gpu.uuid for pending in self.pending):
                    self._check(each)
        except self._failures as error:
            self._put_back(error)

    def _carry_out(self, plan: Plan) -> None:
        ids: dict[int, int] = {}
        for operation in plan.operations:
            self._doing = f"To {mig_layout.line(operation)} on {mig_layout.named(plan.gpu)}"
            done = self._patiently(plan.gpu.uuid, operation, ids)
            self.done.append((plan.gpu, done))
            if operation.op == mig_layout.SET_MODE and self._is_pending(plan, done):
                return

    def _is_pending(self, plan: Plan, operation: Operation) -> bool:
        """Whether the mode waits for something; then no instance of this GPU is touched."""
        now = self._library.gpu(plan.gpu.uuid)
        if now.mode.current == operation.enabled:
            return False
        self.pending.append(Pending(now, self._status))
        return True

    def _patiently(self, uuid: str, operation: Operation, ids: dict[int, int]) -> Operation:
        for pause in PAUSES_SECONDS:
            try:
                return self._call(uuid, operation, ids)
            except self._errors as error:
                if not is_in_use(error):
                    raise
                time.sleep(pause)
        return self._call(uuid, operation, ids)

    def _call(self, uuid: str, operation: Operation, ids: dict[int, int]) -> Operation:
        """Return the operation with the ids it got; `ids` has those of new GPU instances by start."""
        library, start = self._library, operation.start or 0
        gi_id = ids.get(start, -1) if operation.gi_id is None else operation.gi_id
        if operation.op == mig_layout.SET_MODE:
            self._status = library.set_mode(uuid, bool(operation.enabled))
            return operation
        if operation.op == mig_layout.CREATE_GPU_INSTANCE:
            place = Placement(start, operation.size or 1)
            ids[start] = library.create_gpu_instance(uuid, operation.profile_id or 0, place)
            return replace(operation, gi_id=ids[start])
        if operation.op == mig_layout.DESTROY_GPU_INSTANCE:
            library.destroy_gpu_instance(uuid, gi_id)
            return replace(operation, gi_id=gi_id)
        if operation.op == mig_layout.CREATE_COMPUTE_INSTANCE:
            ci_id = library.create_compute_instance(
                uuid, gi_id, operation.slices or 1, _fills(operation), operation.compute_profile_id
            )
            return replace(operation, gi_id=gi_id, ci_id=ci_id)
        library.destroy_compute_instance(uuid, gi_id, operation.ci_id if operation.ci_id is not None else -1)
        return replace(operation, gi_id=gi_id)

    # --- when it cannot be finished ---

    def _check(self, plan: Plan) -> None:
        """The GPU must be as the plan says; a driver that says yes and does something else is a failure like others."""
        now = mig_layout.plan(self._library.gpu(plan.gpu.uuid), plan.wanted)
        if now.changed:
            rest = "; ".join(mig_layout.lines(now))
            raise LayoutError("driver", f"NVML reported success, and this is still to be done: {rest}")

    def _put_back(self, cause: Exception) -> t.NoReturn:
        hint = " A monitor may hold it without being listed: stop DCGM and its exporter." if is_in_use(cause) else ""
        told = f"{self._doing} failed: {cause}.{hint}"
        before = {gpu.uuid: gpu for gpu, _operation in self.done}
        failures = [text for gpu in reversed(list(before.values())) for text in self._undone(gpu)]
        remains = [text for gpu in before.values() for text in self._differences(gpu)]
        if remains:
            why = f" ({'; '.join(failures)})" if failures else ""
            text = f"Putting back what was there did not succeed{why}. What is there now: {'; '.join(remains)}."
            raise MigRunError("rollback_failed", f"{told} {text}") from cause
        renewed = any(operation.op == mig_layout.DESTROY_COMPUTE_INSTANCE for _gpu, operation in self.done)
        note = " Compute instances that had to be made again have new UUIDs." if renewed else ""
        raise MigRunError("rolled_back", f"{told} The GPUs are as they were before.{note}") from cause

    def _undone(self, before: Gpu) -> list[str]:
        """Undo what was done to one GPU; return what went wrong."""
        operations = [operation for gpu, operation in self.done if gpu.uuid == before.uuid]
        ids: dict[int, int] = {}
        try:
            for operation in mig_layout.inverse(operations, before):
                self._patiently(before.uuid, operation, ids)
        except self._errors as error:
            return [f"{mig_layout.named(before)}: {error}"]
        return []

    def _differences(self, before: Gpu) -> list[str]:
        """What is on a GPU that was other before; [] when it is as it was, new ids and UUIDs aside."""
        try:
            now = self._library.gpu(before.uuid)
        except self._errors as error:
            return [f"{mig_layout.named(before)} does not answer any more: {error}"]
        if now.mode == before.mode and shapes(now) == shapes(before):
            return []
        mode = "on" if now.mode.current else "off"
        return [f"{mig_layout.named(now)}: MIG {mode}, {told_instances(now)}"]


def is_in_use(error: Exception) -> bool:
    return getattr(error, "value", None) == IN_USE


def _fills(operation: Operation) -> bool:
    """A compute instance with all slices of its GPU instance, whose name starts with them: 3g.40gb."""
    return str(operation.profile).startswith(f"{operation.slices}g.")


def shapes(gpu: Gpu) -> set[tuple[int, int, tuple[int, ...]]]:
    """The instances of a GPU without their ids: (profile, start, slices of the compute instances)."""
    return {(each.profile_id, each.placement.start, _slices(each)) for each in gpu.instances}


def told_instances(gpu: Gpu) -> str:
    """All instances as profile@start; one without a compute instance, or with several, says so."""
    return ", ".join(_told(gpu, each) for each in gpu.instances) or "no instances"


def _told(gpu: Gpu, instance: GpuInstance) -> str:
    name, slices = gpu.profile_name(instance.profile_id), _slices(instance)
    compute = f" ({'+'.join(f'{each}c' for each in slices) or 'without a compute instance'})"
    return (
        f"{name}@{instance.placement.start}{'' if len(slices) == 1 and name.startswith(f'{slices[0]}g.') else compute}"
    )


def _slices(instance: GpuInstance) -> tuple[int, ...]:
    return tuple(sorted(each.slices for each in instance.compute_instances))
