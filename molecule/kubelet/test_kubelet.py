# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kubelet as it stands on the host."""

from __future__ import annotations

import json
import typing as t

import pytest
import yaml

Host = t.Any
DROP_IN = "/etc/kubernetes/kubelet.conf.d/50-onprem-gpu.conf"


@pytest.fixture
def configuration(host: Host) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", yaml.safe_load(host.file(DROP_IN).content_string))


def test_kubelet_and_kubeadm_are_at_the_wanted_version_and_held(host: Host) -> None:
    assert host.run("kubelet --version").stdout.strip() == "Kubernetes v1.37.1"
    assert host.run("kubeadm version -o short").stdout.strip() == "v1.37.1"
    held = host.run("dnf -q -C versionlock list" if host.exists("dnf") else "apt-mark showhold").stdout
    assert "kubelet" in held
    assert "kubeadm" in held


def test_running_kubelet_reads_the_drop_in(host: Host) -> None:
    assert host.service("kubelet").is_enabled
    arguments = host.run("tr '\\0' ' ' < /proc/$(systemctl show -P MainPID kubelet)/cmdline").stdout
    assert "--config-dir=/etc/kubernetes/kubelet.conf.d" in arguments


def test_state_file_is_of_the_policy_in_force(host: Host, configuration: dict[str, t.Any]) -> None:
    """One of another policy would keep the kubelet from starting."""
    state = json.loads(host.file("/var/lib/kubelet/cpu_manager_state").content_string)
    assert state["policyName"] == configuration["cpuManagerPolicy"]


def test_reservations_leave_cpus_to_pods(host: Host, configuration: dict[str, t.Any]) -> None:
    everything = int(host.run("nproc --all").stdout)
    reserved = configuration.get("reservedSystemCPUs")
    assert reserved, "the static CPU manager needs a reservation"
    assert 0 < len(expanded(reserved)) < everything


def expanded(cpus: str) -> list[int]:
    """'0-1,4' -> [0, 1, 4]"""
    ranges = [part.split("-") for part in cpus.split(",")]
    return [cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)]
