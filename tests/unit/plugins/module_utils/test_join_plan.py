# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done with a host in each state a killed or foreign join can leave, and what a node registers with."""

from __future__ import annotations

import base64

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.join_plan import (
    join_configuration,
    join_plan,
    joining_node,
    may_set_itself,
    node_findings,
    same_cluster,
)

OUR_CA = "-----BEGIN CERTIFICATE-----\nT1VS\nQ0E=\n-----END CERTIFICATE-----\n"
OTHER_CA = "-----BEGIN CERTIFICATE-----\nT1RIRVI=\n-----END CERTIFICATE-----\n"
CLUSTER = {"ca_cert": OUR_CA, "api_server_endpoint": "192.0.2.10:6443"}


def kubelet_conf(ca=OUR_CA, server="https://192.0.2.10:6443"):
    data = {"certificate-authority-data": base64.b64encode(ca.encode()).decode()} if ca else {}
    return {"clusters": [{"name": "c", "cluster": {"server": server, **data}}]}


def plan(kubelet_conf=None, leftovers=False, node=None, machine_id="m1"):
    traces = {"machine_id": machine_id, "kubelet_conf": kubelet_conf, "leftovers": leftovers}
    return join_plan(traces, "gpu-1", node, CLUSTER)


THIS_MACHINE = {"machine_id": "m1", "addresses": ["192.0.2.21"]}
OTHER_MACHINE = {"machine_id": "m2", "addresses": ["192.0.2.22", "gpu-1"]}
NEVER_REPORTED = {"machine_id": "", "addresses": []}


@pytest.mark.parametrize(
    ("conf", "leftovers", "node", "action"),
    [
        (None, False, None, "join"),
        (None, False, THIS_MACHINE, "join"),  # reset by hand, Node object left
        (None, False, NEVER_REPORTED, "join"),  # Node object made in advance
        (None, True, None, "rejoin"),  # killed before the kubelet had its certificate
        (None, True, THIS_MACHINE, "rejoin"),
        (kubelet_conf(), True, None, "revive"),  # killed before the kubelet registered
        (kubelet_conf(), False, None, "revive"),  # kubectl delete node
        (kubelet_conf(), True, THIS_MACHINE, "finish"),  # killed before kubeadm cleaned up
        (kubelet_conf(), False, THIS_MACHINE, "finish"),
    ],
)
def test_each_state_of_a_host_has_one_way_on(conf, leftovers, node, action):
    assert plan(conf, leftovers, node)["action"] == action


@pytest.mark.parametrize("conf", [None, kubelet_conf()])
@pytest.mark.parametrize("leftovers", [False, True])
def test_another_machines_name_is_never_taken(conf, leftovers):
    refusal = plan(conf, leftovers, OTHER_MACHINE)
    assert refusal["action"] == "refuse"
    for word in ("node gpu-1", "192.0.2.22", "m2", "m1", "kubectl delete node gpu-1", "gpu_node_name"):
        assert word in refusal["why"]


@pytest.mark.parametrize("node", [None, THIS_MACHINE])
def test_a_host_of_another_cluster_is_never_touched(node):
    refusal = plan(kubelet_conf(ca=OTHER_CA, server="https://198.51.100.1:6443"), True, node)
    assert refusal["action"] == "refuse"
    for word in ("https://198.51.100.1:6443", "192.0.2.10:6443", "kubeadm reset", "gpu_cluster_kubeconfig"):
        assert word in refusal["why"]


@pytest.mark.parametrize(
    ("conf", "ours"),
    [
        (kubelet_conf(), True),
        (kubelet_conf(ca=OTHER_CA + OUR_CA), True),  # while a CA is being replaced
        (kubelet_conf(server="https://other-address:6443"), True),  # another address of the same cluster
        (kubelet_conf(ca=OTHER_CA), False),
        (kubelet_conf(ca=None), True),  # CA by path: the address decides
        (kubelet_conf(ca=None, server="https://198.51.100.1:6443"), False),
        ({"clusters": [{"cluster": {"certificate-authority-data": "%%%"}}]}, False),
        ({}, False),
    ],
)
def test_a_cluster_is_known_by_its_ca(conf, ours):
    assert same_cluster(conf, CLUSTER) is ours


