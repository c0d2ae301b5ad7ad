# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the lab."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import binaries
import control_plane
import fleet as fleet_file
import hosts
import images
import inventory
import kwok
import network
import operator_images
import packages
import prerequisites
import processes
import rootfs
import settings
import silicon
import status as status_report
import takedown
from fleet import Fleet
from progress import LabError, Progress, Step

KEPT_FLEET = settings.STATE / "fleet.yml"  # the fleet file of the lab that is up


def up(arguments: argparse.Namespace) -> int:
    """Bring the lab up; every step does only what is missing."""
    prerequisites.check_machine()
    wanted = (arguments.fleet or _kept_or_default()).resolve()
    fleet = fleet_file.read(wanted, silicon.MODELS)
    progress = Progress(settings.LOGS)
    with _only_one_at_a_time():
        _make_way(wanted, progress)
        prerequisites.install_missing(progress)
        _bring_up(fleet, wanted, progress)
    print(f"[{progress.elapsed:6.1f} s] the lab is up")
    return 0


def down(_arguments: argparse.Namespace) -> int:
    """Take every lab off this machine."""
    prerequisites.check_machine()
    progress = Progress(settings.LOGS)
    with _only_one_at_a_time():
        if not takedown.leftovers():
            print("no lab on this machine")
            return 0
        with progress.step("Take down") as step:
            takedown.take_down(step)
    print(f"[{progress.elapsed:6.1f} s] the lab is down; logs stay in {settings.LOGS}")
    return 0


def status(_arguments: argparse.Namespace) -> int:
    """Show what is there."""
    owner = takedown.read_marker().get("state")
    if owner is None:
        print("no lab on this machine")
        return 1
    if Path(owner) != settings.STATE:
        print(f"the lab on this machine belongs to another checkout: {owner}")
        return 1
    return 0 if status_report.show(_running_fleet()) else 1


def reset(arguments: argparse.Namespace) -> int:
    """Make hosts as delivered."""
    prerequisites.check_machine()
    fleet = _running_fleet()
    chosen = [fleet.host(name) for name in arguments.hosts] or list(fleet.hosts)
    progress = Progress(settings.LOGS)
    with _only_one_at_a_time(), progress.step("Reset hosts") as step:
        programs = binaries.folder()
        names = [host.name for host in chosen]
        control_plane.kubectl(programs, "delete", "node", "--ignore-not-found", "--wait=false", *names, step=step)
        for host in chosen:
            hosts.wipe(host, step)
            hosts.prepare(host, fleet, rootfs.build(host.os, step), step)
            hosts.start(host)
        hosts.write_ssh_files(fleet)
        hosts.wait_for_ssh(chosen)
    print(f"[{progress.elapsed:6.1f} s] as delivered: {', '.join(names)}")
    return 0


def _bring_up(fleet: Fleet, wanted: Path, progress: Progress) -> None:
    takedown.write_marker()
    if wanted != KEPT_FLEET:
        settings.STATE.mkdir(exist_ok=True)
        shutil.copy(wanted, KEPT_FLEET)
    with progress.step("Programs") as step:
        programs = binaries.build(step)
        binaries.link(programs)
    with progress.step("Host roots") as step:
        roots = {os_name: rootfs.build(os_name, step) for os_name in sorted({host.os for host in fleet.hosts})}
    with progress.step("Images") as step:
        images.write_pause()
        operator_images.build(binaries.build_operands(step))
    with progress.step("Network") as step:
        network.set_up_bridge(step)
        for host in fleet.hosts:
            network.connect(host, step)
    with progress.step("Hosts") as step:
        hosts.prepare_ssh(step)
        for host in fleet.hosts:
            hosts.prepare(host, fleet, roots[host.os], step)
            hosts.start(host)
        hosts.write_ssh_files(fleet)
    with progress.step("Control plane") as step:
        control_plane.prepare(programs, step)
        control_plane.start(programs, fleet)
    with progress.step("Package repositories") as step:
        _serve_repositories(programs, step)
    inventory.write(fleet)
    with progress.step("Wait for the API server") as step:
        control_plane.wait_until_ready()
        control_plane.set_up_cluster(programs, step)
    with progress.step("Wait for the hosts"):
        hosts.wait_for_ssh(fleet.hosts)
    with progress.step("Nodes without machines") as step:
        kwok.start(programs, fleet.kwok, step)


def _serve_repositories(programs: Path, step: Step) -> None:
    step.say("building the package repositories when their contents changed (once, about a minute)")
    root = packages.build(settings.CACHE, programs)
    settings.REPOSITORIES.unlink(missing_ok=True)
    settings.REPOSITORIES.symlink_to(root)
    server = str(settings.LAB_SOURCE / "serve.py")
    where = (settings.BRIDGE_ADDRESS, str(settings.REPOSITORY_PORT), str(settings.REPOSITORIES))
    processes.start("repositories", [sys.executable, server, *where])


def _make_way(wanted: Path, progress: Progress) -> None:
    """Take down what another checkout left; refuse to change the fleet under somebody's feet."""
    owner = takedown.read_marker().get("state")
    if owner is None and takedown.leftovers():
        reason = "remains of a lab that lost its state"
    elif owner is not None and Path(owner) != settings.STATE:
        reason = f"the lab of another checkout ({owner})"
    else:
        if KEPT_FLEET.exists() and KEPT_FLEET.read_bytes() != wanted.read_bytes():
            raise LabError(f"a lab with another fleet is up ({KEPT_FLEET}); run `down` first")
        return
    with progress.step("Take down") as step:
        step.say(f"{reason}: taking it down")
        takedown.take_down(step)


def _kept_or_default() -> Path:
    return KEPT_FLEET if KEPT_FLEET.exists() else settings.DEFAULT_FLEET


def _running_fleet() -> Fleet:
    if not KEPT_FLEET.exists():
        raise LabError("no lab is up; run `up` first")
    return fleet_file.read(KEPT_FLEET, silicon.MODELS)


@contextlib.contextmanager
def _only_one_at_a_time() -> Iterator[None]:
    with settings.LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError("another lab command is running on this machine; wait for its end") from error
        yield
