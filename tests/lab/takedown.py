# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes a lab off the machine, whole or half made, this checkout's or another's.

Nothing here relies on what the lab remembers about itself. Everything is found by what it is: processes by the tag in
their environment or by their cgroup, the rest by name. The marker only tells where the state folder is and what
ip_forward was.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import hosts
import network
import processes
import settings
from progress import LabError, Step

_CGROUPS = Path("/sys/fs/cgroup")
_NSPAWN = Path("/run/systemd/nspawn")


def read_marker() -> dict[str, str]:
    """Return what the lab on this machine says about itself; empty where there is none."""
    try:
        content = json.loads(settings.MARKER.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_marker() -> None:
    """Claim the machine for this checkout's lab, and remember what the machine's ip_forward was before."""
    if not settings.MARKER.exists():
        marker = {"state": str(settings.STATE), "ip_forward": network.IP_FORWARD.read_text().strip()}
        settings.MARKER.write_text(json.dumps(marker) + "\n")


def leftovers() -> dict[str, list[str]]:
    """Return everything of any lab that is on the machine now, by kind; empty when there is nothing."""
    found = {
        "processes": [str(pid) for pid in _processes()],
        "mounts": [str(mount) for mount in _mounts()],
        "network namespaces": _namespaces(),
        "links": _links(),
        "nftables": _tables(),
        "cgroups": [str(place) for place in _cgroups()],
        "container folders": [str(place) for place in _container_folders()],
        "markers": [str(settings.MARKER)] if settings.MARKER.exists() else [],
    }
    return {kind: names for kind, names in found.items() if names}


def take_down(step: Step) -> None:
    """Remove every lab from the machine. Raises LabError naming what could not be removed."""
    state = Path(read_marker().get("state", settings.STATE))
    _end_processes()
    for mount in _mounts():
        _remove_container_lock(mount)
        step.run(["umount", "-l", mount])
    for place in _container_folders():
        place.rmdir()
    for name in _namespaces():
        step.run(["ip", "netns", "delete", name])
    for name in _links():
        step.run(["ip", "link", "delete", name], check=False)  # a cable's end goes with the other one
    for table in _tables():
        step.run(["nft", "delete", "table", "ip", table])
    _remove_cgroups()
    _restore_ip_forward()
    _remove_state(state)
    settings.MARKER.unlink(missing_ok=True)
    if left := leftovers():
        raise LabError("still there: " + "; ".join(f"{kind} {', '.join(names)}" for kind, names in left.items()))


def _end_processes() -> None:
    """Supervisors go first, else they would start hosts again; then whatever still lives in the hosts."""
    processes.end(_tagged_processes(), seconds=0)
    for cgroup in sorted({place.name for place in _cgroups()}):
        hosts.end_cgroup(cgroup)


def _processes() -> list[int]:
    inside = [pid for cgroup in {place.name for place in _cgroups()} for pid in hosts.cgroup_processes(cgroup)]
    return sorted({*_tagged_processes(), *inside})


def _tagged_processes() -> list[int]:
    tag = f"{settings.PROCESS_TAG}=".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        tagged = any(variable.startswith(tag) for variable in environment.split(b"\0"))
        if tagged and processes.start_time(int(entry.name)) is not None:
            found.append(int(entry.name))
    return found


def _mounts() -> list[Path]:
    """Mounts of hosts' roots, innermost first. An overlay's source carries the lab's name prefix."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, source = tail.split()[:2]
        if kind == "overlay" and source.startswith(settings.NAME_PREFIX):
            found.append(Path(fields.split()[4].encode().decode("unicode_escape")))
    return found[::-1]


def _remove_container_lock(root: Path) -> None:
    """A killed systemd-nspawn leaves its lock on the root folder behind."""
    identity = root.stat()
    (_NSPAWN / f"locks/inode-{identity.st_dev}:{identity.st_ino}").unlink(missing_ok=True)


def _container_folders() -> list[Path]:
    return sorted((_NSPAWN / "propagate").glob(f"{settings.NAME_PREFIX}*"))


def _namespaces() -> list[str]:
    return sorted(path.name for path in Path("/run/netns").glob(f"{settings.NAME_PREFIX}*"))


def _links() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net").glob(f"{settings.BRIDGE}*"))


def _tables() -> list[str]:
    if shutil.which("nft") is None:  # it is installed with the first lab
        return []
    listing = subprocess.run(["nft", "list", "tables", "ip"], capture_output=True, text=True, check=False).stdout
    return [settings.NFT_TABLE] if f"table ip {settings.NFT_TABLE}" in listing.splitlines() else []


def _cgroups() -> list[Path]:
    tops = [*_CGROUPS.glob(f"*/{settings.NAME_PREFIX}*"), *_CGROUPS.glob(f"{settings.NAME_PREFIX}*")]
    return sorted(place for place in tops if place.is_dir())


def _remove_cgroups() -> None:
    """A cgroup whose last process has just died may stay busy for a moment."""
    for top in _cgroups():
        for attempt in range(50):
            for place in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                _remove_folder(place)
            if _remove_folder(top):
                break
            time.sleep(0.02 * (attempt + 1))


def _remove_folder(place: Path) -> bool:
    try:
        place.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _restore_ip_forward() -> None:
    before = read_marker().get("ip_forward")
    if before is not None:
        network.IP_FORWARD.write_text(before + "\n")


def _remove_state(state: Path) -> None:
    """Remove what the lab kept, but not its logs."""
    for name in ("bin", "control-plane", "hosts", "run", "ssh"):
        shutil.rmtree(state / name, ignore_errors=True)
    for name in ("kubeconfig", "inventory.yml", "fleet.yml", "repositories"):
        (state / name).unlink(missing_ok=True)
