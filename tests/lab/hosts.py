# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's hosts: systemd-nspawn on an overlay, with a network namespace and cgroups of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import network
import processes
import settings
import silicon
from fleet import Fleet, Host
from progress import LabError, Step

BOOT_SECONDS = 60  # a host answers SSH about a second after its start; a busy machine may take far longer


def folder(host: Host) -> Path:
    """Return where a host's own state lives."""
    return settings.HOSTS / host.name


def root(host: Host) -> Path:
    """Return a host's root file system as the machine sees it (while the host exists)."""
    return folder(host) / "root"


def process_name(host: Host) -> str:
    """Return the name under which a host's supervisor is recorded."""
    return f"host-{host.name}"


def prepare_ssh(step: Step) -> None:
    """Make the administrator's key."""
    settings.SSH.mkdir(parents=True, exist_ok=True)
    if not settings.SSH_KEY.exists():
        step.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "onprem.gpu lab", "-f", settings.SSH_KEY])


def prepare(host: Host, fleet: Fleet, base: Path, step: Step) -> None:
    """Make a host's disks, identity and hardware, and mount its root; nothing happens where that is done already."""
    place = folder(host)
    for name in ("upper", "work", "root", "containerd", "kubelet", "silicon"):
        (place / name).mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(place / "root"):
        layers = f"lowerdir={base},upperdir={place}/upper,workdir={place}/work"
        step.run(["mount", "-t", "overlay", "-o", layers, f"{settings.NAME_PREFIX}{host.name}", place / "root"])
    silicon.prepare_host(host, place / "silicon")  # keeps the state of a host that has one
    if not (place / "prepared").exists():
        _personalise(host, fleet, step)
        (place / "prepared").touch()


def start(host: Host) -> None:
    """Power a host on; nothing happens where it runs."""
    processes.start(
        process_name(host),
        [
            settings.LAB_SOURCE / "host" / "supervise",
            host.name,
            network.namespace(host),
            root(host),
            folder(host),
            settings.IMAGES,
        ],
    )


def wait_for_ssh(hosts: Iterable[Host], seconds: float = BOOT_SECONDS) -> None:
    """Wait until every host's sshd greets; raise LabError naming the ones that do not."""
    waiting = list(hosts)
    deadline = time.monotonic() + seconds
    while waiting := [host for host in waiting if not _greets(host)]:
        if time.monotonic() > deadline:
            names = ", ".join(f"{host.name} ({processes.log_of(process_name(host))})" for host in waiting)
            raise LabError(f"no SSH after {seconds:.0f} s on {names}")
        time.sleep(0.1)


def ssh(host: Host, command: str, *, check: bool = True, seconds: float = 60) -> str:
    """Run a shell command on a host as its administrator and return its output. Raises LabError when it fails."""
    done = subprocess.run(
        ["ssh", "-F", settings.SSH_CONFIG, host.name, command],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if check and done.returncode != 0:
        raise LabError(f"{host.name}: {command!r} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def boot_id(host: Host) -> str | None:
    """Return the id of a host's current boot, or None when it does not answer."""
    try:
        return ssh(host, "cat /proc/sys/kernel/random/boot_id", seconds=10).strip()
    except (LabError, subprocess.TimeoutExpired):
        return None


def reboot(host: Host) -> None:
    """Reboot a host the orderly way and wait until it is back with a new boot id."""
    before = boot_id(host)
    ssh(host, "sudo systemctl reboot", check=False)
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        if (now := boot_id(host)) is not None and now != before:
            return
        time.sleep(0.2)
    raise LabError(f"{host.name}: no new boot after {BOOT_SECONDS} s (log: {processes.log_of(process_name(host))})")


def power_off(host: Host) -> None:
    """Take a host's power away at once, as a pulled plug does; its disks stay."""
    processes.stop(process_name(host), seconds=0)
    end_cgroup(f"{settings.NAME_PREFIX}{host.name}")


def power_cycle(host: Host) -> None:
    """Pull the plug, put it back and wait for SSH."""
    power_off(host)
    start(host)
    wait_for_ssh([host])


def wipe(host: Host, step: Step) -> None:
    """Power a host off and throw away its disks and hardware state; the next prepare makes it as delivered."""
    power_off(host)
    place = folder(host)
    if os.path.ismount(place / "root"):
        step.run(["umount", "-l", place / "root"])
    if place.exists():
        shutil.rmtree(place)


def end_cgroup(cgroup: str) -> None:
    """Kill everything inside a lab cgroup and wait until it is empty."""
    deadline = time.monotonic() + 10
    while pids := cgroup_processes(cgroup):
        if time.monotonic() > deadline:
            raise LabError(f"processes in cgroup {cgroup} do not go: {pids}")
        processes.end(pids, 0)


def cgroup_processes(cgroup: str) -> list[int]:
    """Return the processes in a lab cgroup and below, whatever hierarchy they are in."""
    found: set[int] = set()
    for top in Path("/sys/fs/cgroup").glob(f"*/{cgroup}"), Path("/sys/fs/cgroup").glob(cgroup):
        for place in top:
            for listing in place.rglob("cgroup.procs"):
                try:
                    found.update(int(line) for line in listing.read_text().split())
                except OSError:
                    continue  # the cgroup went away meanwhile
    return sorted(found - {0})


def write_ssh_files(fleet: Fleet) -> None:
    """Write known_hosts with the hosts' pinned keys, and a configuration for plain ssh."""
    lines = [
        f"Host *\n  User {settings.ADMIN_USER}\n  IdentityFile {settings.SSH_KEY}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {settings.KNOWN_HOSTS}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
    ]
    keys = []
    for host in fleet.hosts:
        public = (root(host) / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        keys.append(f"{host.name},{host.address} {public[0]} {public[1]}\n")
        lines.append(f"Host {host.name}\n  HostName {host.address}\n")
    settings.KNOWN_HOSTS.write_text("".join(keys))
    # The first value ssh finds wins, so the hosts' own blocks come before the general one.
    settings.SSH_CONFIG.write_text("\n".join([*lines[1:], lines[0]]))


def _personalise(host: Host, fleet: Fleet, step: Step) -> None:
    """Give a host its name, machine id, host key, administrator's key, resolver and pod network."""
    etc = root(host) / "etc"
    (etc / "hostname").write_text(f"{host.name}\n")
    machine = uuid.uuid5(uuid.NAMESPACE_DNS, f"{host.name}.{settings.STATE}")
    (etc / "machine-id").write_text(f"{machine.hex}\n")
    names = [f"{other.address} {other.name}" for other in fleet.hosts]
    (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", "::1 localhost", *names]) + "\n")
    (etc / "resolv.conf").unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", etc / "resolv.conf")
    key = etc / "ssh/ssh_host_ed25519_key"
    key.unlink(missing_ok=True)
    step.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", key])
    authorized = root(host) / f"home/{settings.ADMIN_USER}/.ssh/authorized_keys"
    shutil.copy(settings.SSH_KEY.with_suffix(".pub"), authorized)
    os.chown(authorized, 1000, 1000)
    authorized.chmod(0o600)
    cni = etc / "cni/net.d/10-lab.conflist"
    cni.parent.mkdir(parents=True, exist_ok=True)
    cni.write_text(network.cni_configuration(host))


def _greets(host: Host) -> bool:
    try:
        with socket.create_connection((host.address, 22), timeout=1) as connection:
            connection.settimeout(2)
            return connection.recv(4).startswith(b"SSH")
    except OSError:
        return False
