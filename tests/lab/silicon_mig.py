# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What MIG offers on each GPU product: profiles, placements, engines.

Sources: public nvidia-smi listings (ids, counts, placements of A30, A100-40, H100, RTX PRO 6000), NVIDIA's MIG user
guide and mig-parted's configurations (names). Not seen in any listing, so inferred: placements of A100-80, H200, B200
and GB300; memory, multiprocessors and engines of the larger B200 profiles and of GB300.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Compute instances of a GPU instance with so many slices: (number in NVML's enum and id, slices, most)
COMPUTE: dict[int, tuple[tuple[int, int, int], ...]] = {
    1: ((0, 1, 1),),
    2: ((0, 1, 2), (1, 2, 1)),
    3: ((0, 1, 3), (1, 2, 1), (2, 3, 1)),
    4: ((0, 1, 4), (1, 2, 2), (3, 4, 1)),
    7: ((0, 1, 7), (1, 2, 3), (2, 3, 2), (3, 4, 1), (4, 7, 1)),
}
COMPUTE_1_SLICE_REV1 = 7  # one slice with more multiprocessors than its share


@dataclass(frozen=True)
class Profile:
    """A GPU instance profile. ``enum`` asks for it, ``id`` is what the device calls it; placement in memory slices."""

    name: str  # without the "MIG " that NVML puts before it
    enum: int
    id: int
    slices: int
    count: int
    size: int
    order: tuple[int, ...]  # starts, as the driver picks them when nobody names one
    multiprocessors: int
    memory_mib: int
    engines: tuple[int, ...]  # copy, decoder, encoder, JPEG, OFA
    compute: tuple[tuple[int, int, int, int], ...]  # enum and id, slices, count, multiprocessors

    @property
    def starts(self) -> tuple[int, ...]:
        return tuple(sorted(self.order))


# enum, id, slices, count, size, starts in the driver's order
Shape = tuple[int, int, int, int, int, tuple[int, ...]]
EIGHTHS: dict[str, Shape] = {
    "1g": (0, 19, 1, 7, 1, (6, 4, 5, 0, 1, 2, 3)),
    "1g+me": (7, 20, 1, 1, 1, (6, 4, 5, 0, 1, 2, 3)),
    "1g wide": (9, 15, 1, 4, 2, (6, 4, 0, 2)),
    "2g": (1, 14, 2, 3, 2, (4, 0, 2)),
    "3g": (2, 9, 3, 2, 4, (4, 0)),
    "4g": (3, 5, 4, 1, 4, (0,)),
    "7g": (4, 0, 7, 1, 8, (0,)),
}
QUARTERS: dict[str, Shape] = {
    "1g": (0, 14, 1, 4, 1, (0, 1, 2, 3)),
    "1g+me": (7, 21, 1, 1, 1, (0, 1, 2, 3)),
    "2g": (1, 5, 2, 2, 2, (0, 2)),
    "2g+me": (8, 6, 2, 1, 2, (0, 2)),
    "4g": (3, 0, 4, 1, 4, (0,)),
}
TWELFTHS: dict[str, Shape] = {
    "1g": (0, 14, 1, 4, 3, (0, 3, 6, 9)),
    "1g+me": (7, 21, 1, 1, 3, (0, 3, 6, 9)),
    "1g+gfx": (10, 47, 1, 4, 3, (0, 3, 6, 9)),
    "1g+me.all": (15, 65, 1, 1, 3, (0, 3, 6, 9)),
    "1g-me": (13, 67, 1, 4, 3, (0, 3, 6, 9)),
    "2g": (1, 5, 2, 2, 6, (0, 6)),
    "2g+gfx": (11, 35, 2, 2, 6, (0, 6)),
    "2g+me.all": (16, 64, 2, 1, 6, (0, 6)),
    "2g-me": (14, 66, 2, 2, 6, (0, 6)),
    "4g": (3, 0, 4, 1, 12, (0,)),
    "4g+gfx": (12, 32, 4, 1, 12, (0,)),
}


def _profiles(shapes: dict[str, Shape], table: str, **rev1: int) -> list[Profile]:
    """Read one line per shape: name, multiprocessors, MiB, copy, decoder, encoder, JPEG and OFA engines.

    ``rev1``: profiles that offer one compute slice with this many multiprocessors besides one with just its share.
    """
    profiles: list[Profile] = []
    for (enum, number, slices, count, size, order), line in zip(shapes.values(), table.split("\n"), strict=True):
        name, *rest = line.split()
        multiprocessors, memory, *engines = map(int, rest)
        share = profiles[0].multiprocessors if profiles else multiprocessors
        compute = [
            (which, part, most, multiprocessors if part == slices and name not in rev1 else part * share)
            for which, part, most in COMPUTE[slices]
        ]
        if name in rev1:
            compute.append((COMPUTE_1_SLICE_REV1, 1, 1, rev1[name]))
        profiles.append(
            Profile(
                name, enum, number, slices, count, size, order, multiprocessors, memory, tuple(engines), tuple(compute)
            )
        )
    return profiles


PROFILES: dict[str, list[Profile]] = {
    "A30": _profiles(
        QUARTERS,
        """1g.6gb 14 5952 1 1 0 0 0
1g.6gb+me 14 5952 1 1 0 1 1
2g.12gb 28 11968 2 2 0 0 0
2g.12gb+me 28 11968 2 2 0 1 1
4g.24gb 56 24000 4 4 0 1 1""",
    ),
    "A100-40": _profiles(
        EIGHTHS,
        """1g.5gb 14 4864 1 0 0 0 0
1g.5gb+me 14 4864 1 1 0 1 1
1g.10gb 14 9856 1 1 0 0 0
2g.10gb 28 9856 2 1 0 0 0
3g.20gb 42 19968 3 2 0 0 0
4g.20gb 56 19968 4 2 0 0 0
7g.40gb 98 40192 7 5 0 1 1""",
    ),
    "A100-80": _profiles(
        EIGHTHS,
        """1g.10gb 14 9728 1 0 0 0 0
1g.10gb+me 14 9728 1 1 0 1 1
1g.20gb 14 19968 1 1 0 0 0
2g.20gb 28 19968 2 1 0 0 0
3g.40gb 42 40192 3 2 0 0 0
4g.40gb 56 40192 4 2 0 0 0
7g.80gb 98 80640 7 5 0 1 1""",
    ),
    "H100-SXM": _profiles(
        EIGHTHS,
        """1g.10gb 16 9984 1 1 0 1 0
1g.10gb+me 16 9984 1 1 0 1 1
1g.20gb 26 20096 1 1 0 1 0
2g.20gb 32 20096 2 2 0 2 0
3g.40gb 60 40448 3 3 0 3 0
4g.40gb 64 40448 4 4 0 4 0
7g.80gb 132 81152 8 7 0 7 1""",
        **{"1g.20gb": 26, "2g.20gb": 26},
    ),
    "H100-PCIe": _profiles(
        EIGHTHS,
        """1g.10gb 14 9984 1 1 0 1 0
1g.10gb+me 14 9984 1 1 0 1 1
1g.20gb 14 20096 1 1 0 1 0
2g.20gb 30 20096 2 2 0 2 0
3g.40gb 46 40448 3 3 0 3 0
4g.40gb 60 40448 4 4 0 4 0
7g.80gb 114 81152 8 7 0 7 1""",
    ),
    "H100-NVL": _profiles(
        EIGHTHS,
        """1g.12gb 16 11008 1 1 0 1 0
1g.12gb+me 16 11008 1 1 0 1 1
1g.24gb 26 22144 1 1 0 1 0
2g.24gb 32 22144 2 2 0 2 0
3g.47gb 60 47488 3 3 0 3 0
4g.47gb 64 47488 4 4 0 4 0
7g.94gb 132 95360 8 7 0 7 1""",
    ),
    "H200": _profiles(
        EIGHTHS,
        """1g.18gb 16 16384 1 1 0 1 0
1g.18gb+me 16 16384 1 1 0 1 1
1g.35gb 26 33024 1 1 0 1 0
2g.35gb 32 33024 2 2 0 2 0
3g.71gb 60 71168 3 3 0 3 0
4g.71gb 64 71168 4 4 0 4 0
7g.141gb 132 143104 8 7 0 7 1""",
    ),
    "B200": _profiles(
        EIGHTHS,
        """1g.23gb 18 22528 2 1 0 1 0
1g.23gb+me 18 22528 2 1 0 1 1
1g.45gb 30 45312 2 1 0 1 0
2g.45gb 36 45312 4 2 0 2 0
3g.90gb 70 90880 6 3 0 3 0
4g.90gb 74 90880 8 4 0 4 0
7g.180gb 148 182016 16 7 0 7 1""",
    ),
    "GB300": _profiles(
        EIGHTHS,
        """1g.35gb 18 34816 2 1 0 1 0
1g.35gb+me 18 34816 2 1 0 1 1
1g.70gb 32 70144 2 1 0 1 0
2g.70gb 38 70144 4 2 0 2 0
3g.139gb 74 140800 6 3 0 3 0
4g.139gb 76 140800 8 4 0 4 0
7g.278gb 152 282624 16 7 0 7 1""",
    ),
    "RTX-PRO": _profiles(
        TWELFTHS,
        """1g.24gb 46 24192 1 1 1 1 0
1g.24gb+me 46 24192 1 1 1 1 1
1g.24gb+gfx 46 24192 1 1 1 1 0
1g.24gb+me.all 46 24192 1 4 4 4 1
1g.24gb-me 46 24192 1 0 0 0 0
2g.48gb 94 48512 2 2 2 2 0
2g.48gb+gfx 94 48512 2 2 2 2 0
2g.48gb+me.all 94 48512 2 4 4 4 1
2g.48gb-me 94 48512 2 0 0 0 0
4g.96gb 188 97280 4 4 4 4 1
4g.96gb+gfx 188 97280 4 4 4 4 1""",
    ),
}


def board_pairs(table: str) -> Iterator[tuple[str, str]]:
    """Yield what a GPU's board says of MIG, as ``silicon/mig.c`` reads it; ``table`` names one of ``PROFILES``."""
    for profile in PROFILES[table]:
        starts = (",".join(map(str, starts)) for starts in (profile.starts, profile.order))
        numbers = (profile.id, profile.slices, profile.count, profile.multiprocessors, profile.memory_mib)
        words = (profile.name, *numbers, *profile.engines, profile.size, *starts)
        yield f"mig.profile.{profile.enum}", " ".join(map(str, words))
        yield f"mig.compute.{profile.enum}", " ".join(":".join(map(str, entry)) for entry in profile.compute)
