# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a role has to write of one state document, given the differences the survey found in it.

With fast, only items the survey found different are written. Without it every item goes to its writer, which finds out
for itself; only what no writer can find out stays with the survey: whether a service or an initramfs is older than a
file, whether a daemon's state file disagrees with it, and whether a package transaction was interrupted.
"""

from __future__ import annotations

import os
import typing as t

# Folders that every system has; making sure of them would cost a connection each.
STANDARD_FOLDERS = (
    "/etc",
    "/etc/apt/preferences.d",
    "/etc/apt/sources.list.d",
    "/etc/default",
    "/etc/modprobe.d",
    "/etc/modules-load.d",
    "/etc/sysconfig",
    "/etc/sysctl.d",
    "/etc/systemd/system",
    "/etc/yum.repos.d",
)

Document = t.Mapping[str, t.Any]
Item = t.Mapping[str, t.Any]


def document_work(document: Document, differences: t.Sequence[Item], fast: bool = True) -> dict[str, t.Any]:
    """Return the items to write, by section; see the filter of this name for each.

    All packages are installed as soon as one differs: they are one transaction, and depend on each other's versions.
    """
    different = {(found["kind"], found["name"]) for found in differences}

    def due(section: str, kind: str, key: str = "name") -> list[Item]:
        items = document.get(section) or []
        return [item for item in items if not fast or (kind, item[key]) in different]

    files = due("files", "file", "path")
    packages = due("packages", "package")
    return {
        "unfinished": any(kind == "unfinished" for kind, _name in different),
        "first_files": _present(item for item in files if item.get("first")),
        "files": _present(item for item in files if not item.get("first")),
        "absent_files": [item["path"] for item in files if _is_absent(item)],
        "folders": _folders(_present(files)),
        "refresh_index": any(kind == "package" for kind, _name in different),
        "install": _present(document.get("packages") or []) if packages else [],
        "remove": [item["name"] for item in packages if _is_absent(item)],
        "hold": [item["name"] for item in _wished_hold(document, True) if not fast or _hold_is_due(item, different)],
        "release": [item["name"] for item in _wished_hold(document, False) if ("hold", item["name"]) in different],
        "generated": list(document.get("generated") or []),
        "initramfs": any(kind == "initramfs" for kind, _name in different),
        "modules": due("modules", "module"),
        "checkpoints": [
            item for item in document.get("checkpoints") or [] if ("checkpoint", item["path"]) in different
        ],
        "mig": bool(document.get("mig")) and (not fast or any(kind == "mig" for kind, _name in different)),
        "services": due("services", "service"),
        "stale_services": [found["name"] for found in differences if _is_stale(found)],
    }


def package_specs(packages: t.Iterable[Item], package_format: str) -> list[str]:
    """Return packages as ansible.builtin.apt or ansible.builtin.dnf names them, at exactly their version.

    For apt a version without revision gets "-*": 580.95.05 must not match 580.95.051. dnf compares versions itself.
    """
    return [_spec(item["name"], item.get("version"), package_format) for item in packages]


def _spec(name: str, version: str | None, package_format: str) -> str:
    if not version:
        return name
    if package_format == "yum":
        return f"{name}-{version}"
    return f"{name}={version}" if "-" in version else f"{name}={version}-*"


def _wished_hold(document: Document, hold: bool) -> list[Item]:
    """The packages that must be held, or must not be; null leaves the hold alone."""
    return [item for item in _present(document.get("packages") or []) if item.get("hold") is hold]


def _hold_is_due(item: Item, different: t.Collection[tuple[str, str]]) -> bool:
    return ("hold", item["name"]) in different or ("package", item["name"]) in different


def _is_absent(item: Item) -> bool:
    return item.get("state", "present") == "absent"


def _present(items: t.Iterable[Item]) -> list[Item]:
    return [item for item in items if not _is_absent(item)]


def _folders(files: t.Iterable[Item]) -> list[str]:
    parents = dict.fromkeys(os.path.dirname(item["path"]) for item in files)
    return [folder for folder in parents if folder not in STANDARD_FOLDERS]


def _is_stale(found: Item) -> bool:
    return bool(found["kind"] == "service" and "restarted for" in found["want"])