# --- registration ---


@pytest.mark.parametrize(
    ("label", "allowed"),
    [
        ("rack", True),
        ("example.com/rack", True),
        ("feature.node.kubernetes.io/pci-10de.present", True),
        ("node.kubernetes.io/instance-type", True),
        ("kubelet.kubernetes.io/x", True),
        ("topology.kubernetes.io/zone", True),
        ("topology.kubernetes.io/rack", False),
        ("node-role.kubernetes.io/gpu", False),
        ("node-restriction.kubernetes.io/tenant", False),
        ("kubernetes.io/x", False),
        ("x.k8s.io/y", False),
        ("notkubernetes.io/x", True),
    ],
)
def test_labels_a_kubelet_may_set_on_itself(label, allowed):
    assert may_set_itself(label) is allowed


WISHES = {
    "name": "gpu-1",
    "labels": {"node-role.kubernetes.io/gpu": "", "example.com/rack": "r1", "count": 8, "gone": None},
    "taints": [
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
        {"key": "bare", "effect": "NoExecute"},
        {"key": "old", "state": "absent"},
    ],
}


def test_a_node_registers_with_all_taints_and_the_labels_it_may_set():
    assert joining_node(WISHES) == {
        "name": "gpu-1",
        "labels": {"example.com/rack": "r1", "count": "8"},
        "taints": [
            {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
            {"key": "bare", "effect": "NoExecute"},
        ],
    }


ACCESS = {
    "token": "abcdef.0123456789abcdef",
    "api_server_endpoint": "192.0.2.10:6443",
    "ca_cert_hashes": ["sha256:1"],
}


def test_the_join_configuration_pins_the_ca_and_carries_taints_and_labels():
    configuration = join_configuration(WISHES, ACCESS, "unix:///run/containerd/containerd.sock", "", ["Swap"])
    assert configuration["discovery"]["bootstrapToken"] == {
        "token": "abcdef.0123456789abcdef",
        "apiServerEndpoint": "192.0.2.10:6443",
        "caCertHashes": ["sha256:1"],
    }
    assert configuration["nodeRegistration"] == {
        "name": "gpu-1",
        "criSocket": "unix:///run/containerd/containerd.sock",
        "taints": joining_node(WISHES)["taints"],
        "kubeletExtraArgs": [{"name": "node-labels", "value": "count=8,example.com/rack=r1"}],
        "ignorePreflightErrors": ["Swap"],
    }


def test_an_endpoint_of_ones_own_counts():
    wishes = {"name": "n", "labels": {}, "taints": []}
    configuration = join_configuration(wishes, ACCESS, "unix:///s", "vip.example.com:6443")
    assert configuration["discovery"]["bootstrapToken"]["apiServerEndpoint"] == "vip.example.com:6443"
    assert "kubeletExtraArgs" not in configuration["nodeRegistration"]
    assert configuration["nodeRegistration"]["taints"] == []  # missing would mean kubeadm's default


# --- findings ---


def test_good_wishes_have_no_findings():
    assert node_findings({**WISHES, "annotations": {"a": "any text"}}) == []


def test_each_bad_wish_is_a_finding_with_its_variable():
    found = node_findings(
        {"name": "GPU_1", "labels": {"a b": ""}, "annotations": {"-": ""}, "taints": [{"key": "k", "effect": "Never"}]}
    )
    assert [each["variable"] for each in found] == [
        "gpu_node_name",
        "gpu_node_labels",
        "gpu_node_annotations",
        "gpu_node_taints",
    ]
    assert "GPU_1" in found[0]["message"]
    assert "NoSchedule" in found[3]["message"]
