# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner against an oracle that tries everything, on random GPUs, layouts, users and wishes.

SEED chooses others (a failure prints it), CASES how many: SEED=7 CASES=100000 pytest tests/unit -k against_the_oracle
"""

from __future__ import annotations

import os
import random
import time
import typing as t
from collections import Counter
from dataclasses import replace

import mig_oracle
import pytest
from mig_notation import carried_out, layout, make_gpu

from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    LayoutError,
    Plan,
    Profile,
    Wanted,
    WantedInstance,
    plan,
)

SEED = int(os.environ.get("SEED") or time.time_ns() % 10**9)
CASES = int(os.environ.get("CASES") or 5_000)
CHUNKS = 4
MODELS = ("A100-40GB", "H100-80GB", "A30-24GB", "RTX-PRO-6000-96GB")
USERS = ("python (pid 4711)",)


class Case(t.NamedTuple):
    gpu: Gpu
    wanted: Wanted

    def __str__(self) -> str:
        present = [
            (self.gpu.profile_name(each.profile_id), each.placement.start, each.users, each.compute_instances)
            for each in self.gpu.instances
        ]
        return f"{self.gpu.model}: {present} -> {self.wanted.instances}"


def random_case(dice: random.Random) -> Case:
    gpu = make_gpu(dice.choice(MODELS))
    instances = tuple(random_instances(dice, gpu, dice.choice((0.0, 0.2, 0.5))))
    gpu = replace(gpu, instances=instances)
    return Case(gpu, Wanted(True, tuple(random_wishes(dice, gpu))))


def random_places(dice: random.Random, gpu: Gpu) -> list[tuple[Profile, int]]:
    """Instances put on an empty GPU one after the other, until a random moment."""
    places: list[tuple[Profile, int]] = []
    taken: set[int] = set()
    for _ in range(dice.randint(0, 12)):
        profile = dice.choice(gpu.profiles)
        place = dice.choice(profile.placements)
        slices = set(range(place.start, place.start + place.size))
        names = [each.name for each, _start in places] + [profile.name]
        many = sum(each is profile for each, _start in places) >= profile.instance_count
        media = any(name.endswith("+me.all") for name in names) and not all(
            n.endswith(("+me.all", "-me")) for n in names
        )
        if taken & slices or many or media or sum(name.endswith(("+me", "+me.all")) for name in names) > 1:
            continue
        taken |= slices
        places.append((profile, place.start))
    return places


def random_instances(dice: random.Random, gpu: Gpu, busy: float) -> list[GpuInstance]:
    return [
        GpuInstance(
            7 + number,
            profile.id,
            next(place for place in profile.placements if place.start == start),
            tuple(random_parts(dice, profile, busy)),
            USERS if dice.random() < busy / 5 else (),
        )
        for number, (profile, start) in enumerate(random_places(dice, gpu))
    ]


def random_parts(dice: random.Random, profile: Profile, busy: float) -> list[ComputeInstance]:
    if dice.random() < 0.6:
        return [ComputeInstance(0, profile.slices, 0, profile.slices, USERS if dice.random() < busy else ())]
    parts: list[ComputeInstance] = []
    position = 0
    while position < profile.slices:
        slices = dice.choice([each.slices for each in profile.compute_profiles])
        if position + slices <= profile.slices and dice.random() < 0.7:
            users = USERS if dice.random() < busy else ()
            parts.append(ComputeInstance(len(parts), slices, position, slices, users))
            position += slices
        else:
            position += 1
    return parts


def random_wishes(dice: random.Random, gpu: Gpu) -> list[WantedInstance]:
    """A layout that is possible, what is there with a small change, or anything."""
    kind = dice.random()
    if kind < 0.5:
        wishes = [random_wish(dice, profile, start) for profile, start in random_places(dice, gpu)]
    elif kind < 0.8:
        wishes = [
            WantedInstance(gpu.profile_name(each.profile_id), tuple(part.slices for part in each.compute_instances))
            for each in gpu.instances
            if dice.random() < 0.8
        ]
        wishes += [random_wish(dice, dice.choice(gpu.profiles), None)] if dice.random() < 0.7 else []
    else:
        wishes = [random_wish(dice, dice.choice(gpu.profiles), None) for _ in range(dice.randint(0, 5))]
    dice.shuffle(wishes)
    return wishes


def random_wish(dice: random.Random, profile: Profile, start: int | None) -> WantedInstance:
    compute: tuple[int, ...] = ()
    if dice.random() < 0.3:
        compute = tuple(dice.choice([1, 1, 2, 3]) for _ in range(dice.randint(1, 3)))
        offered = {each.slices: each.instance_count for each in profile.compute_profiles}
        if sum(compute) > profile.slices or any(n > offered.get(c, 0) for c, n in Counter(compute).items()):
            compute = ()
    return WantedInstance(profile.name, compute, start if dice.random() < 0.05 else None)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_plans_against_the_oracle(chunk: int) -> None:
    print(f"SEED={SEED}")
    dice = random.Random(f"{SEED}-{chunk}")
    seen: Counter[str] = Counter()
    for number in range(CASES // CHUNKS):
        case = random_case(dice)
        try:
            seen[check(case)] += 1
        except AssertionError as error:
            raise AssertionError(f"SEED={SEED} chunk {chunk} case {number}: {case}") from error
    print(dict(seen))
    assert set(seen) == {"changed", "nothing to do", "infeasible", "in_use"} or CASES < 1000


def check(case: Case) -> str:
    expected = mig_oracle.best(case.gpu, case.wanted.instances or ())
    try:
        planned = plan(case.gpu, case.wanted)
    except LayoutError as error:
        assert error.reason == expected
        if expected == "in_use":
            check_that_the_named_blockers_are_in_use(case, error)
        return error.reason
    assert isinstance(expected, mig_oracle.Best), expected
    check_that_it_is_the_best(case, planned, expected)
    check_that_it_works(case, planned)
    return "changed" if planned.operations else "nothing to do"


def check_that_it_is_the_best(case: Case, planned: Plan, expected: mig_oracle.Best) -> None:
    ops = Counter(operation.op for operation in planned.operations)
    assert ops["destroy_gpu_instance"] == expected.destroyed
    assert ops["destroy_compute_instance"] == expected.compute_destroyed
    if any(each.start is not None for each in case.wanted.instances or ()):
        return  # a wish with a start is placed before the others of its profile
    assert tuple(each.placement.start for each in planned.kept) == expected.kept
    created = [(each.profile, each.start) for each in planned.operations if each.op == "create_gpu_instance"]
    assert created == [(name, start) for (_size, name), start in expected.new]


def check_that_it_works(case: Case, planned: Plan) -> None:
    after = carried_out(case.gpu, planned.operations)
    slices = {profile.name: profile.slices for profile in case.gpu.profiles}
    assert sorted((name, parts) for name, _start, parts in layout(after)) == sorted(
        (each.profile_name, tuple(sorted(each.compute or (slices[each.profile_name],))))
        for each in case.wanted.instances or ()
    )
    there = {(name, start) for name, start, _parts in layout(after)}
    assert {(each.profile_name, each.start) for each in case.wanted.instances or () if each.start is not None} <= there
    left = {(each.id, part.id) for each in after.instances for part in each.compute_instances if part.users}
    assert left == {(each.id, part.id) for each in case.gpu.instances for part in each.compute_instances if part.users}
    assert {each.id for each in case.gpu.instances if each.in_use} <= {each.id for each in after.instances}
    assert plan(after, case.wanted).operations == ()


def check_that_the_named_blockers_are_in_use(case: Case, error: LayoutError) -> None:
    busy = {each.id for each in case.gpu.instances if each.in_use}
    assert error.blockers and {blocker.gi_id for blocker in error.blockers} <= busy
    # with all of them freed, the layout can be had
    freed = tuple(
        each
        if each.id not in {blocker.gi_id for blocker in error.blockers}
        else GpuInstance(
            each.id,
            each.profile_id,
            each.placement,
            tuple(ComputeInstance(part.id, part.slices, part.start, part.size) for part in each.compute_instances),
        )
        for each in case.gpu.instances
    )
    assert not isinstance(mig_oracle.best(replace(case.gpu, instances=freed), case.wanted.instances or ()), str)
