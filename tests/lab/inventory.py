# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ansible inventory of a running lab, as an administrator of these hosts would have it."""

from __future__ import annotations

import json
from typing import Any

import settings
import yaml
from fleet import Fleet, Host

# role -> repository, by package format; extra repositories are what an organisation mirrors besides
_REPOSITORIES = {
    "gpu_driver": {"debian12": "cuda/debian12", "ubuntu2404": "cuda/ubuntu2404", "el9": "cuda/rhel9"},
    "gpu_toolkit": {"debian12": "toolkit/deb", "ubuntu2404": "toolkit/deb", "el9": "toolkit/rpm"},
    "gpu_kubelet": {"debian12": "kubernetes/deb", "ubuntu2404": "kubernetes/deb", "el9": "kubernetes/rpm"},
}
_EXTRA_REPOSITORIES = {
    "gpu_driver": {"debian12": "extras/debian12", "el9": "extras/rhel9"},
    "gpu_toolkit": {"debian12": "runtime/deb", "ubuntu2404": "runtime/deb", "el9": "runtime/rpm"},
}
_KEYS = {"gpu_driver": "cuda", "gpu_toolkit": "toolkit", "gpu_kubelet": "kubernetes"}


class _Dumper(yaml.SafeDumper):
    """Indents lists as the project's YAML style wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def write(fleet: Fleet) -> None:
    """Write .lab/inventory.yml."""
    content = yaml.dump(_inventory(fleet), Dumper=_Dumper, sort_keys=False, width=160)
    settings.INVENTORY.write_text("---\n# Written by tests/lab; every `lab up` writes it anew.\n" + content)


def _inventory(fleet: Fleet) -> dict[str, Any]:
    names = [host.name for host in fleet.hosts]
    groups: dict[str, Any] = {
        "gpu_nodes": {"hosts": dict.fromkeys(names), "vars": _common_variables()},
        "kube_node": {"hosts": dict.fromkeys(names)},
    }
    for os_name in sorted({host.os for host in fleet.hosts}):
        groups[f"os_{os_name}"] = {
            "hosts": dict.fromkeys(host.name for host in fleet.hosts if host.os == os_name),
            "vars": _repository_variables(os_name),
        }
    return {"all": {"hosts": {host.name: _host_variables(host) for host in fleet.hosts}, "children": groups}}


def _host_variables(host: Host) -> dict[str, Any]:
    variables = {"ansible_host": host.address}
    if host.numa_nodes > 1:
        # Simulated nodes: the kernel has one, and refuses containers the memory of another.
        variables["gpu_kubelet_memory_manager_policy"] = "None"
    return variables


def _common_variables() -> dict[str, Any]:
    ssh = f"-o UserKnownHostsFile={settings.KNOWN_HOSTS} -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes"
    return {
        "ansible_user": settings.ADMIN_USER,
        "ansible_become": True,
        "ansible_ssh_private_key_file": str(settings.SSH_KEY),
        "ansible_ssh_common_args": ssh,
        "ansible_python_interpreter": "/usr/bin/python3",
        "gpu_cluster_kubeconfig": str(settings.KUBECONFIG),
        "gpu_toolkit_runtime_packages": [{"name": "containerd.io", "version": settings.CONTAINERD_VERSION}],
        # cgroup v1 and a kernel without its configuration: kubeadm's system check cannot pass in a container.
        "gpu_node_ignore_preflight_errors": ["SystemVerification"],
        "gpu_operator_chart_ref": str(settings.LAB_SOURCE / "operator" / "chart"),
        "gpu_operator_helm_binary": str(settings.BIN / "helm"),
    }


def _repository_variables(os_name: str) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for role, paths in _REPOSITORIES.items():
        variables |= {
            f"{role}_repository_url": _url(paths[os_name]),
            f"{role}_repository_key": _key(_KEYS[role]),
            f"{role}_repository_key_fingerprint": _fingerprint(_KEYS[role]),
        }
    for role, extras in _EXTRA_REPOSITORIES.items():
        if os_name in extras:
            name = extras[os_name].partition("/")[0]
            variables[f"{role}_extra_repositories"] = [
                {"name": name, "url": _url(extras[os_name]), "key": _key(name), "key_fingerprint": _fingerprint(name)}
            ]
    return variables


def _url(path: str) -> str:
    return f"{settings.REPOSITORY_URL}/{path}"


def _key(name: str) -> str:
    return "{{ lookup('ansible.builtin.file', '" + str(settings.REPOSITORIES / "keys" / f"{name}.asc") + "') }}"


def _fingerprint(name: str) -> str:
    file = settings.REPOSITORIES / "keys" / "fingerprints.json"
    return str(json.loads(file.read_text())[name]) if file.exists() else ""
