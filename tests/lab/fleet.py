# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet file: what stands in the racks, read and checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import settings
import yaml
from progress import LabError

OPERATING_SYSTEMS = ("debian12", "ubuntu2404", "el9")
SECURE_BOOT = ("enabled", "disabled", "unsupported")
NOUVEAU = ("loaded", "absent")
MOST_HOSTS = 200  # the bridge's network has no room for more
MOST_GPUS = 16
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class Gpus:
    """The GPUs of one host; all of one model."""

    model: str
    count: int


@dataclass(frozen=True)
class Kernel:
    """What the kernel of a host brings along before anybody touches it."""

    nouveau: str  # loaded | absent


@dataclass(frozen=True)
class Host:
    """One host of the fleet."""

    name: str
    number: int  # last part of its addresses
    os: str
    gpus: Gpus
    numa_nodes: int
    nvswitches: int
    secure_boot: str  # enabled | disabled | unsupported (booted by a BIOS, no EFI)
    kernel: Kernel
    passthrough: bool = False  # a virtual machine that was handed its GPUs: nobody inside can reset them

    @property
    def address(self) -> str:
        return f"10.88.0.{self.number}"

    @property
    def pod_network(self) -> str:
        return f"10.89.{self.number}.0/24"


@dataclass(frozen=True)
class Kwok:
    """Nodes without machines, for the control plane's sake."""

    nodes: int
    gpus: int  # nvidia.com/gpu of each node


@dataclass(frozen=True)
class Fleet:
    """Everything a fleet file says."""

    hosts: tuple[Host, ...]
    kwok: Kwok

    def host(self, name: str) -> Host:
        """Return a host by name; raise LabError naming those that exist."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"no host {name!r} in the fleet; there are: {', '.join(host.name for host in self.hosts)}")


def read(path: Path, models: Collection[str]) -> Fleet:
    """Read a fleet file. Raise LabError naming the file, the host, the value and what is allowed."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"cannot read the fleet file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise LabError(f"the fleet file {path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return parse(content, models)
    except LabError as error:
        raise LabError(f"fleet file {path}: {error}") from error


def parse(content: Any, models: Collection[str]) -> Fleet:
    """Turn the content of a fleet file into a Fleet; ``models`` are the GPU models the lab can simulate."""
    top = _mapping(content, "the file", allowed=("hosts", "kwok"))
    entries = top.get("hosts", [])
    if not isinstance(entries, list):
        raise LabError(f"hosts is {entries!r}; it must be a list")
    if len(entries) > MOST_HOSTS:
        raise LabError(f"hosts has {len(entries)} entries; at most {MOST_HOSTS} fit into the lab's network")
    hosts = tuple(
        _host(entry, f"hosts[{index}]", settings.FIRST_HOST_NUMBER + index, models)
        for index, entry in enumerate(entries)
    )
    names = [host.name for host in hosts]
    for name in names:
        if names.count(name) > 1:
            raise LabError(f"host {name}: the name is used {names.count(name)} times; names must be unique")
    return Fleet(hosts=hosts, kwok=_kwok(top.get("kwok", {})))


def _host(entry: Any, place: str, number: int, models: Collection[str]) -> Host:
    known = ("name", "os", "gpus", "numa_nodes", "nvswitches", "secure_boot", "kernel", "passthrough")
    name = _mapping(entry, place).get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise LabError(f"{place}: name is {name!r}; it must be 1 to 40 lower case letters, digits and dashes")
    where = f"host {name}"
    values = _mapping(entry, where, allowed=known)
    gpus = _gpus(values.get("gpus"), where, models)
    kernel = _mapping(values.get("kernel", {}), f"{where}: kernel", allowed=("nouveau",))
    return Host(
        name=name,
        number=number,
        os=_choice(values.get("os"), f"{where}: os", OPERATING_SYSTEMS),
        gpus=gpus,
        numa_nodes=_number(values.get("numa_nodes", 1), f"{where}: numa_nodes", 1, 8),
        nvswitches=_number(values.get("nvswitches", 0), f"{where}: nvswitches", 0, 8),
        secure_boot=_choice(values.get("secure_boot", "disabled"), f"{where}: secure_boot", SECURE_BOOT),
        kernel=Kernel(nouveau=_choice(kernel.get("nouveau", "loaded"), f"{where}: kernel.nouveau", NOUVEAU)),
        passthrough=_truth(values.get("passthrough", False), f"{where}: passthrough"),
    )


def _gpus(value: Any, where: str, models: Collection[str]) -> Gpus:
    values = _mapping(value, f"{where}: gpus", allowed=("model", "count"))
    return Gpus(
        model=_choice(values.get("model"), f"{where}: gpus.model", sorted(models)),
        count=_number(values.get("count"), f"{where}: gpus.count", 0, MOST_GPUS),
    )


def _kwok(value: Any) -> Kwok:
    values = _mapping(value, "kwok", allowed=("nodes", "gpus"))
    return Kwok(
        nodes=_number(values.get("nodes", 0), "kwok.nodes", 0, 5000),
        gpus=_number(values.get("gpus", 8), "kwok.gpus", 0, MOST_GPUS),
    )


def _mapping(value: Any, where: str, allowed: Collection[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise LabError(f"{where} is {value!r}; it must be a mapping")
    if allowed and (unknown := sorted(set(value) - set(allowed), key=str)):
        raise LabError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(allowed)}")
    return value


def _choice(value: Any, where: str, allowed: Collection[str]) -> str:
    if value not in allowed:
        raise LabError(f"{where} is {value!r}; allowed: {', '.join(allowed)}")
    return str(value)


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise LabError(f"{where} is {value!r}; allowed: true, false")
    return value


def _number(value: Any, where: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise LabError(f"{where} is {value!r}; it must be a whole number from {least} to {most}")
    return value
