# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that was killed anywhere, or whose host went away under it, is simply started again.

Each try ends something at a random moment of `site` and runs `site` again: the controller while it brings up the whole
fleet from bare hosts and an empty cluster, or one host while it is brought up beside hosts in service. Hosts and
cluster are then compared with what an undisturbed run made of the same bare hosts.

SEED=n repeats a run, TRIES=n makes another number of tries (default 3; the slow suite makes 20).
"""

from __future__ import annotations

import os
import random
import subprocess
import time
import typing as t
from dataclasses import dataclass

import observe
import pytest

SITE = observe.ROOT / "playbooks" / "site.yml"
SEED = int(os.environ.get("SEED") or random.randrange(10**6))
TRIES = int(os.environ.get("TRIES") or 3)
BOOT_SECONDS = 90
HELM = observe.LAB / "bin" / "helm"
UNINSTALL = ("uninstall", "gpu-operator", "--namespace=gpu-operator", "--ignore-not-found", "--wait", "--timeout=5m")


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run makes of bare hosts, and how many seconds it takes for all of them and for one."""

    hosts: dict[str, dict[str, str]]
    cluster: dict[str, str]
    seconds_for_all: float
    seconds_for_one: float


@pytest.fixture(scope="module")
def reference(hosts: list[str], reset_hosts: t.Callable[..., None]) -> Reference:
    empty_cluster()
    reset_hosts()
    seconds_for_all = observe.play(SITE).require_success().seconds
    states = observe.on_hosts(hosts, observe.host_state)
    cluster = observe.cluster_state()
    reset_hosts(hosts[0])
    seconds_for_one = observe.play(SITE).require_success().seconds
    return Reference(states, cluster, seconds_for_all, seconds_for_one)


@pytest.fixture(scope="module")
def dice() -> random.Random:
    return random.Random(SEED)


@pytest.mark.parametrize("number", range(TRIES))
def test_a_rerun_ends_in_the_same_state(
    reference: Reference,
    hosts: list[str],
    reset_hosts: t.Callable[..., None],
    dice: random.Random,
    number: int,
) -> None:
    victim = [None, *hosts][number % (len(hosts) + 1)]
    moment = dice.uniform(0.5, reference.seconds_for_one if victim else reference.seconds_for_all)
    told = f"SEED={SEED} try {number}: {victim or 'the controller'} ended after {moment:.1f} s"
    print(told)
    if victim is None:
        empty_cluster()
        reset_hosts()
    else:
        reset_hosts(victim)
    disturb(moment, victim)
    run = observe.play(SITE)
    assert run.failures() == [], told
    assert run.exit_code == 0, f"{told}: {run.log}"
    assert_same_state(reference, hosts, told)
    if victim is None:
        assert observe.play(SITE).changed_items() == {}, told


def empty_cluster() -> None:
    """Remove what `site` writes to a cluster, apart from nodes."""
    observe.output_of([str(HELM), f"--kubeconfig={observe.KUBECONFIG}", *UNINSTALL])
    observe.kubectl("delete", "namespace", "gpu-operator", "--ignore-not-found")
    observe.kubectl("delete", "namespace,priorityclass", "--selector", "app.kubernetes.io/managed-by=onprem.gpu")


def disturb(moment: float, victim: str | None) -> None:
    """Start `site`; after MOMENT seconds end the controller's processes, or cut the power of the host VICTIM."""
    with observe.started_play(SITE) as running:
        time.sleep(moment)
        if victim is None:
            running.kill()
            return
        boot = boot_id(victim)
        cut_power(victim)
        running.finish()
        wait_for_another_boot(victim, boot)


def boot_id(host: str) -> str:
    return observe.on_host(host, "cat /proc/sys/kernel/random/boot_id").strip()


def cut_power(host: str) -> None:
    """The connection dies with the host, so no answer is expected."""
    command = ["ssh", "-F", str(observe.SSH_CONFIG), host, "sudo systemctl reboot --force --force"]
    subprocess.run(command, capture_output=True, check=False, timeout=BOOT_SECONDS)


def wait_for_another_boot(host: str, boot: str) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        try:
            if boot_id(host) != boot:
                return
        except observe.ObservationError:
            pass
        time.sleep(1)
    pytest.fail(f"{host} did not come back within {BOOT_SECONDS} s")


def assert_same_state(reference: Reference, hosts: list[str], told: str) -> None:
    states = observe.on_hosts(hosts, observe.host_state)
    for host in hosts:
        assert observe.differing(reference.hosts[host], states[host]) == {}, f"{told}, {host}"
    assert observe.differing(reference.cluster, observe.cluster_state()) == {}, told
