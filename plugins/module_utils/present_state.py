# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads what state documents mention, and nothing else, with as few programs as there are subjects.

At most one package query, one `systemctl show`, one `systemctl is-enabled`, and each generated file's own program once.

When a unit started is known to the microsecond, on the clock that counts from boot; it is turned into time of day with
the clock as it runs now, so that a clock set right after boot does no harm. Files carry the time of day of their last
change. The start of the main process counts and not the moment the unit said it was ready: what changed in between may
not have been read. Limits:

- A file written in the wrong time, before the clock was set, compares wrongly.
- The boot clock of a machine that was suspended, or of a guest that was paused, stood still meanwhile; files written
  between the start of a unit and the pause may seem older than the start.
- The kernel stamps files with its last tick, up to 10 ms early.
- A file that was removed leaves no time behind, so only the run that removes it knows of the restart.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.drift import (
    ANY_VERSION,
    CheckpointState,
    FileState,
    GeneratedContent,
    ModuleState,
    PackageState,
    Present,
    ServiceState,
)
from ansible_collections.onprem.gpu.plugins.module_utils.driver_facts import loaded_driver_version, loaded_modules
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host, HostError, command_failure
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import (
    Package,
    locked_versions,
    package_specs,
)
from ansible_collections.onprem.gpu.plugins.module_utils.os_facts import os_family, read_kernel, read_release
from ansible_collections.onprem.gpu.plugins.module_utils.package_queries import (
    all_packages,
    rpm_packages,
    versionlock_patterns,
)
from ansible_collections.onprem.gpu.plugins.module_utils.state_document import Documents, Item
from ansible_collections.onprem.gpu.plugins.module_utils.units import show_units

GENERATE_TIMEOUT_SECONDS = 60.0
NANOSECONDS_IN_MICROSECOND = 1000

# dpkg keeps numbered files here only while it works, or when it was killed.
DPKG_JOURNAL = "/var/lib/dpkg/updates"
# rpm installs several versions of these side by side on purpose; of all others it means a killed transaction.
SIDE_BY_SIDE = re.compile(r"kernel($|-)|gpg-pubkey$")

UNIT_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "ExecMainStartTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
)
# Where systemctl is-enabled succeeds, systemd_service takes the unit for enabled, but for these answers as a whole.
ENABLED_STATES = ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated")
DISABLED_WITHOUT_LINKS = (("enabled-runtime",), ("indirect",), ("alias",))
# Where Debian's and Red Hat's tools put the initramfs of a kernel.
INITRAMFS_PATHS = ("/boot/initrd.img-{kernel}", "/boot/initramfs-{kernel}.img")


def read_present(host: Host, documents: Documents) -> Present:
    """The present state of everything the documents mention; raises HostError when a part of it cannot be known."""
    items = {section: _all(documents, section) for section in ("packages", "files", "generated", "modules", "services")}
    checkpoints = _all(documents, "checkpoints")
    initramfs = [document["initramfs"] for document in documents.values() if document["initramfs"]]
    manager, packages, unfinished = _packages(host, [item["name"] for item in items["packages"]])
    return Present(
        package_manager=manager,
        packages=packages,
        unfinished=unfinished,
        files={item["path"]: _file(host, item["path"]) for item in items["files"] + items["generated"]},
        generated={argv: _generate(host, argv) for argv in {tuple(item["argv"]): None for item in items["generated"]}},
        modules=_modules(host, [item["name"] for item in items["modules"]]),
        services=_services(host, items["services"]),
        checkpoints={(item["path"], item["key"]): _checkpoint(host, item["path"], item["key"]) for item in checkpoints},
        modified_ns=_modified(host, items["services"], initramfs),
        initramfs_ns=_initramfs(host) if initramfs else None,
    )


def _all(documents: Documents, section: str) -> list[Item]:
    return [item for document in documents.values() for item in document[section]]


# --- packages ---------------------------------------------------------------------------------------------------------


