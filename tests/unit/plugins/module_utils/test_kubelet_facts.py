# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import functools

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import Package
from ansible_collections.onprem.gpu.plugins.module_utils.kubelet_facts import (
    environment_words,
    node_name_in_certificate,
    parse_flags,
    read_kubelet,
)

KUBELET_PACKAGE = [Package("kubelet", "amd64", "1.37.1-1.1", True, "", True)]


@functools.cache
def certificate(common_name: str) -> bytes:
    """A kubelet's client certificate together with its key, in one PEM file as the kubelet keeps it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    key_text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM) + key_text


def test_a_host_no_cluster_was_set_up_on(host_tree):
    assert read_kubelet(host_tree.host(), [], {}) == {
        "version": None,
        "active": False,
        "distribution": "none",
        "joined": False,
        "node_name": None,
        "root_dir": "/var/lib/kubelet",
        "config_file": None,
        "config_dir": None,
        "drop_ins": [],
        "cri_endpoint": None,
        "cpu_manager_state": None,
        "memory_manager_state": None,
    }


def test_a_kubelet_that_is_installed_and_not_joined_is_nobodys(host_tree):
    found = read_kubelet(host_tree.host(), KUBELET_PACKAGE, {"kubelet.service": {"ActiveState": "activating"}})
    assert (found["version"], found["distribution"], found["joined"], found["active"]) == (
        "1.37.1",
        "none",
        False,
        False,
    )


def test_a_node_that_kubeadm_joined(host_tree):
    arguments = (
        "/usr/bin/kubelet",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=/var/lib/kubelet/config.yaml",
        "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
        "--config-dir=/etc/kubernetes/kubelet.conf.d",
    )
    host_tree.write("/proc/55/cmdline", "\0".join(arguments) + "\0")
    host_tree.write("/var/lib/kubelet/kubeadm-flags.env", 'KUBELET_KUBEADM_ARGS="--config-dir=/not/what/runs"\n')
    host_tree.write("/etc/kubernetes/kubelet.conf")
    host_tree.write("/etc/kubernetes/kubelet.conf.d/50-onprem-gpu.conf")
    host_tree.write("/etc/kubernetes/kubelet.conf.d/README")
    host_tree.write("/var/lib/kubelet/pki/kubelet-client-current.pem", certificate("system:node:gpu-h100-1"))
    host_tree.write("/var/lib/kubelet/cpu_manager_state", '{"policyName":"static","defaultCpuSet":"0-3"}')
    host_tree.write("/var/lib/kubelet/memory_manager_state", '{"policyName":"Static"}')
    units = {"kubelet.service": {"ActiveState": "active", "MainPID": "55"}}
    assert read_kubelet(host_tree.host(), KUBELET_PACKAGE, units) == {
        "version": "1.37.1",
        "active": True,
        "distribution": "kubeadm",
        "joined": True,
        "node_name": "gpu-h100-1",
        "root_dir": "/var/lib/kubelet",
        "config_file": "/var/lib/kubelet/config.yaml",
        "config_dir": "/etc/kubernetes/kubelet.conf.d",
        "drop_ins": ["/etc/kubernetes/kubelet.conf.d/50-onprem-gpu.conf"],
        "cri_endpoint": "unix:///run/containerd/containerd.sock",
        "cpu_manager_state": "static",
        "memory_manager_state": "Static",
    }


def test_a_node_may_have_another_name_than_its_certificate_told(host_tree):
    host_tree.write("/etc/default/kubelet", "KUBELET_EXTRA_ARGS=--hostname-override=gpu-a1.example.com\n")
    assert read_kubelet(host_tree.host(), [], {})["node_name"] == "gpu-a1.example.com"


def test_flags_of_a_kubelet_that_does_not_run_come_from_its_files(host_tree):
    host_tree.write(
        "/var/lib/kubelet/kubeadm-flags.env",
        'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///run/crio/crio.sock --node-labels=a=b"\n',
    )
    host_tree.write("/etc/default/kubelet", "KUBELET_EXTRA_ARGS=--config-dir=/etc/k --root-dir /data/kubelet\n")
    host_tree.write("/data/kubelet/cpu_manager_state", '{"policyName":"none"}')
    found = read_kubelet(host_tree.host(), [], {})
    assert (found["cri_endpoint"], found["config_dir"]) == ("unix:///run/crio/crio.sock", "/etc/k")
    assert (found["root_dir"], found["cpu_manager_state"]) == ("/data/kubelet", "none")


@pytest.mark.parametrize(
    ("line", "endpoint"),
    [
        ("containerRuntimeEndpoint: unix:///run/containerd/containerd.sock", "unix:///run/containerd/containerd.sock"),
        ('containerRuntimeEndpoint: "unix:///run/crio/crio.sock"', "unix:///run/crio/crio.sock"),
        ('containerRuntimeEndpoint: ""', None),
        ("#containerRuntimeEndpoint: unix:///x", None),
    ],
)
def test_the_endpoint_may_be_in_the_configuration(host_tree, line, endpoint):
    host_tree.write("/etc/default/kubelet", "KUBELET_EXTRA_ARGS=--config=/etc/kubelet.yaml\n")
    host_tree.write("/etc/kubelet.yaml", f"kind: KubeletConfiguration\n{line}\ncpuManagerPolicy: static\n")
    assert read_kubelet(host_tree.host(), [], {})["cri_endpoint"] == endpoint


@pytest.mark.parametrize(
    ("sign", "kubeconfig", "distribution"),
    [
        ("/etc/kubernetes/kubelet.env", "/etc/kubernetes/kubelet.conf", "kubespray"),
        ("/etc/rancher/rke2/config.yaml", "/var/lib/rancher/rke2/agent/kubelet.kubeconfig", "rke2"),
        ("/etc/rancher/k3s/config.yaml", "/var/lib/rancher/k3s/agent/kubelet.kubeconfig", "k3s"),
        ("/var/lib/kubelet/kubeadm-flags.env", "/etc/kubernetes/kubelet.conf", "kubeadm"),
    ],
)
def test_distributions(host_tree, sign, kubeconfig, distribution):
    host_tree.write(sign)
    found = read_kubelet(host_tree.host(), [], {})
    assert (found["distribution"], found["joined"]) == (distribution, False)
    host_tree.write(kubeconfig)
    assert read_kubelet(host_tree.host(), [], {})["joined"] is True


def test_rke2_tells_its_own_version_and_runs_in_its_own_unit(host_tree):
    host_tree.folder("/var/lib/rancher/rke2/agent")
    host_tree.program("rke2", "rke2 version v1.37.1+rke2r1 (abc)\n")
    found = read_kubelet(host_tree.host(), [], {"rke2-agent.service": {"ActiveState": "active"}})
    assert (found["version"], found["active"]) == ("1.37.1+rke2r1", True)


def test_a_broken_state_file_is_noted(host_tree):
    host_tree.write("/var/lib/kubelet/cpu_manager_state", "")
    host = host_tree.host()
    assert read_kubelet(host, [], {})["cpu_manager_state"] is None
    assert [error["path"] for error in host.errors] == ["/var/lib/kubelet/cpu_manager_state"]


@pytest.mark.parametrize("name", ["a", "gpu-h100-1.rack-7.dc.example.com"])
def test_the_node_in_a_certificate(name):
    assert node_name_in_certificate(certificate(f"system:node:{name}")) == name


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"])
def test_no_node_in_what_is_no_certificate(pem):
    assert node_name_in_certificate(pem) is None


def test_a_certificate_of_somebody_else_names_no_node():
    assert node_name_in_certificate(certificate("admin")) is None


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["kubelet", "--a=1", "--b", "2", "--c"], {"a": "1", "b": "2", "c": ""}),
        (["--a", "--b=1"], {"a": "", "b": "1"}),
        (["--a=1", "--a=2"], {"a": "2"}),
        (["--labels=x=y,z=1"], {"labels": "x=y,z=1"}),
        (["--empty="], {"empty": ""}),
        ([], {}),
    ],
)
def test_flags(words, flags):
    assert parse_flags(words) == flags


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('ARGS="--a=1 --b=2"\n', ["--a=1", "--b=2"]),
        ("# comment\n\nARGS=--a=1 --b 2\n", ["--a=1", "--b", "2"]),
        ('ARGS="--unbalanced\n', ['"--unbalanced']),
    ],
)
def test_words_of_environment_files(text, words):
    assert environment_words(text) == words
