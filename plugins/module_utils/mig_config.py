# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wanted MIG layouts, in the configuration language of NVIDIA's mig-parted.

    version: v1
    mig-configs:
      training:
        - device-filter: ["0x233010DE"]       # optional: device ids, each with :subsystem id if that matters
          devices: [0, 1]                     # or all; here also UUIDs and PCI addresses
          mig-enabled: true
          mig-devices: {"3g.40gb": 2}         # {} is on and empty; none when MIG is off

    select(document, name, gpus) -> Selection     the Wanted of each GPU; raises ConfigError with every problem
    layout_names(document, gpus)                  what can be selected
    export(gpus)                                  a document that makes the present layouts again

The document is parsed YAML. All of it is checked for its form, and the selected layout against the GPUs of this host,
because a file may serve many hosts. A GPU that no entry is for is left alone. all-disabled, all-enabled, all-balanced
and all-<profile> need not be in the document: they are made from what the GPUs offer.
"""

from __future__ import annotations

import collections
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    Gpu,
    GpuInstance,
    Profile,
    Wanted,
    WantedInstance,
    named,
    refusal_when_empty,
    slices_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_names import EXAMPLES, NameProblem, matching, parsed

VERSION = "v1"
ALL = "all"
TOP_KEYS = ("version", "mig-configs")
ENTRY_KEYS = ("device-filter", "devices", "mig-enabled", "mig-devices")
EVERY_GPU = ("all-disabled", "all-enabled", "all-balanced")
FILTER = re.compile(r"0x[0-9a-f]{4}10de(:0x[0-9a-f]{8})?", re.IGNORECASE)
PCI_ADDRESS = re.compile(r"([0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)
UUID = re.compile(r"GPU-[0-9a-f-]+", re.IGNORECASE)

Raw = t.Any
Entries = list[dict[str, t.Any]]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a document: where, the value there, why, and what would be right."""

    entry: str
    value: t.Any
    message: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.entry}: {_shown(self.value)} {self.message}. Allowed: {self.allowed}."


