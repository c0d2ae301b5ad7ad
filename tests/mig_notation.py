# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs and plans in a short notation, and a GPU that carries plans out and refuses what a driver would refuse.

    make_gpu("A100-40GB", "3g@4* 1g@0..2 3g[1,-,1]@0")    * is in use; [] has the compute instances, - is a gap
    make_wanted_on(gpu, "3g 2g*2 3g[2,1]")                *2 is a count; [] has the slices of the compute instances
    short(plan)                                           D 1g@0, C 2g@0, M+, M-; d and c 1c in 3g@0 where 3g is kept

1g is the first profile of one slice that has no attribute; 1g+me and 1g.10gb are others.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable
from dataclasses import replace

from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    Mode,
    Operation,
    Placement,
    Plan,
    Profile,
    Wanted,
    WantedInstance,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_models import gpu_without_hardware

INSTANCE = re.compile(r"(?P<name>[^@\[*]+)(\[(?P<parts>[^\]]*)\])?@(?P<first>\d+)(\.\.(?P<last>\d+))?(?P<busy>\*)?")
WISH = re.compile(r"(?P<name>[^@\[*]+)(\[(?P<parts>[^\]]*)\])?(@(?P<start>\d+))?(\*(?P<count>\d+))?")
USER = "python (pid 4711)"
FIRST_ID = 7


def make_gpu(model: str, text: str = "", *, on: bool = True, **fields: t.Any) -> Gpu:
    gpu = gpu_without_hardware(model, fields.pop("index", 0), enabled=on)
    instances = tuple(instance for word in text.split() for instance in _instances(gpu, word))
    return replace(gpu, **{"instances": instances, **fields})


def make_wanted_on(gpu: Gpu, text: str) -> Wanted:
    matches = [t.cast("re.Match[str]", WISH.fullmatch(word)) for word in text.split()]
    return Wanted(
        True,
        tuple(
            WantedInstance(
                profile_named(gpu, match["name"]).name,
                _numbers(match["parts"]),
                int(match["start"]) if match["start"] else None,
            )
            for match in matches
            for _ in range(int(match["count"] or 1))
        ),
    )


def profile_named(gpu: Gpu, short_name: str) -> Profile:
    exact = [profile for profile in gpu.profiles if profile.name == short_name]
    alike = [profile for profile in gpu.profiles if re.sub(r"\.\d+gb", "", profile.name) == short_name]
    return (exact or alike)[0]


def short(plan: Plan) -> list[str]:
    """The operations, with the compute instances of what is created or destroyed left out."""
    whole = {operation.start: operation.op for operation in plan.operations if operation.op.endswith("gpu_instance")}
    words = []
    for operation in plan.operations:
        place = f"{_short_name(plan.gpu, operation.profile or '')}@{operation.start}"
        if operation.op == "set_mode":
            words.append("M+" if operation.enabled else "M-")
        elif operation.op.endswith("gpu_instance"):
            words.append(f"{operation.op[0].upper()} {place}")
        elif operation.start not in whole:
            words.append(f"{operation.op[0]} {operation.slices}c in {place}")
    return words


def _short_name(gpu: Gpu, name: str) -> str:
    short_name = re.sub(r"\.\d+gb", "", name)
    return short_name if short_name and profile_named(gpu, short_name).name == name else name


class Refused(AssertionError):
    """A call that a driver would refuse."""


def carried_out(gpu: Gpu, operations: Iterable[Operation]) -> Gpu:
    """The GPU after these operations, each checked as the driver would."""
    for operation in operations:
        gpu = STEPS[operation.op](gpu, operation)
    return gpu


def layout(gpu: Gpu) -> list[tuple[str, int, tuple[int, ...]]]:
    """What stands on a GPU: name, start and slices of the compute instances."""
    return sorted(
        (
            gpu.profile_name(each.profile_id),
            each.placement.start,
            tuple(sorted(part.slices for part in each.compute_instances)),
        )
        for each in gpu.instances
    )


def _instances(gpu: Gpu, word: str) -> list[GpuInstance]:
    match = INSTANCE.fullmatch(word)
    assert match, word
    profile = profile_named(gpu, match["name"])
    size = profile.placements[0].size
    starts = range(int(match["first"]), int(match["last"] or match["first"]) + 1)
    users = (USER,) if match["busy"] else ()
    return [
        GpuInstance(
            FIRST_ID + start,
            profile.id,
            Placement(start, size),
            _compute_instances(profile, match["parts"], users, start),
            users if match["parts"] == "" else (),
        )
        for start in starts
    ]