def _packages(host: Host, names: t.Sequence[str]) -> tuple[str, dict[str, PackageState], dict[str, str]]:
    """The package manager, the state of every named package, and what an interrupted transaction left half done."""
    family = os_family(read_release(host))
    unique = list(dict.fromkeys(names))
    if not unique:
        return "", {}, {}
    if family == "debian":
        found = all_packages(host, family)
        return "dpkg", _dpkg_states(unique, found), _dpkg_unfinished(host, found)
    if family == "redhat":
        found = rpm_packages(host, unique)
        return "rpm", _rpm_states(unique, found, versionlock_patterns(host)), _rpm_unfinished(found)
    raise HostError("/etc/os-release names neither a Debian nor a Red Hat system, so its packages are unknown")


def _dpkg_states(names: t.Sequence[str], found: t.Sequence[Package]) -> dict[str, PackageState]:
    native = next((package.architecture for package in found if package.name == "dpkg"), None)
    known = {package.name: package for package in found if package.architecture in (native, "all")}
    return {name: _dpkg_state(known.get(name)) for name in names}


def _dpkg_state(package: Package | None) -> PackageState:
    if package is None:
        return PackageState()
    return PackageState(
        installed=(package.version,) if package.installed else (),
        held_at=(ANY_VERSION,) if package.held else (),
    )


def _dpkg_unfinished(host: Host, found: t.Sequence[Package]) -> dict[str, str]:
    half_done = {package.name: f"is {package.unfinished}" for package in found if package.unfinished}
    if any(name.isdigit() for name in host.names(DPKG_JOURNAL)):
        half_done["dpkg"] = "was interrupted"
    return half_done


def _rpm_states(
    names: t.Sequence[str], found: t.Sequence[Package], patterns: t.Sequence[str]
) -> dict[str, PackageState]:
    # A document may name one version of a package, such as the kernel headers of the running kernel.
    by_name = {name: [package for package in found if name in package_specs(package)] for name in names}
    return {
        name: PackageState(
            installed=tuple(dict.fromkeys(package.version for package in installed)),
            held_at=tuple(locked_versions(installed[0].name if installed else name, installed, patterns)),
        )
        for name, installed in by_name.items()
    }


def _rpm_unfinished(found: t.Sequence[Package]) -> dict[str, str]:
    versions: dict[tuple[str, str], list[str]] = {}
    for package in found:
        versions.setdefault((package.name, package.architecture), []).append(package.version)
    return {
        name: f"is installed twice ({', '.join(several)})"
        for (name, _architecture), several in versions.items()
        if len(several) > 1 and not SIDE_BY_SIDE.match(name)
    }


# --- files ------------------------------------------------------------------------------------------------------------


def _file(host: Host, path: str) -> FileState:
    status = host.status(path)
    if status is None:
        return FileState()
    content = host.read_bytes(path) if status.kind == "file" else b""
    if content is None:
        raise HostError(f"{path} cannot be read; run the survey as root")
    return FileState(status.kind, status.mode, status.owner, status.uid, status.group, status.gid, content)


def _generate(host: Host, argv: tuple[str, ...]) -> GeneratedContent:
    result = host.run(argv, GENERATE_TIMEOUT_SECONDS)
    if result is None:
        return GeneratedContent(problem=f"{argv[0]} is not installed")
    if result.rc != 0:
        return GeneratedContent(problem=f"{argv[0]}: {command_failure(result)}")
    return GeneratedContent(result.stdout.encode("utf-8"))


def _modified(host: Host, services: t.Sequence[Item], initramfs: t.Sequence[Item]) -> dict[str, int]:
    paths = [path for item in services for path in item["restarts_on"]]
    paths += [path for item in initramfs for path in item["newer_than"]]
    times = {path: host.modified_ns(path) for path in dict.fromkeys(paths)}
    return {path: moment for path, moment in times.items() if moment is not None}


def _initramfs(host: Host) -> int | None:
    kernel = read_kernel(host)
    times = [host.modified_ns(path.format(kernel=kernel)) for path in INITRAMFS_PATHS]
    return next((moment for moment in times if moment is not None), None)


