# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The best way to a MIG layout, found by trying every final state; slow, and nothing of it is the planner's own search.

Every way to stand the wanted instances on the GPU is listed. Those that leave out an instance in use are dropped, and
of the others the cost is counted: what of the present is not among them is destroyed.
"""

from __future__ import annotations

import functools
import itertools
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Gpu, GpuInstance, WantedInstance

Place = tuple[int, int, int]  # profile, start, size


class Best(t.NamedTuple):
    """destroyed, compute_destroyed: how few will do. kept: starts; new: (order of placing, start); as the ties go."""

    destroyed: int
    compute_destroyed: int
    kept: tuple[int, ...]
    new: tuple[tuple[tuple[int, str], int], ...]


INFEASIBLE = "infeasible"
IN_USE = "in_use"


def best(gpu: Gpu, wanted: t.Sequence[WantedInstance]) -> Best | str:
    """The cheapest way, or why there is none."""
    ids = {profile.name: profile.id for profile in gpu.profiles}
    counts: dict[int, int] = {}
    for each in wanted:
        counts[ids[each.profile_name]] = counts.get(ids[each.profile_name], 0) + 1
    if not _within_limits(gpu, counts) or any(sum(each.compute) > _slices(gpu, each) for each in wanted):
        return INFEASIBLE
    tables = tuple((each.id, tuple((p.start, p.size) for p in each.placements)) for each in gpu.profiles)
    finals = [final for final in _finals(tables, tuple(sorted(counts.items()))) if _starts_fit(gpu, final, wanted)]
    if not finals:
        return INFEASIBLE
    present = {(each.profile_id, each.placement.start, each.placement.size): each for each in gpu.instances}
    busy = {place for place, each in present.items() if each.in_use}
    candidates = [_cost(gpu, present, final, wanted) for final in finals if busy <= set(final)]
    costs = [cost for cost in candidates if cost]
    return min(costs) if costs else IN_USE


@functools.cache
def _finals(
    tables: tuple[tuple[int, tuple[tuple[int, int], ...]], ...], counts: tuple[tuple[int, int], ...]
) -> tuple[tuple[Place, ...], ...]:
    """All ways to stand so many instances of each profile on an empty GPU."""
    ways: list[tuple[Place, ...]] = [()]
    for profile, count in counts:
        places = dict(tables)[profile]
        added = [tuple((profile, *place) for place in chosen) for chosen in itertools.combinations(places, count)]
        ways = [(*way, *more) for way in ways for more in added if _apart((*way, *more))]
    return tuple(ways)


def _apart(places: t.Sequence[Place]) -> bool:
    taken = [position for _profile, start, size in places for position in range(start, start + size)]
    return len(taken) == len(set(taken))


def _within_limits(gpu: Gpu, counts: t.Mapping[int, int]) -> bool:
    limits = {profile.id: profile.instance_count for profile in gpu.profiles}
    if any(count > limits[profile] for profile, count in counts.items()):
        return False
    names = [gpu.profile_name(profile) for profile, count in counts.items() for _ in range(count)]
    if sum(name.endswith("+me") for name in names) > 1:
        return False
    everything = sum(name.endswith("+me.all") for name in names)
    return not everything or (everything == 1 and all(name.endswith("-me") for name in names if "+me.all" not in name))


def _slices(gpu: Gpu, wanted: WantedInstance) -> int:
    return next(profile.slices for profile in gpu.profiles if profile.name == wanted.profile_name)


def _starts_fit(gpu: Gpu, final: t.Sequence[Place], wanted: t.Sequence[WantedInstance]) -> bool:
    there = {(gpu.profile_name(profile), start) for profile, start, _size in final}
    fixed = [(each.profile_name, each.start) for each in wanted if each.start is not None]
    return len(fixed) == len(set(fixed)) and set(fixed) <= there


def _cost(
    gpu: Gpu,
    present: t.Mapping[Place, GpuInstance],
    final: t.Sequence[Place],
    wanted: t.Sequence[WantedInstance],
) -> Best | None:
    """What it costs to come to this final state; None when a compute instance in use would have to go."""
    kept = [present[place] for place in final if place in present]
    inside = _cheapest_inside(gpu, present, final, wanted)
    if inside is None:
        return None
    gone = [each for place, each in present.items() if place not in final]
    order = {profile.id: (-max(p.size for p in profile.placements), profile.name) for profile in gpu.profiles}
    return Best(
        len(gone),
        inside + sum(len(each.compute_instances) for each in gone),
        tuple(sorted(each.placement.start for each in kept)),
        tuple(sorted((order[place[0]], place[1]) for place in final if place not in present)),
    )


def _cheapest_inside(
    gpu: Gpu,
    present: t.Mapping[Place, GpuInstance],
    final: t.Sequence[Place],
    wanted: t.Sequence[WantedInstance],
) -> int | None:
    """Compute instances lost in GPU instances that stay, with the wishes of each profile dealt out in the best way."""
    total = 0
    for profile in {place[0] for place in final}:
        places = [place for place in final if place[0] == profile]
        wishes = [
            (each.compute or (_slices(gpu, each),), each.start)
            for each in wanted
            if each.profile_name == gpu.profile_name(profile)
        ]
        dealt = {wishes[0] and tuple(wishes)} if len(set(wishes)) == 1 else set(itertools.permutations(wishes))
        costs = [_dealt_cost(gpu, present, list(zip(places, each, strict=True))) for each in dealt]
        possible = [cost for cost in costs if cost is not None]
        if not possible:
            return None
        total += min(possible)
    return total


def _dealt_cost(
    gpu: Gpu,
    present: t.Mapping[Place, GpuInstance],
    dealt: t.Sequence[tuple[Place, tuple[tuple[int, ...], int | None]]],
) -> int | None:
    total = 0
    for place, (compute, start) in dealt:
        if start not in (None, place[1]):
            return None
        if place in present:
            slices = next(profile.slices for profile in gpu.profiles if profile.id == place[0])
            lost = _lost_inside(present[place], tuple(sorted(compute)), slices)
            if lost is None:
                return None
            total += lost
    return total


def _lost_inside(instance: GpuInstance, wanted: tuple[int, ...], slices: int) -> int | None:
    """The fewest compute instances to destroy so that the wanted ones can stand."""
    parts = instance.compute_instances
    for lost in range(len(parts) + 1):
        for gone in itertools.combinations(parts, lost):
            if any(each.users or instance.users for each in gone):
                continue
            stay = [each for each in parts if each not in gone]
            missing = _minus(wanted, [each.slices for each in stay])
            taken = {p for each in stay for p in range(each.start or 0, (each.start or 0) + each.slices)}
            if missing is not None and _can_stand(missing, frozenset(taken), slices):
                return lost
    return None


def _minus(wanted: t.Sequence[int], present: t.Sequence[int]) -> tuple[int, ...] | None:
    left = list(wanted)
    for each in present:
        if each not in left:
            return None
        left.remove(each)
    return tuple(left)


@functools.cache
def _can_stand(missing: tuple[int, ...], taken: frozenset[int], slices: int) -> bool:
    if not missing:
        return True
    first, rest = missing[0], missing[1:]
    return any(
        _can_stand(rest, taken | set(range(start, start + first)), slices)
        for start in range(slices - first + 1)
        if not taken & set(range(start, start + first))
    )