def _compute_instances(
    profile: Profile, parts: str | None, users: tuple[str, ...], start: int
) -> tuple[ComputeInstance, ...]:
    """parts: slices in a row, "2,-,1*": - is a free slice, * is in use; users: of every one."""
    texts = [str(profile.slices)] if parts is None else [part for part in parts.split(",") if part]
    instances: list[ComputeInstance] = []
    position = 0
    for text in texts:
        if text == "-":
            position += 1
            continue
        slices = int(text.rstrip("*"))
        own = users or ((USER,) if text.endswith("*") else ())
        uuid = f"MIG-{start}-{position}"
        instances.append(ComputeInstance(len(instances), slices, position, slices, own, uuid))
        position += slices
    return tuple(instances)


def _numbers(parts: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (parts or "").split(",") if part)


# --- a driver ---------------------------------------------------------------------------------------------------------


def _set_mode(gpu: Gpu, operation: Operation) -> Gpu:
    if gpu.instances and not operation.enabled:
        raise Refused("mode off with instances")
    return replace(gpu, mode=Mode(bool(operation.enabled), bool(operation.enabled)))


def _create_gpu_instance(gpu: Gpu, operation: Operation) -> Gpu:
    profile = gpu.profile(t.cast(int, operation.profile_id))
    assert profile and operation.start is not None and operation.size is not None
    placement = Placement(operation.start, operation.size)
    if not gpu.mode.current or placement not in profile.placements:
        raise Refused(f"no such place: {operation}")
    if any(_overlap(placement, each.placement) for each in gpu.instances):
        raise Refused(f"overlap: {operation}")
    if sum(each.profile_id == profile.id for each in gpu.instances) >= profile.instance_count:
        raise Refused(f"too many: {operation}")
    names = [gpu.profile_name(each.profile_id) for each in gpu.instances]
    if any(name.endswith("+me.all") for name in names) and not profile.name.endswith("-me"):
        raise Refused(f"engines are taken: {operation}")
    new = GpuInstance(100 + operation.start, profile.id, placement)
    return replace(gpu, instances=(*gpu.instances, new))


def _destroy_gpu_instance(gpu: Gpu, operation: Operation) -> Gpu:
    gone = _found(gpu, operation)
    if gone.in_use or gone.compute_instances:
        raise Refused(f"in use: {operation}")
    return replace(gpu, instances=tuple(each for each in gpu.instances if each is not gone))


def _create_compute_instance(gpu: Gpu, operation: Operation) -> Gpu:
    parent = _found(gpu, operation)
    profile = gpu.profile(parent.profile_id)
    assert profile and operation.slices
    taken = {
        position
        for each in parent.compute_instances
        if each.start is not None
        for position in range(each.start, each.start + each.slices)
    }
    starts = (
        [operation.compute_start]
        if operation.compute_start is not None
        else [
            start
            for start in range(profile.slices - operation.slices + 1)
            if not taken & set(range(start, start + operation.slices))
        ]
    )
    known = all(each.start is not None for each in parent.compute_instances)
    room = profile.slices - sum(each.slices for each in parent.compute_instances)
    if operation.slices > room or (known and not starts):
        raise Refused(f"no room: {operation}")
    number = max([-1, *(each.id for each in parent.compute_instances)]) + 1
    new = ComputeInstance(number, operation.slices, starts[0] if known else None, operation.slices)
    return _with(gpu, replace(parent, compute_instances=(*parent.compute_instances, new)))


def _destroy_compute_instance(gpu: Gpu, operation: Operation) -> Gpu:
    parent = _found(gpu, operation)
    gone = [
        each
        for each in parent.compute_instances
        if (each.id == operation.ci_id if operation.ci_id is not None else each.slices == operation.slices)
    ][-1]
    if gone.users or parent.users:
        raise Refused(f"in use: {operation}")
    left = tuple(each for each in parent.compute_instances if each is not gone)
    return _with(gpu, replace(parent, compute_instances=left))


def _found(gpu: Gpu, operation: Operation) -> GpuInstance:
    for each in gpu.instances:
        if each.placement.start == operation.start and operation.gi_id in (None, each.id):
            return each
    raise Refused(f"not there: {operation}")


def _with(gpu: Gpu, changed: GpuInstance) -> Gpu:
    return replace(gpu, instances=tuple(changed if each.id == changed.id else each for each in gpu.instances))


def _overlap(one: Placement, other: Placement) -> bool:
    return one.start < other.start + other.size and other.start < one.start + one.size


STEPS: dict[str, t.Callable[[Gpu, Operation], Gpu]] = {
    "set_mode": _set_mode,
    "create_gpu_instance": _create_gpu_instance,
    "destroy_gpu_instance": _destroy_gpu_instance,
    "create_compute_instance": _create_compute_instance,
    "destroy_compute_instance": _destroy_compute_instance,
}
