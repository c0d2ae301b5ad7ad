# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long MIG plans take at worst: from every layout a GPU can have, idle and in use, to every other it can have.

    python tests/perf/mig_plan.py              every STRIDE-th pair (default 1 = all); exit code 1 over the budget

The slowest pairs are measured again, best of several, because the machine is shared.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mig_notation import USER, make_gpu

from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    LayoutError,
    Wanted,
    WantedInstance,
    plan,
    plan_host,
)

ONE_GPU_MS = 5.0
EIGHT_GPUS_MS = 40.0
STRIDE = int(os.environ.get("STRIDE") or 1)
# the variants with attributes stand where the plain ones do: one of them is enough to count as another profile
PROFILES = {
    "A100-40GB": ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"),
    "RTX-PRO-6000-96GB": ("1g.24gb", "1g.24gb+gfx", "1g.24gb-me", "2g.48gb", "2g.48gb+gfx", "4g.96gb"),
}
AGAIN = 40
REPEATS = 7


def main() -> int:
    over = False
    for model, names in PROFILES.items():
        gpu = make_gpu(model)
        starts = layouts(gpu, names)
        targets = sorted({tuple(sorted(gpu.profile_name(each.profile_id) for each in start)) for start in starts})
        print(f"{model}: {len(starts)} layouts x {len(targets)} targets, idle and partly in use", flush=True)
        slowest = measured(gpu, starts, targets)
        pairs = [(best_of(case), case) for _first, case in slowest]
        one, (worst_gpu, worst_wanted) = max(pairs, key=lambda pair: pair[0])
        hosts = [case for _time, case in sorted(pairs, key=lambda pair: -pair[0])[:8]]
        eight = best_of_eight(hosts)
        print(f"  one GPU at worst {one:.2f} ms (budget {ONE_GPU_MS}), eight such {eight:.2f} ms ({EIGHT_GPUS_MS})")
        print(f"  worst: {described(worst_gpu)} -> {[each.profile_name for each in worst_wanted.instances or ()]}")
        over = over or one > ONE_GPU_MS or eight > EIGHT_GPUS_MS
    return int(over)


def layouts(gpu: Gpu, names: tuple[str, ...]) -> list[tuple[GpuInstance, ...]]:
    """Every set of instances that can stand on the GPU."""
    places = [(profile, place) for profile in gpu.profiles if profile.name in names for place in profile.placements]
    places.sort(key=lambda each: each[1].start)
    found: list[tuple[GpuInstance, ...]] = []

    def add(position: int, instances: tuple[GpuInstance, ...]) -> None:
        found.append(instances)
        for profile, place in places:
            if place.start >= position:
                whole = ComputeInstance(0, profile.slices, 0, profile.slices)
                new = GpuInstance(7 + place.start, profile.id, place, (whole,))
                add(place.start + place.size, (*instances, new))

    add(0, ())
    return found


def measured(
    gpu: Gpu, starts: list[tuple[GpuInstance, ...]], targets: list[tuple[str, ...]]
) -> list[tuple[float, tuple[Gpu, Wanted]]]:
    """The pairs that took longest, each timed once."""
    slowest: list[tuple[float, tuple[Gpu, Wanted]]] = []
    for number, (start, target) in enumerate(itertools.product(starts, targets)):
        if number % STRIDE:
            continue
        wanted = Wanted(True, tuple(WantedInstance(name) for name in target))
        # every third instance in use, another one each time
        busy = tuple(in_use(each) if (place + number) % 3 == 0 else each for place, each in enumerate(start))
        for instances in (start, busy):
            case = (replace(gpu, instances=instances), wanted)
            slowest.append((milliseconds(case), case))
        if len(slowest) > 50 * AGAIN:
            slowest = sorted(slowest, key=lambda each: -each[0])[:AGAIN]
    return sorted(slowest, key=lambda each: -each[0])[:AGAIN]


def in_use(instance: GpuInstance) -> GpuInstance:
    return replace(instance, users=(USER,))


def milliseconds(case: tuple[Gpu, Wanted]) -> float:
    began = time.perf_counter()
    with contextlib.suppress(LayoutError):
        plan(*case)
    return (time.perf_counter() - began) * 1000


def best_of(case: tuple[Gpu, Wanted]) -> float:
    return min(milliseconds(case) for _ in range(REPEATS))


def best_of_eight(cases: list[tuple[Gpu, Wanted]]) -> float:
    def once() -> float:
        began = time.perf_counter()
        plan_host([gpu for gpu, _wanted in cases], [wanted for _gpu, wanted in cases])
        return (time.perf_counter() - began) * 1000

    return min(once() for _ in range(REPEATS))


def described(gpu: Gpu) -> list[str]:
    return [
        f"{gpu.profile_name(each.profile_id)}@{each.placement.start}{'*' if each.in_use else ''}"
        for each in gpu.instances
    ]


if __name__ == "__main__":
    sys.exit(main())