class ConfigError(Exception):
    def __init__(self, problems: t.Sequence[Problem]) -> None:
        super().__init__(" ".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Selection:
    """wanteds: one for each GPU that was given, None for those that no entry is for."""

    wanteds: tuple[Wanted | None, ...]
    notes: tuple[str, ...] = ()


def select(document: Raw, name: str, gpus: t.Sequence[Gpu]) -> Selection:
    """Return what the layout of this name wants of each GPU.

    document: None when there are only the layouts made from what the GPUs offer.
    """
    problems = [] if document is None else document_problems(document)
    if problems:
        raise ConfigError(problems)
    entries, notes = _entries(document, name, gpus)
    chosen = _Chosen(gpus, f"mig-configs.{name}", notes)
    for position, entry in enumerate(entries):
        chosen.add(position, entry)
    return chosen.selection()


def layout_names(document: Raw, gpus: t.Sequence[Gpu]) -> list[str]:
    """Return the names that can be selected: the document's, then those made from what the GPUs offer."""
    own = list((document or {}).get("mig-configs", {}))
    profiles = [f"all-{profile.name}" for gpu in gpus if gpu.mig_capable for profile in gpu.profiles]
    return list(dict.fromkeys([*own, *EVERY_GPU, *profiles]))


def _entries(document: Raw, name: str, gpus: t.Sequence[Gpu]) -> tuple[Entries, list[str]]:
    own = (document or {}).get("mig-configs", {})
    if isinstance(name, str) and name in own:
        return own[name], []
    if name == "all-disabled":
        return [{"devices": ALL, "mig-enabled": False}], []
    if name == "all-enabled":
        return [{"devices": ALL, "mig-enabled": True, "mig-devices": {}}], []
    made = _made_for_each(name, gpus) if isinstance(name, str) else None
    if made is None:
        allowed = ", ".join(layout_names(document, gpus))
        quoted = ", in quotes, because YAML reads on, off, yes and no as truth values" if isinstance(name, bool) else ""
        raise ConfigError([Problem("mig-configs", name, "is not the name of a layout", allowed + quoted)])
    return made


# --- layouts made from what the GPUs offer ----------------------------------------------------------------------------


def _made_for_each(name: str, gpus: t.Sequence[Gpu]) -> tuple[Entries, list[str]] | None:
    """The entries of all-balanced or all-<profile>, one a GPU, and notes; None when no GPU offers it."""
    entries, notes = [], []
    for gpu in gpus:
        counts = _counts_of(name, gpu) if gpu.mig_capable else None
        if counts:
            entries.append({"devices": [gpu.index], "mig-enabled": True, "mig-devices": counts})
        elif gpu.mig_capable:
            notes.append(f"{named(gpu)} is left alone: it has nothing for {name}.")
        else:
            notes.append(_not_capable(gpu))
    known = bool(entries) or name == "all-balanced"
    return (entries, notes) if known else None


def _counts_of(name: str, gpu: Gpu) -> dict[str, int] | None:
    if name == "all-balanced":
        return balanced(gpu)
    if not name.startswith("all-"):
        return None
    profile = _offered(name[len("all-") :], gpu)
    count = _most(profile, gpu) if profile else 0
    return {profile.name: count} if profile and count else None


def _offered(text: str, gpu: Gpu) -> Profile | None:
    """The profile of this name, which in a label of a node has a dot for its plus sign."""
    spelled = {profile.name.replace("+", "."): profile for profile in gpu.profiles}
    if text in spelled:
        return spelled[text]
    try:
        found = matching(parsed(text), [profile.name for profile in gpu.profiles])
    except NameProblem:
        return None
    return next((profile for profile in gpu.profiles if profile.name == found), None)


def _most(profile: Profile, gpu: Gpu) -> int:
    """How many instances of a profile an empty GPU has room for."""
    for count in range(profile.instance_count, 0, -1):
        if refusal_when_empty(gpu, [WantedInstance(profile.name)] * count) is None:
            return count
    return 0


def balanced(gpu: Gpu) -> dict[str, int]:
    """One instance of half the GPU, one of half the rest and so on; what then remains is filled with the smallest."""
    plain = [profile for profile in gpu.profiles if profile.placements and not parsed(profile.name).suffix]
    plain.sort(key=lambda profile: (-profile.slices, _size(profile)))
    memory, compute = slices_of(gpu), max((profile.slices for profile in plain), default=0)
    chosen: list[Profile] = []
    for profile in plain:
        if 2 * _size(profile) <= memory and 2 * profile.slices <= compute and _fit(gpu, [*chosen, profile]):
            chosen.append(profile)
            memory -= _size(profile)
            compute -= profile.slices
    while chosen and _fit(gpu, [*chosen, chosen[-1]]):
        chosen.append(chosen[-1])
    return dict(collections.Counter(profile.name for profile in chosen))


def _fit(gpu: Gpu, profiles: t.Sequence[Profile]) -> bool:
    return refusal_when_empty(gpu, [WantedInstance(profile.name) for profile in profiles]) is None


def _size(profile: Profile) -> int:
    return max(placement.size for placement in profile.placements)


# --- a layout on the GPUs of a host -----------------------------------------------------------------------------------


class _Chosen:
    """What the entries of the selected layout want of each GPU, and what is wrong with that."""

    def __init__(self, gpus: t.Sequence[Gpu], path: str, notes: t.Sequence[str]) -> None:
        self._gpus = gpus
        self._path = path
        self._notes = list(notes)
        self._problems: list[Problem] = []
        self._wanteds: dict[str, tuple[str, Wanted]] = {}
        self._hit: set[str] = set()

    def add(self, position: int, entry: t.Mapping[str, t.Any]) -> None:
        path = f"{self._path}[{position}]"
        wanted = _wanted(entry)
        filtered = [gpu for gpu in self._gpus if _passes(entry.get("device-filter"), gpu)]
        if filtered or not entry.get("device-filter"):
            self._problems += _absent_devices(path, entry["devices"], self._gpus)
        for gpu in filtered:
            if _is_meant(entry["devices"], gpu):
                self._hit.add(gpu.uuid)
                self._want(path, entry, gpu, wanted)

    def selection(self) -> Selection:
        if not self._hit and not self._notes and not self._problems:
            present = ", ".join(f"{named(gpu)} {gpu.device_id}" for gpu in self._gpus) or "no GPU"
            text = "is for no GPU of this host"
            self._problems.append(Problem(self._path, [], text, f"entries for what is here: {present}"))
        if self._problems:
            raise ConfigError(self._problems)
        wanteds = [self._wanteds.get(gpu.uuid) for gpu in self._gpus]
        return Selection(tuple(found and found[1] for found in wanteds), tuple(dict.fromkeys(self._notes)))

    def _want(self, path: str, entry: t.Mapping[str, t.Any], gpu: Gpu, wanted: Wanted) -> None:
        if wanted.enabled and not gpu.mig_capable:
            self._cannot(path, entry, gpu)
            return
        earlier = self._wanteds.setdefault(gpu.uuid, (path, wanted))
        if earlier[1] != wanted:
            text = f"and {earlier[0]} give {named(gpu)} different layouts"
            self._problems.append(Problem(path, entry.get("mig-devices"), text, "one layout for each GPU"))
        refusal = refusal_when_empty(gpu, wanted.instances or ())
        if refusal:
            offers = ", ".join(profile.name for profile in gpu.profiles)
            text = f"cannot be had. {refusal.message.rstrip('.')}"
            self._problems.append(Problem(f"{path}.mig-devices", entry["mig-devices"], text, f"what fits of {offers}"))

    def _cannot(self, path: str, entry: t.Mapping[str, t.Any], gpu: Gpu) -> None:
        """Among all GPUs of a host, one without MIG is passed over; one that is named was meant."""
        if entry["devices"] == ALL and not entry.get("device-filter"):
            self._notes.append(_not_capable(gpu))
            return
        text = f"is for {named(gpu)}, which has no MIG mode"
        allowed = "GPUs that can be partitioned, or mig-enabled: false for this one"
        value = entry["devices"] if entry["devices"] != ALL else entry["device-filter"]
        self._problems.append(
            Problem(f"{path}.{'devices' if entry['devices'] != ALL else 'device-filter'}", value, text, allowed)
        )


def _not_capable(gpu: Gpu) -> str:
    return f"{named(gpu)} is left alone: not MIG capable."


def _passes(filters: str | t.Sequence[str] | None, gpu: Gpu) -> bool:
    ids = [filters] if isinstance(filters, str) else list(filters or ())
    return not ids or any(_is_device(text, gpu) for text in ids)


def _is_device(text: str, gpu: Gpu) -> bool:
    device, _colon, subsystem = text.partition(":")
    if _number(device) != _number(gpu.device_id):
        return False
    return not subsystem or (bool(gpu.subsystem_id) and _number(subsystem) == _number(gpu.subsystem_id))


def _number(text: str | int) -> int:
    return text if isinstance(text, int) else int(text, 16)


def _is_meant(devices: str | t.Sequence[int | str], gpu: Gpu) -> bool:
    return devices == ALL or any(_is_gpu(device, gpu) for device in devices)


def _is_gpu(device: int | str, gpu: Gpu) -> bool:
    if isinstance(device, int):
        return device == gpu.index
    if UUID.fullmatch(device):
        return device.lower() == gpu.uuid.lower()
    return _pci(device) == _pci(gpu.pci_address)


def _pci(address: str) -> tuple[int, str]:
    """NVML writes 00000000:1B:00.0 what sysfs writes 0000:1b:00.0 and lspci 1b:00.0."""
    domain, _colon, rest = address.lower().rpartition(":")
    domain, _colon, bus = domain.rpartition(":")
    return int(domain or "0", 16), f"{bus}:{rest}"


def _absent_devices(path: str, devices: str | t.Sequence[int | str], gpus: t.Sequence[Gpu]) -> list[Problem]:
    if devices == ALL:
        return []
    present = ", ".join(f"{gpu.index} = {gpu.uuid} = {gpu.pci_address}" for gpu in gpus) or "none, this host has no GPU"
    return [
        Problem(f"{path}.devices", device, "is not a GPU of this host", present)
        for device in devices
        if not any(_is_gpu(device, gpu) for gpu in gpus)
    ]


def _wanted(entry: t.Mapping[str, t.Any]) -> Wanted:
    if not entry["mig-enabled"]:
        return Wanted(False)
    return Wanted(True, wanted_instances(entry["mig-devices"]))


def wanted_instances(counts: t.Mapping[str, int]) -> tuple[WantedInstance, ...]:
    """Return the GPU instances behind mig-devices, in a fixed order.

    Compute instances smaller than their GPU instance share GPU instances, the largest first, as long as there is room.
    """
    wanted: list[WantedInstance] = []
    parts: dict[str, list[int]] = {}
    room: dict[str, int] = {}
    for text, count in counts.items():
        name = parsed(text)
        if name.compute is None:
            wanted += [WantedInstance(str(name))] * count
        else:
            parts.setdefault(str(name.gpu_instance), []).extend([name.compute] * count)
            room[str(name.gpu_instance)] = name.slices
    for profile, slices in parts.items():
        wanted += [WantedInstance(profile, compute) for compute in _packed(slices, room[profile])]
    return tuple(sorted(wanted, key=lambda each: (each.profile_name, each.compute)))


def _packed(slices: t.Sequence[int], room: int) -> list[tuple[int, ...]]:
    packed: list[list[int]] = []
    for count in sorted(slices, reverse=True):
        place = next((members for members in packed if sum(members) + count <= room), None)
        if place is None:
            packed.append([count])
        else:
            place.append(count)
    return [tuple(members) for members in packed]


# --- the form of a document -------------------------------------------------------------------------------------------


def document_problems(document: Raw) -> list[Problem]:
    """Return everything that is wrong with the form of a document, whatever GPUs there are."""
    if not isinstance(document, dict):
        text = "is empty" if document in (None, "", []) else "is not a mapping"
        return [Problem("configuration", document, text, "version: v1 and mig-configs")]
    problems = _unknown_keys("configuration", document, TOP_KEYS)
    if document.get("version") != VERSION:
        problems.append(Problem("version", document.get("version"), "is not a version of this language", VERSION))
    configs = document.get("mig-configs")
    if not isinstance(configs, dict) or not configs:
        allowed = "a mapping of at least one name to a list of entries"
        return [*problems, Problem("mig-configs", configs, "has no layouts", allowed)]
    for name, entries in configs.items():
        problems += _layout_problems(name, entries)
    return problems


def _layout_problems(name: Raw, entries: Raw) -> list[Problem]:
    path = f"mig-configs.{name}"
    problems = []
    if isinstance(name, bool):
        text = "was a word such as off, on, yes or no, which YAML reads as a truth value"
        problems.append(Problem(path, name, text, 'the name in quotes, such as "off"'))
    elif not isinstance(name, str):
        problems.append(Problem(path, name, "is not a name", "text; a number in quotes"))
    if not isinstance(entries, list) or not entries:
        return [*problems, Problem(path, entries, "has no entries", "a list of at least one entry")]
    for position, entry in enumerate(entries):
        problems += _entry_problems(f"{path}[{position}]", entry)
    return problems


def _entry_problems(path: str, entry: Raw) -> list[Problem]:
    if not isinstance(entry, dict):
        return [Problem(path, entry, "is not a mapping", ", ".join(ENTRY_KEYS))]
    return [
        *_unknown_keys(path, entry, ENTRY_KEYS),
        *_filter_problems(f"{path}.device-filter", entry.get("device-filter")),
        *_devices_problems(f"{path}.devices", entry.get("devices")),
        *_mode_problems(path, entry),
    ]


def _unknown_keys(path: str, mapping: t.Mapping[Raw, Raw], known: t.Sequence[str]) -> list[Problem]:
    return [Problem(path, key, "is not a key here", ", ".join(known)) for key in mapping if key not in known]


def _filter_problems(path: str, filters: Raw) -> list[Problem]:
    if filters is None:
        return []
    allowed = 'device ids in quotes, such as "0x20B010DE" or "0x20B010DE:0x134F10DE", alone or in a list'
    if not isinstance(filters, (str, list)):
        return [Problem(path, filters, "is not text or a list", allowed)]
    ids = [filters] if isinstance(filters, str) else filters
    return [
        Problem(path, text, "is not a PCI device id of NVIDIA", allowed)
        for text in ids
        if not (isinstance(text, str) and (FILTER.fullmatch(text) or (text == "" and filters == "")))
    ]


def _devices_problems(path: str, devices: Raw) -> list[Problem]:
    allowed = "all, or a list of indexes, UUIDs (GPU-...) and PCI addresses (0000:1b:00.0)"
    if devices == ALL:
        return []
    if not isinstance(devices, list):
        return [Problem(path, devices, "is not a list", allowed)]
    return [Problem(path, device, "does not name a GPU", allowed) for device in devices if not _names_a_gpu(device)]


def _names_a_gpu(device: Raw) -> bool:
    if isinstance(device, str):
        return bool(UUID.fullmatch(device) or PCI_ADDRESS.fullmatch(device))
    return isinstance(device, int) and not isinstance(device, bool) and device >= 0


def _mode_problems(path: str, entry: t.Mapping[str, Raw]) -> list[Problem]:
    enabled, counts = entry.get("mig-enabled"), entry.get("mig-devices")
    if not isinstance(enabled, bool):
        return [Problem(f"{path}.mig-enabled", enabled, "is not true or false", "true or false, without quotes")]
    path = f"{path}.mig-devices"
    if not enabled:
        allowed = "no mig-devices while mig-enabled is false"
        return [Problem(path, counts, "cannot be had while MIG is off", allowed)] if counts else []
    if not isinstance(counts, dict):
        return [Problem(path, counts, "is not a mapping", '{"1g.10gb": 7}, or {} for MIG on without instances')]
    problems = [problem for name, count in counts.items() for problem in _count_problems(path, name, count)]
    if counts and not problems and not any(counts.values()):
        allowed = "at least one count above 0, or {} for MIG on without instances"
        problems.append(Problem(path, counts, "has only counts of 0", allowed))
    return problems


def _count_problems(path: str, name: Raw, count: Raw) -> list[Problem]:
    problems = []
    try:
        parsed(name if isinstance(name, str) else "")
    except NameProblem as problem:
        problems.append(Problem(path, name, str(problem), f"names such as {EXAMPLES}"))
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        problems.append(Problem(f"{path}.{name}", count, "is not a count", "0, 1, 2, ..."))
    return problems


def _shown(value: Raw) -> str:
    """A value as YAML would have it, short enough for a message."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- the other way ----------------------------------------------------------------------------------------------------


def export(gpus: t.Sequence[Gpu], name: str = "current") -> tuple[dict[str, t.Any], list[str]]:
    """Return a document that makes the present layouts again, and notes on what it cannot say.

    The language counts compute instances and has no starts, so the same instances may come back at other slices.
    """
    layouts: dict[str, dict[str, t.Any]] = {}
    notes = []
    for gpu in gpus:
        if not gpu.mig_capable:
            notes.append(f"{named(gpu)} is left out: not MIG capable.")
            continue
        entry: dict[str, t.Any] = {"mig-enabled": gpu.mode.current}
        if gpu.mode.current:
            entry["mig-devices"] = _exported_counts(gpu)
            notes += _lost_in_export(gpu, entry["mig-devices"])
        layouts.setdefault(repr(entry), {"devices": [], **entry})["devices"].append(gpu.index)
    return {"version": VERSION, "mig-configs": {name: list(layouts.values())}}, notes


def _exported_counts(gpu: Gpu) -> dict[str, int]:
    names = [name for instance in gpu.instances for name in _exported_names(gpu, instance)]
    return {name: names.count(name) for name in sorted(set(names))}


def _exported_names(gpu: Gpu, instance: GpuInstance) -> list[str]:
    profile = gpu.profile(instance.profile_id)
    slices = profile.slices if profile else 0
    name = gpu.profile_name(instance.profile_id)
    parts = [each.slices for each in instance.compute_instances] or [slices]
    return [name if part == slices else f"{part}c.{name}" for part in parts]


def _lost_in_export(gpu: Gpu, counts: t.Mapping[str, int]) -> list[str]:
    present = [
        (
            gpu.profile_name(each.profile_id),
            tuple(sorted((part.slices for part in each.compute_instances), reverse=True)),
        )
        for each in gpu.instances
    ]
    made = [
        (each.profile_name, tuple(sorted(each.compute or (parsed(each.profile_name).slices,), reverse=True)))
        for each in wanted_instances(counts)
    ]
    if sorted(present) == sorted(made):
        return []
    return [f"{named(gpu)}: how its compute instances share GPU instances cannot be written exactly."]
