# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes and pods that exist only on paper, on the lab's real control plane: kwok plays their kubelets.

Everything made here belongs to one namespace and to nodes of one label, and is gone afterwards; so is the kwok process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kubernetes
import observe

KWOK = observe.LAB / "bin" / "kwok"
LABEL = "onprem-gpu-paper"
AUDIT_LOG = observe.LAB / "log" / "audit.log"
SECONDS = 60
STAGES = ("pod-create", "pod-ready", "pod-complete")
AT_ONCE = {f"{stage}.stage.kwok.x-k8s.io/{what}": "1ms" for stage in STAGES for what in ("delay", "jitter-delay")}
TOLERATION = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}

Spec = dict[str, t.Any]


class Paper:
    """A namespace, nodes made on demand, and pods bound to them."""

    def __init__(self, kubeconfig: Path, prefix: str) -> None:
        self.run = secrets.token_hex(3)
        self.namespace = f"{prefix}-{self.run}"
        self.client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self.core = kubernetes.client.CoreV1Api(self.client)
        self.apps = kubernetes.client.AppsV1Api(self.client)
        self.policy = kubernetes.client.PolicyV1Api(self.client)
        self.batch = kubernetes.client.BatchV1Api(self.client)
        self.claims = kubernetes.client.ResourceV1Api(self.client)
        self.prefix, self.count = prefix, 0

    @property
    def selector(self) -> str:
        return f"{LABEL}={self.run}"

    def set_up(self) -> None:
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        until(lambda: self.core.list_namespaced_service_account(self.namespace).items)
        # What controls pods on paper: it must exist, or the garbage collector takes them.
        owner = self.core.create_namespaced_config_map(self.namespace, {"metadata": {"name": "owner"}})
        self.owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}

    def clear(self) -> None:
        """Pods, controllers, budgets and nodes are gone when this returns."""
        self._delete(self.apps.delete_collection_namespaced_deployment)
        self._delete(self.apps.delete_collection_namespaced_daemon_set)
        self._delete(self.apps.delete_collection_namespaced_stateful_set)
        self._delete(self.batch.delete_collection_namespaced_job)
        self._delete(self.policy.delete_collection_namespaced_pod_disruption_budget)
        self._delete(self.claims.delete_collection_namespaced_resource_claim)
        self.core.delete_collection_node(label_selector=self.selector)
        until(self._no_pods)

    def _delete(self, delete: t.Callable[..., t.Any]) -> None:
        delete(self.namespace, body={"propagationPolicy": "Background", "gracePeriodSeconds": 0})

    def _no_pods(self) -> bool:
        pods = self.core.list_namespaced_pod(self.namespace).items
        for pod in pods:
            if pod.metadata.finalizers:
                self.patch_pod(pod.metadata.name, {"metadata": {"finalizers": None}})
        self._delete(self.core.delete_collection_namespaced_pod)
        return not pods

    def take_down(self) -> None:
        self.clear()
        self.core.delete_namespace(self.namespace)

    def nodes(self, count: int) -> list[str]:
        """Names of new nodes that are Ready."""
        names = [f"{self.prefix}-{self.run}-{self.count + number}" for number in range(count)]
        self.count += count
        resources = {"cpu": "64", "memory": "512Gi", "pods": "500"}
        for name in names:
            self.core.create_node(
                {
                    "metadata": {"name": name, "labels": {LABEL: self.run, "kubernetes.io/hostname": name}},
                    "spec": {"taints": [{"key": TOLERATION["key"], "value": "fake", "effect": "NoSchedule"}]},
                    "status": {"allocatable": resources, "capacity": resources},
                }
            )
        for name in names:
            until(lambda name=name: self.node_is_ready(name))  # type: ignore[misc]
        return names

    def node_is_ready(self, name: str) -> bool:
        conditions = self.core.read_node(name).status.conditions or []
        return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)

    def is_cordoned(self, name: str) -> bool:
        return bool(self.core.read_node(name).spec.unschedulable)

    def pod(
        self,
        name: str,
        node: str,
        *,
        owned: bool = True,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        finalizers: list[str] | None = None,
        grace: int = 1,
        running: bool = True,
        container: Spec | None = None,
        **spec: t.Any,
    ) -> str:
        """The uid of a new pod on a node."""
        metadata: Spec = {"name": name, "labels": labels, "annotations": {**AT_ONCE, **(annotations or {})}}
        metadata["finalizers"] = finalizers
        if owned:
            metadata["ownerReferences"] = [{**self.owner, "controller": True}]
        made = self.core.create_namespaced_pod(
            self.namespace, {"metadata": metadata, "spec": {**pod_spec(node, grace, container), **spec}}
        )
        if running:
            self.wait_for_phase(name, "Running")
        return str(made.metadata.uid)

    def pods(self, count: int, node: str, **options: t.Any) -> None:
        """Many pods, named p000 and so on, that run."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: self.pod(f"p{number:03}", node, running=False, **options), range(count)))
        until(lambda: len(self.running(node)) >= count)

    def running(self, node: str) -> list[t.Any]:
        chosen = f"spec.nodeName={node},status.phase=Running"
        return list(self.core.list_namespaced_pod(self.namespace, field_selector=chosen).items)

    def on_node(self, node: str) -> list[str]:
        """Names of the pods of a node, those of other namespaces left out."""
        listed = self.core.list_namespaced_pod(self.namespace, field_selector=f"spec.nodeName={node}").items
        return sorted(pod.metadata.name for pod in listed)

    def wait_for_phase(self, name: str, phase: str) -> None:
        until(lambda: self.core.read_namespaced_pod(name, self.namespace).status.phase == phase)

    def patch_pod(self, name: str, patch: Spec) -> None:
        self.core.patch_namespaced_pod(name, self.namespace, patch)

    def patch_pod_status(self, name: str, status: Spec) -> None:
        self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})

    def deployment(self, name: str, replicas: int, labels: dict[str, str], **spec: t.Any) -> None:
        """A real Deployment whose pods may run on the paper nodes; they run when this returns."""
        template = {
            "metadata": {"labels": labels, "annotations": AT_ONCE},
            "spec": {**pod_spec(None, 1, None), "nodeSelector": {LABEL: self.run}, **spec},
        }
        wanted = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        self.apps.create_namespaced_deployment(self.namespace, {"metadata": {"name": name}, "spec": wanted})
        until(lambda: self.apps.read_namespaced_deployment(name, self.namespace).status.ready_replicas == replicas)

    def statefulset(self, name: str, node: str) -> None:
        """A real StatefulSet whose one pod is bound to a node by its template; it runs when this returns."""
        labels = {"stateful": name}
        template = {"metadata": {"labels": labels, "annotations": AT_ONCE}, "spec": pod_spec(node, 1, None)}
        wanted = {"selector": {"matchLabels": labels}, "serviceName": name, "template": template}
        self.apps.create_namespaced_stateful_set(self.namespace, {"metadata": {"name": name}, "spec": wanted})
        until(lambda: self.apps.read_namespaced_stateful_set(name, self.namespace).status.ready_replicas)

    def daemonset(self, name: str, nodes: int) -> None:
        labels = {"daemon": name}
        spec = {
            **pod_spec(None, 1, None),
            "nodeSelector": {LABEL: self.run},
            "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        }
        template = {"metadata": {"labels": labels, "annotations": AT_ONCE}, "spec": spec}
        self.apps.create_namespaced_daemon_set(
            self.namespace,
            {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}},
        )
        until(lambda: self.apps.read_namespaced_daemon_set(name, self.namespace).status.number_ready == nodes)

    def job(self, name: str, node: str, seconds: int) -> None:
        """A real Job with one pod, which runs when this returns and is done after so many seconds."""
        annotations = {**AT_ONCE, "pod-complete.stage.kwok.x-k8s.io/delay": f"{seconds}s"}
        annotations["pod-complete.stage.kwok.x-k8s.io/jitter-delay"] = f"{seconds}s"
        spec = {**pod_spec(node, 1, None), "restartPolicy": "Never"}
        template = {"metadata": {"annotations": annotations}, "spec": spec}
        self.batch.create_namespaced_job(self.namespace, {"metadata": {"name": name}, "spec": {"template": template}})
        until(lambda: self.batch.read_namespaced_job(name, self.namespace).status.ready)

    def claim(self, name: str, node: str) -> str:
        """A ResourceClaim that nobody serves yet."""
        request = {"name": "r", "exactly": {"deviceClassName": "paper"}}
        self.claims.create_namespaced_resource_claim(
            self.namespace, {"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}}
        )
        return name

    def allocate(self, claim: str, driver: str, pod: str, uid: str) -> None:
        """Say that the driver gave a device to the pod."""
        device = {"request": "r", "driver": driver, "pool": "p", "device": "d"}
        status = {
            "allocation": {"devices": {"results": [device]}},
            "reservedFor": [{"resource": "pods", "name": pod, "uid": uid}],
        }
        self.claims.patch_namespaced_resource_claim_status(claim, self.namespace, {"status": status})

    def evict(self, name: str) -> None:
        """As any other client would."""
        self.core.create_namespaced_pod_eviction(
            name, self.namespace, {"metadata": {"name": name, "namespace": self.namespace}}
        )

    @contextlib.contextmanager
    def another_namespace(self) -> t.Iterator[str]:
        name = f"{self.namespace}-other"
        self.core.create_namespace({"metadata": {"name": name}})
        until(lambda: self.core.list_namespaced_service_account(name).items)
        try:
            yield name
        finally:
            with contextlib.suppress(kubernetes.client.ApiException):
                self.core.delete_namespace(name)

    def budget(self, name: str, labels: dict[str, str], **spec: t.Any) -> None:
        """A PodDisruptionBudget that the disruption controller has looked at."""
        wanted = {"selector": {"matchLabels": labels}, **spec}
        self.policy.create_namespaced_pod_disruption_budget(
            self.namespace, {"metadata": {"name": name}, "spec": wanted}
        )
        until(lambda: self.budget_status(name).observed_generation)

    def budget_status(self, name: str) -> t.Any:
        return self.policy.read_namespaced_pod_disruption_budget(name, self.namespace).status


def pod_spec(node: str | None, grace: int, container: Spec | None) -> Spec:
    return {
        **({"nodeName": node} if node else {}),
        "containers": [{"name": "c", "image": "paper", **(container or {})}],
        "terminationGracePeriodSeconds": grace,
        "automountServiceAccountToken": False,
        "tolerations": [TOLERATION],
    }


@contextlib.contextmanager
def paper(kubeconfig: Path, prefix: str) -> t.Iterator[Paper]:
    """Paper nodes with a kwok of their own."""
    made = Paper(kubeconfig, prefix)
    log = observe.ROOT / ".build" / "logs" / f"kwok-{made.namespace}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        str(KWOK),
        f"--kubeconfig={kubeconfig}",
        f"--config={KWOK.resolve().parent / 'kwok-stages.yaml'}",
        f"--manage-nodes-with-label-selector={made.selector}",
        "--node-lease-duration-seconds=40",
    ]
    with log.open("w") as output:
        kwok = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        made.set_up()
        yield made
    finally:
        try:
            made.take_down()
        finally:
            kwok.terminate()
            kwok.wait()


@contextlib.contextmanager
def user_who_may(client: t.Any, name: str, rules: list[Spec]) -> t.Iterator[str]:
    """A user with these rights and no others."""
    rbac = kubernetes.client.RbacAuthorizationV1Api(client)
    rbac.create_cluster_role({"metadata": {"name": name}, "rules": rules})
    rbac.create_cluster_role_binding(
        {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        }
    )
    try:
        yield name
    finally:
        rbac.delete_cluster_role_binding(name)
        rbac.delete_cluster_role(name)


class AuditedRequests:
    """What a user sent to the API server since this was made, by the server's own audit log."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.start = AUDIT_LOG.stat().st_size

    def counted(self) -> dict[str, int]:
        """Verb and resource -> how many."""
        counts: dict[str, int] = {}
        with AUDIT_LOG.open() as lines:
            lines.seek(self.start)
            for line in lines:
                event = json.loads(line)
                if (event.get("impersonatedUser") or {}).get("username") == self.user and self._counts(event):
                    reference = event.get("objectRef") or {}
                    parts = (event["verb"], reference.get("resource"), reference.get("subresource"))
                    name = " ".join(filter(None, parts))
                    counts[name] = counts.get(name, 0) + 1
        return counts

    def _counts(self, event: Spec) -> bool:
        """Each request once: a watch that is still open has no ResponseComplete yet."""
        started = "ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"
        return str(event["stage"]) == started


def until(condition: t.Callable[[], t.Any], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds:.0f} s")
        time.sleep(0.1)


def environment() -> dict[str, str]:
    """For programs that import the collection."""
    return {**os.environ, "PYTHONPATH": str(observe.ROOT / ".build" / "collections")}
