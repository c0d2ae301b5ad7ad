# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host becomes a node with kubeadm, also when an earlier join was killed half-way.

Pure. What kubeadm join leaves, in this order (kubeadm 1.37, phases kubelet-start and kubelet-wait-bootstrap):
bootstrap-kubelet.conf, pki/ca.crt, the kubelet's configuration, a started kubelet; the kubelet then writes its client
certificate and kubelet.conf and registers the Node; at the end kubeadm removes bootstrap-kubelet.conf.
"""

from __future__ import annotations

import base64
import binascii
import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding
from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import WishError, node_name_problems, parse_wish

# Labels a kubelet may set on itself: k8s.io/kubelet/pkg/apis/well_known_labels.go. It refuses to start with any other
# label of kubernetes.io or k8s.io, so those are set through the API by an admin.
SELF_LABELS = {
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
}
SELF_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
PROJECT_DOMAINS = ("kubernetes.io", "k8s.io")

Wishes = t.Mapping[str, t.Any]


def node_findings(wishes: Wishes) -> list[Finding]:
    """What no API server would take of name, labels, annotations and taints, one finding for each."""
    found = [
        finding("node_name", wishes["name"], f"{problem}.", "a name in that form", "gpu_node_name")
        for problem in node_name_problems(wishes["name"])
    ]
    for part in ("labels", "annotations", "taints"):
        try:
            parse_wish({part: wishes.get(part)})
        except WishError as error:
            found += [
                finding(f"node_{part}", "", f"{problem}.", "what Kubernetes takes, see the message", f"gpu_node_{part}")
                for problem in error.problems
            ]
    return found


def joining_node(wishes: Wishes) -> dict[str, t.Any]:
    """The node as it registers: its name, the labels the kubelet may set itself, and all its taints.

    ``wishes`` has name, labels and taints in the form of the module nodes.
    """
    wish = parse_wish(wishes)
    return {
        "name": wishes["name"],
        "labels": {key: value for key, value in wish.labels.items() if value is not None and may_set_itself(key)},
        "taints": [
            {"key": taint.key, "effect": taint.effect, **({"value": taint.value} if taint.value else {})}
            for taint in wish.taints
            if taint.present
        ],
    }


def may_set_itself(label: str) -> bool:
    """Whether a kubelet may put this label on its own Node."""
    domain = label.rpartition("/")[0]
    return label in SELF_LABELS or _within(domain, SELF_LABEL_DOMAINS) or not _within(domain, PROJECT_DOMAINS)


def _within(domain: str, parents: t.Iterable[str]) -> bool:
    return any(domain == parent or domain.endswith(f".{parent}") for parent in parents)


def join_configuration(
    wishes: Wishes,
    access: t.Mapping[str, t.Any],
    cri_socket: str,
    api_endpoint: str = "",
    ignore_preflight_errors: t.Sequence[str] = (),
) -> dict[str, t.Any]:
    """The JoinConfiguration for kubeadm. ``access`` is what the module bootstrap_token returned: it holds a secret."""
    node = joining_node(wishes)
    labels = ",".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))
    registration = {
        "name": node["name"],
        "criSocket": cri_socket,
        "taints": node["taints"],
        "ignorePreflightErrors": list(ignore_preflight_errors),
    }
    if labels:
        registration["kubeletExtraArgs"] = [{"name": "node-labels", "value": labels}]
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "token": access["token"],
                "apiServerEndpoint": api_endpoint or access["api_server_endpoint"],
                "caCertHashes": access["ca_cert_hashes"],
            }
        },
        "nodeRegistration": registration,
    }


def join_plan(
    traces: t.Mapping[str, t.Any], name: str, node: t.Mapping[str, t.Any] | None, cluster: t.Mapping[str, t.Any]
) -> dict[str, str]:
    """What to do with a host that is not, or not fully, a node.

    ``traces``: machine_id; kubelet_conf, the parsed kubelet.conf or None; leftovers, whether files of an unfinished
    join are there. ``node``: the Node of that name as nodes_info reports it, or None. ``cluster``: ca_cert (PEM) and
    api_server_endpoint as bootstrap_token returns them.

    Returns action and why. Actions: ``refuse``; ``finish`` (it is a node, only leftovers go); ``revive`` (it has its
    identity, but no Node: restart the kubelet, which registers at its start); ``rejoin`` (leftovers of an unfinished
    join go, then join); ``join``.
    """
    owner = (node or {}).get("machine_id", "")
    kubelet_conf = traces.get("kubelet_conf")
    if owner and owner != traces["machine_id"]:
        where = ", ".join((node or {}).get("addresses") or []) or "unknown addresses"
        return _plan(
            "refuse",
            f"the cluster has a node {name} already and it is another machine ({where}; machine-id {owner}, this host "
            f"has {traces['machine_id']}). If this host was installed anew or replaces it, run 'kubectl delete node "
            f"{name}'; otherwise give this host another gpu_node_name",
        )
    if kubelet_conf and not same_cluster(kubelet_conf, cluster):
        return _plan(
            "refuse",
            f"the host belongs to another cluster ({_server(kubelet_conf)}, by /etc/kubernetes/kubelet.conf), not to "
            f"{cluster['api_server_endpoint']}. If it should move, drain it there and run 'kubeadm reset' on it; "
            "otherwise check gpu_cluster_kubeconfig and gpu_cluster_context",
        )
    if kubelet_conf:
        return _plan("finish", "it is a node") if node else _plan("revive", "its kubelet has an identity, but no node")
    if traces["leftovers"]:
        return _plan("rejoin", "an earlier join did not finish")
    return _plan("join", "it is not in the cluster")


def _plan(action: str, why: str) -> dict[str, str]:
    return {"action": action, "why": why}


def same_cluster(kubelet_conf: t.Mapping[str, t.Any], cluster: t.Mapping[str, t.Any]) -> bool:
    """Whether a kubeconfig trusts one of the cluster's CAs; by address where it names its CA only by a path."""
    entry = _cluster_entry(kubelet_conf)
    try:
        trusted = base64.b64decode(entry.get("certificate-authority-data") or "").decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    if trusted:
        return bool(_certificates(trusted) & _certificates(cluster["ca_cert"]))
    return _server(kubelet_conf).rpartition("//")[2] == cluster["api_server_endpoint"]


def _cluster_entry(kubeconfig: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any]:
    clusters = kubeconfig.get("clusters") or [{}]
    return clusters[0].get("cluster") or {}


def _server(kubeconfig: t.Mapping[str, t.Any]) -> str:
    return _cluster_entry(kubeconfig).get("server", "")


def _certificates(pem: str) -> set[str]:
    bodies = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem, re.DOTALL)
    return {"".join(body.split()) for body in bodies}
