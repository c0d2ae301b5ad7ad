# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of MIG profiles: read, written and compared.

    1g.10gb           GPU instance of one compute slice with 10 GB
    1g.10gb+me        the same with media engines; other attributes: +me.all, +gfx, -me
    1c.3g.40gb        a compute instance of one slice in a GPU instance 3g.40gb

The driver makes the names, and they change with it: the same instance of a GB200 was 1g.24gb and 1g.23gb, that of an
A100 3g.40gb and 3g.39gb. So slices and attributes must agree, and the GB only nearly.
"""

from __future__ import annotations

import functools
import math
import re
import typing as t
from dataclasses import dataclass, replace

PREFIX_OF_NVML = "MIG "
ADDED = ("me", "me.all", "gfx")
REMOVED = ("me",)
SHAPE = re.compile(
    r"(?:(?P<compute>\d+)c\.)?(?P<slices>\d+)g\.(?P<gb>\d+)gb(?:(?P<sign>[+-])(?P<words>[a-z.]+(?:,[a-z.]+)*))?"
)
EXAMPLES = "1g.10gb, 1g.10gb+me or 1c.3g.40gb"

# What the driver changes in its names is rounding: a few percent, never the step to the next profile.
GB_TOLERANCE = 0.05

# nvmlGpuInstanceProfile enumeration: what a variant adds to the name. All others add nothing.
SUFFIXES = {
    7: "+me",
    8: "+me",
    10: "+gfx",
    11: "+gfx",
    12: "+gfx",
    13: "-me",
    14: "-me",
    15: "+me.all",
    16: "+me.all",
    17: "+gfx",
}


class NameProblem(ValueError):
    """A text that is no profile name; says why."""


@dataclass(frozen=True)
class ProfileName:
    """A name in its parts. compute: slices of the compute instance, None when it fills the GPU instance."""

    slices: int
    gb: int
    suffix: str = ""
    compute: int | None = None

    def __str__(self) -> str:
        compute = f"{self.compute}c." if self.compute else ""
        return f"{compute}{self.slices}g.{self.gb}gb{self.suffix}"

    @property
    def gpu_instance(self) -> ProfileName:
        """The name of the GPU instance alone."""
        return replace(self, compute=None)


@functools.lru_cache(maxsize=1024)
def parsed(text: str) -> ProfileName:
    """Return the parts of a name as users, NVML or mig-parted's files write it; raise NameProblem for anything else."""
    match = SHAPE.fullmatch(text.strip().removeprefix(PREFIX_OF_NVML))
    if not match:
        raise NameProblem(f"is not the name of a profile, such as {EXAMPLES}")
    slices, compute = int(match["slices"]), int(match["compute"] or 0)
    if not slices or (match["compute"] and not compute):
        raise NameProblem("has no slices")
    if compute > slices:
        raise NameProblem(f"has a compute instance of {compute} slices in a GPU instance of {slices}")
    suffix = _suffix(match["sign"] or "", match["words"] or "")
    return ProfileName(slices, int(match["gb"]), suffix, compute if 0 < compute < slices else None)


def built_name(slices: int, memory_mib: int, device_memory_mib: int, suffix: str = "") -> str:
    """Return the name the driver would give, for a driver that gives none because MIG is off.

    Memory of an instance counts in eighths of the device's, rounded up; GB are rounded half up, so that 22.5 is 23.
    suffix: from SUFFIXES, by the enumeration that the profile was asked with.
    """
    eighths = math.ceil(memory_mib * 8 / device_memory_mib)
    gb = math.floor(eighths * math.ceil(device_memory_mib / 1024) / 8 + 0.5)
    return f"{slices}g.{gb}gb{suffix}"


def matching(wanted: ProfileName, offered: t.Iterable[str]) -> str | None:
    """Return the offered name of the wanted GPU instance: the same, else the one that differs by rounding only."""
    names = {text: parsed(text) for text in offered if _is_name(text)}
    exact = [text for text, name in names.items() if name == wanted.gpu_instance]
    near = [text for text, name in names.items() if _nearly(name, wanted)]
    if exact:
        return exact[0]
    return near[0] if len(near) == 1 else None


def _nearly(name: ProfileName, wanted: ProfileName) -> bool:
    alike = (name.slices, name.suffix) == (wanted.slices, wanted.suffix)
    return alike and abs(name.gb - wanted.gb) <= GB_TOLERANCE * max(name.gb, wanted.gb)


def _is_name(text: str) -> bool:
    try:
        parsed(text)
    except NameProblem:
        return False
    return True


def _suffix(sign: str, words: str) -> str:
    if not sign:
        return ""
    given = words.split(",")
    known = ADDED if sign == "+" else REMOVED
    strange = [word for word in given if word not in known]
    if strange:
        allowed = ", ".join([*(f"+{word}" for word in ADDED), *(f"-{word}" for word in REMOVED)])
        raise NameProblem(f"has the attribute {sign}{strange[0]}; there are {allowed}")
    if len(set(given)) < len(given) or {"me", "me.all"} <= set(given):
        raise NameProblem("has media engines twice")
    return sign + ",".join(sorted(given))