def _checkpoint(host: Host, path: str, key: str) -> CheckpointState:
    content = host.read_text(path)
    if content is None:
        return CheckpointState()
    try:
        return CheckpointState(True, functools.reduce(operator.getitem, key.split("."), json.loads(content)))
    except (ValueError, TypeError):
        return CheckpointState(True, problem="no JSON object")
    except KeyError:
        return CheckpointState(True, problem=f"no {key}")


# --- modules and services ---------------------------------------------------------------------------------------------


def _modules(host: Host, names: t.Sequence[str]) -> dict[str, ModuleState]:
    present = {*loaded_modules(host), *_built_in_modules(host)} if names else set()
    return {name: _module(host, name.replace("-", "_"), present) for name in names}


def _built_in_modules(host: Host) -> set[str]:
    """Modules that are part of the running kernel, from lines such as "kernel/net/bridge/br_netfilter.ko"."""
    listed = host.read_text(f"/lib/modules/{read_kernel(host)}/modules.builtin") or ""
    return {os.path.basename(line)[: -len(".ko")].replace("-", "_") for line in listed.splitlines()}


def _module(host: Host, name: str, present: t.Container[str]) -> ModuleState:
    folder = f"/sys/module/{name}"
    # What is built into the kernel is not in /proc/modules; its folder, where it has one, has no initstate.
    built_in = host.exists(folder) and not host.exists(f"{folder}/initstate")
    if name not in present and not built_in:
        return ModuleState()
    version = loaded_driver_version(host) if name == "nvidia" else host.read_value(f"{folder}/version")
    return ModuleState(True, version)


def _services(host: Host, items: t.Sequence[Item]) -> dict[str, ServiceState]:
    names = list(dict.fromkeys(item["name"] for item in items))
    units = show_units(host, names, UNIT_PROPERTIES)
    asked = [name for name in names if units[name].get("LoadState") != "not-found"]
    answers = _enabled_answers(host, asked, units) if _anyone_asks(items) else {}
    offset = host.boot_clock_offset_ns()
    return {name: _service(units[name], answers.get(name, ("",)), offset) for name in names}


def _anyone_asks(items: t.Sequence[Item]) -> bool:
    return any(item["enabled"] is not None or item["masked"] is not None for item in items)


def _enabled_answers(
    host: Host, names: t.Sequence[str], units: t.Mapping[str, t.Mapping[str, str]]
) -> dict[str, tuple[str, ...]]:
    """What is on disk now, as systemd_service asks it; the manager remembers an answer longer than it is true.

    An answer is the state, and after it the links by which the unit is enabled, if systemd tells them.
    """
    result = host.run(("systemctl", "is-enabled", "--full", "--", *names)) if names else None
    answers = parse_is_enabled(result.stdout) if result else []
    if len(answers) == len(names):
        return dict(zip(names, answers))
    return {name: (units[name].get("UnitFileState", ""),) for name in names}


def parse_is_enabled(text: str) -> list[tuple[str, ...]]:
    """One tuple a unit: its state, then the indented lines below it."""
    answers: list[tuple[str, ...]] = []
    for line in text.splitlines():
        if line.startswith(" ") and answers:
            answers[-1] += (line.strip(),)
        elif line.strip():
            answers.append((line.strip(),))
    return answers


def _service(unit: t.Mapping[str, str], answer: tuple[str, ...], boot_clock_offset_ns: int) -> ServiceState:
    stamps = [unit.get("ExecMainStartTimestampMonotonic", ""), unit.get("ActiveEnterTimestampMonotonic", "")]
    started = next((int(stamp) for stamp in stamps if stamp.isdigit() and int(stamp) > 0), None)
    return ServiceState(
        installed=unit.get("LoadState") != "not-found",
        active_state=unit.get("ActiveState", "inactive"),
        enabled_state=answer[0],
        enabled=answer[0] in ENABLED_STATES and answer not in DISABLED_WITHOUT_LINKS,
        started_ns=None if started is None else started * NANOSECONDS_IN_MICROSECOND + boot_clock_offset_ns,
    )
