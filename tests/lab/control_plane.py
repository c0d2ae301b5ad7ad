# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Kubernetes control plane on the machine: etcd, API server, controller manager and scheduler.

kubeadm makes certificates, kubeconfigs and everything ``kubeadm join`` asks for, inside a folder of the lab (its
--rootfs), so nothing appears in the machine's own /etc/kubernetes.
"""

from __future__ import annotations

import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import processes
import settings
import yaml
from fleet import Fleet
from progress import LabError, Step

PROCESSES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ROOT = settings.CONTROL_PLANE / "root"
KUBERNETES = ROOT / "etc/kubernetes"
PKI = KUBERNETES / "pki"
AUDIT_LOG = settings.LOGS / "audit.log"
MANY_NODES = 50  # from here on kwok leases are long, and so is the patience with silent nodes
READY_SECONDS = 60


def prepare(programs: Path, step: Step) -> None:
    """Make certificates and kubeconfigs; nothing happens where they are there."""
    if settings.KUBECONFIG.exists():
        return
    KUBERNETES.mkdir(parents=True, exist_ok=True)
    (ROOT / "kubeadm.yaml").write_text(yaml.safe_dump_all(_kubeadm_configuration()))
    _kubeadm_init_phase(programs, "certs all", step)
    for user in ("admin", "super-admin", "controller-manager", "scheduler"):
        _kubeadm_init_phase(programs, f"kubeconfig {user}", step)
    (settings.CONTROL_PLANE / "audit-policy.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))
    shutil.copy(KUBERNETES / "admin.conf", settings.KUBECONFIG)


def start(programs: Path, fleet: Fleet) -> None:
    """Start the four programs that are not running."""
    many = fleet.kwok.nodes >= MANY_NODES
    processes.start("etcd", _etcd(programs))
    processes.start("kube-apiserver", _api_server(programs))
    processes.start("kube-controller-manager", _controller_manager(programs, grace_seconds=40 if many else 16))
    processes.start("kube-scheduler", _scheduler(programs))


def wait_until_ready(seconds: float = READY_SECONDS) -> None:
    """Wait for the API server's /readyz. Raises LabError naming a dead process, or what readyz says."""
    deadline = time.monotonic() + seconds
    while (answer := _readyz()) != "ok":
        for name in PROCESSES:
            process = processes.recorded(name)
            if process is not None and not process.alive:
                raise LabError(f"{name} died; log: {processes.log_of(name)}")
        if time.monotonic() > deadline:
            raise LabError(f"the API server is not ready after {seconds:.0f} s: {answer}")
        time.sleep(0.2)


def set_up_cluster(programs: Path, step: Step) -> None:
    """Give the cluster's administrator her role and publish what kubeadm join reads, once."""
    done = settings.CONTROL_PLANE / "set-up"
    if done.exists():
        return
    super_admin = KUBERNETES / "super-admin.conf"
    binding = yaml.safe_dump(_ADMIN_BINDING)
    kubectl(programs, "apply", "-f", "-", step=step, stdin=binding, kubeconfig=super_admin)
    for phase in ("upload-config all", "bootstrap-token"):
        _kubeadm_init_phase(programs, phase, step)
    # Joining is the product's business: it makes its own token. Only what the phase published around it stays.
    tokens = ["secrets", "--namespace=kube-system", "--field-selector=type=bootstrap.kubernetes.io/token"]
    kubectl(programs, "delete", *tokens, step=step, kubeconfig=super_admin)
    done.touch()


def _kubeadm_init_phase(programs: Path, phase: str, step: Step) -> None:
    step.run([programs / "kubeadm", "init", "phase", *phase.split(), "--rootfs", ROOT, "--config", "/kubeadm.yaml"])


def _readyz() -> str:
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    try:
        with urllib.request.urlopen(f"{settings.API_SERVER}/readyz", context=context, timeout=2) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode().strip() or str(error)
    except OSError as error:
        return str(error)


