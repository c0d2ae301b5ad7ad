# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first journey on the lab: bare hosts, check mode, the real run, GPUs in service, a run that changes nothing.

Makes the lab's hosts as delivered and takes them through once; each test looks at one side of what happened.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

import observe
import pytest
from documents import items, traceable_differences
from workloads import GPU, refusal, teams, what_a_pod_sees

PLAYBOOKS = observe.ROOT / "playbooks"
SITE = PLAYBOOKS / "site.yml"
GPUS = {"gpu-h100-1": 8, "gpu-a100-1": 4, "gpu-l4-1": 2}
SESSIONS_PER_HOST = 2


@dataclass(frozen=True)
class Moment:
    """All hosts and the cluster as they were at one time."""

    states: dict[str, dict[str, str]]
    files: dict[str, dict[str, str]]
    cluster: dict[str, str]
    generations: dict[str, int]


@dataclass(frozen=True)
class Journey:
    survey: observe.Run
    check: observe.Run
    real: observe.Run
    again: observe.Run
    again_sessions: dict[str, int]
    bare: Moment
    checked: Moment
    served: Moment
    kept: Moment


@pytest.fixture(scope="module")
def journey(hosts: list[str], reset_hosts: t.Callable[..., None]) -> Journey:
    reset_hosts()
    survey = observe.play(PLAYBOOKS / "survey.yml").require_success()
    managed_files = {host: files_of_documents(survey, host) for host in hosts}
    bare = moment(managed_files)
    check = observe.play(SITE, "--check", "--diff").require_success()
    checked = moment(managed_files)
    real = observe.play(SITE).require_success()
    served = moment(managed_files)
    count = observe.SessionCount(hosts)
    again = observe.play(SITE).require_success()
    sessions = count.finish()
    kept = moment(managed_files)
    return Journey(survey, check, real, again, sessions, bare, checked, served, kept)


def files_of_documents(run: observe.Run, host: str) -> list[str]:
    return [item.name for item in items(run, host) if item.kind in ("file", "generated")]


def moment(managed_files: dict[str, list[str]]) -> Moment:
    return Moment(
        states=observe.on_hosts(managed_files, lambda host: observe.host_state(host, *managed_files[host])),
        files=observe.on_hosts(managed_files, observe.files_fingerprint),
        cluster=observe.cluster_state(),
        generations=observe.generations(),
    )


# -- check mode -------------------------------------------------------------------------------------------------------


def test_check_mode_writes_nothing(journey: Journey) -> None:
    for host in journey.bare.files:
        assert observe.differing(journey.bare.files[host], journey.checked.files[host]) == {}
        assert observe.differing(journey.bare.states[host], journey.checked.states[host]) == {}
    assert observe.differing(journey.bare.cluster, journey.checked.cluster) == {}


@pytest.mark.parametrize("host", GPUS)
def test_check_mode_predicts_exactly_what_changes_on_a_host(journey: Journey, host: str) -> None:
    """What a document's item is on the host differs before and after the real run if, and only if, it was predicted."""
    visible = {item.id: item.state_key for item in items(journey.check, host) if item.state_key}
    moved = observe.differing(journey.bare.states[host], journey.served.states[host])
    changed = {name for name, key in visible.items() if key in moved}
    assert traceable_differences(journey.check, host) & set(visible) == changed


def test_check_mode_predicts_exactly_what_changes_in_the_cluster(journey: Journey) -> None:
    assert cluster_changes(journey.check) == cluster_changes(journey.real)


def cluster_changes(run: observe.Run) -> set[str]:
    """Changed items of the roles that write to the API server."""
    return {
        observe.item_name(event)
        for event in run.results(("changed",))
        if str(event["role"]).rsplit(".", 1)[-1] in ("gpu_node", "gpu_operator", "gpu_tenancy")
    }


# -- after the real run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "gpus"), GPUS.items())
def test_node_is_ready_and_offers_its_gpus(journey: Journey, host: str, gpus: int) -> None:
    node = observe.cluster_objects("get", "node", host)
    conditions = {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert node["status"]["allocatable"][GPU] == str(gpus)
    assert {"key": GPU, "value": "present", "effect": "NoSchedule"} in node["spec"]["taints"]
    assert node["metadata"]["labels"]["nvidia.com/gpu.count"] == str(gpus)


@pytest.mark.parametrize("host", GPUS)
def test_node_has_its_role_and_the_labels_of_the_inventory(journey: Journey, host: str) -> None:
    wanted = {"node-role.kubernetes.io/gpu": "", **observe.host_variables(host)["gpu_node_labels"]}
    labels = observe.cluster_objects("get", "node", host)["metadata"]["labels"]
    assert {name: labels.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("host", GPUS)
def test_kubelet_works_with_the_policies_of_the_inventory(journey: Journey, host: str) -> None:
    variables = observe.host_variables(host)
    configuration = observe.kubelet_configuration(host)
    wanted = {
        "cpuManagerPolicy": variables["gpu_kubelet_cpu_manager_policy"],
        "memoryManagerPolicy": variables["gpu_kubelet_memory_manager_policy"],
        "topologyManagerPolicy": variables["gpu_kubelet_topology_manager_policy"],
    }
    assert {name: configuration[name] for name in wanted} == wanted


@pytest.mark.parametrize(("host", "gpus"), GPUS.items())
def test_pod_sees_exactly_the_gpus_it_asked_for(journey: Journey, host: str, gpus: int) -> None:
    for wanted in (1, gpus):
        report = what_a_pod_sees(f"journey-{wanted}", teams()[0], wanted, host)
        nodes = [path for path in report["device_nodes"] if re.fullmatch(r"/dev/nvidia\d+", path)]
        assert len(nodes) == wanted
        assert len(report["gpus"]) == wanted


def test_pod_that_asks_for_no_gpu_gets_none(journey: Journey) -> None:
    report = what_a_pod_sees("journey-none", teams()[0], 0, "gpu-h100-1")
    assert report["device_nodes"] == []


def test_pod_over_quota_is_refused_by_name(journey: Journey) -> None:
    team = teams()[-1]
    answer = refusal("journey-over-quota", team, team.gpus + 1)
    assert "Forbidden" in answer
    assert f"requests.{GPU}" in answer


# -- the same again ---------------------------------------------------------------------------------------------------


def test_second_run_changes_nothing(journey: Journey) -> None:
    assert journey.again.changed_items() == {}


def test_second_run_costs_two_ssh_sessions_a_host(journey: Journey) -> None:
    assert {host: count for host, count in journey.again_sessions.items() if count > SESSIONS_PER_HOST} == {}


@pytest.mark.parametrize("host", GPUS)
def test_second_run_touches_no_file(journey: Journey, host: str) -> None:
    assert observe.differing(journey.served.files[host], journey.kept.files[host]) == {}
    assert observe.differing(journey.served.states[host], journey.kept.states[host]) == {}


def test_second_run_writes_nothing_to_the_cluster(journey: Journey) -> None:
    assert observe.differing(journey.served.cluster, journey.kept.cluster) == {}
    assert journey.kept.generations == journey.served.generations