def _kubeadm_configuration() -> list[dict[str, Any]]:
    version = "kubeadm.k8s.io/v1beta4"
    init: dict[str, Any] = {
        "apiVersion": version,
        "kind": "InitConfiguration",
        "bootstrapTokens": [{"ttl": "10m", "usages": ["signing", "authentication"]}],
        "localAPIEndpoint": {"advertiseAddress": settings.BRIDGE_ADDRESS, "bindPort": settings.API_SERVER_PORT},
        "nodeRegistration": {"name": "lab", "criSocket": "unix:///run/containerd/containerd.sock"},
    }
    cluster: dict[str, Any] = {
        "apiVersion": version,
        "kind": "ClusterConfiguration",
        "kubernetesVersion": f"v{settings.KUBERNETES_VERSION}",
        "clusterName": "lab",
        "controlPlaneEndpoint": f"{settings.BRIDGE_ADDRESS}:{settings.API_SERVER_PORT}",
        "networking": {"serviceSubnet": settings.SERVICE_NETWORK, "podSubnet": settings.POD_NETWORKS},
        "apiServer": {"certSANs": ["127.0.0.1", "localhost"]},
    }
    kubelet: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # The machine's kernel may still have cgroup v1, and hosts have no systemd cgroup delegation of their own.
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        # Leases this short (renewed every quarter) let tests see a dead node within the controller manager's 16 s.
        "nodeLeaseDurationSeconds": 12,
    }
    return [init, cluster, kubelet]


def _etcd(programs: Path) -> list[str | Path]:
    client, peer = (f"http://127.0.0.1:{port}" for port in (settings.ETCD_PORT, settings.ETCD_PEER_PORT))
    return [
        programs / "etcd",
        f"--data-dir={settings.CONTROL_PLANE / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def _api_server(programs: Path) -> list[str | Path]:
    return [
        programs / "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{settings.ETCD_PORT}",
        "--bind-address=0.0.0.0",
        f"--secure-port={settings.API_SERVER_PORT}",
        f"--advertise-address={settings.BRIDGE_ADDRESS}",
        f"--service-cluster-ip-range={settings.SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        "--allow-privileged=true",
        f"--client-ca-file={PKI}/ca.crt",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={PKI}/sa.pub",
        f"--service-account-signing-key-file={PKI}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={PKI}/front-proxy-client.crt",
        f"--proxy-client-key-file={PKI}/front-proxy-client.key",
        "--enable-aggregator-routing=true",  # without kube-proxy, aggregated APIs are reached at their pods
        f"--audit-policy-file={settings.CONTROL_PLANE}/audit-policy.yaml",
        f"--audit-log-path={AUDIT_LOG}",
        "--audit-log-maxsize=200",
        "--audit-log-maxbackup=2",
    ]


def _controller_manager(programs: Path, grace_seconds: int) -> list[str | Path]:
    return [
        programs / "kube-controller-manager",
        f"--kubeconfig={KUBERNETES}/controller-manager.conf",
        f"--authentication-kubeconfig={KUBERNETES}/controller-manager.conf",
        f"--authorization-kubeconfig={KUBERNETES}/controller-manager.conf",
        "--bind-address=127.0.0.1",
        "--controllers=*,bootstrapsigner,tokencleaner",
        f"--cluster-signing-cert-file={PKI}/ca.crt",
        f"--cluster-signing-key-file={PKI}/ca.key",
        f"--root-ca-file={PKI}/ca.crt",
        f"--client-ca-file={PKI}/ca.crt",
        f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt",
        f"--service-account-private-key-file={PKI}/sa.key",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        f"--node-monitor-grace-period={grace_seconds}s",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _scheduler(programs: Path) -> list[str | Path]:
    return [
        programs / "kube-scheduler",
        f"--kubeconfig={KUBERNETES}/scheduler.conf",
        f"--authentication-kubeconfig={KUBERNETES}/scheduler.conf",
        f"--authorization-kubeconfig={KUBERNETES}/scheduler.conf",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def kubectl(
    programs: Path, *arguments: str, step: Step, stdin: str | None = None, kubeconfig: Path = settings.KUBECONFIG
) -> str:
    """Run kubectl, as the cluster's administrator unless told otherwise, and return its output."""
    return step.run([programs / "kubectl", "--kubeconfig", kubeconfig, *arguments], stdin=stdin)


_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

_ADMIN_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "kubeadm:cluster-admins"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "kubeadm:cluster-admins"}],
}
