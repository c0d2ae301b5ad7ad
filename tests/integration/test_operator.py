# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's release with real helm on a real API server: killed, failed, repeated, and GPUs that do not come.

A chart of one ConfigMap and two Node objects stand in for the operator and its hosts, so nothing real is touched.
"""

from __future__ import annotations

import base64
import gzip
import json
import secrets
import typing as t
from pathlib import Path

import observe
import pytest
import yaml

OPERATOR = observe.ROOT / "playbooks" / "operator.yml"
HELM = observe.LAB / "bin" / "helm"
RUN = secrets.token_hex(3)
NAMESPACE = f"contract-{RUN}"
RELEASE = "contract"
NODES = {f"{NAMESPACE}-a": 2, f"{NAMESPACE}-b": 1}

CHART = {"apiVersion": "v2", "name": "contract", "version": "v1.2.3", "appVersion": "v1.2.3"}
CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
  namespace: {{{{ .Release.Namespace }}}}
data:
  values: {{{{ toJson .Values | quote }}}}
"""


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chart")
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text(yaml.safe_dump(CHART))
    (folder / "templates" / "map.yaml").write_text(CONFIG_MAP.format(name="contract"))
    return folder


@pytest.fixture(scope="module")
def run_operator(kubeconfig: Path, chart: Path, tmp_path_factory: pytest.TempPathFactory):
    """run_operator(*words, **variables) runs the playbook for two hosts whose nodes offer what they should."""
    inventory = tmp_path_factory.mktemp("operator") / "inventory.yml"
    facts = {node: {"gpus": [{}] * count, "kubelet": {"joined": False}} for node, count in NODES.items()}
    hosts = {node: {"gpu_survey_host": fact} for node, fact in facts.items()}

    def run(*words: str, **variables: t.Any) -> observe.Run:
        content = {
            "gpu_cluster_kubeconfig": str(kubeconfig),
            "gpu_operator_helm_binary": str(HELM),
            "gpu_operator_chart_ref": str(chart),
            "gpu_operator_chart_version": "v1.2.3",
            "gpu_operator_release_name": RELEASE,
            "gpu_operator_namespace": NAMESPACE,
            "gpu_operator_wait_seconds": 10,
            "gpu_operator_takeover_seconds": 10,
            **variables,
        }
        inventory.write_text(yaml.safe_dump({"all": {"vars": content, "children": {"gpu_nodes": {"hosts": hosts}}}}))
        return observe.play(OPERATOR, *words, inventory=inventory)

    for node, count in NODES.items():
        observe.kubectl(
            "create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        )
        offer(node, count)
    yield run
    observe.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
    observe.kubectl("delete", "node", *NODES)


def offer(node: str, gpus: int) -> None:
    status = {"status": {kind: {"nvidia.com/gpu": str(gpus)} for kind in ("allocatable", "capacity")}}
    observe.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(status))


@pytest.fixture(scope="module")
def predicted(run_operator) -> dict[str, list[str]]:
    """What check mode said where there was no namespace and no release."""
    changed = run_operator("--check").require_success().changed_items()
    with pytest.raises(observe.ObservationError, match="not found"):
        observe.kubectl("get", "namespace", NAMESPACE)
    return t.cast("dict[str, list[str]]", changed)


@pytest.fixture(scope="module")
def installed(run_operator, predicted) -> observe.Run:
    return t.cast("observe.Run", run_operator().require_success())


def values() -> dict[str, t.Any]:
    stored = observe.cluster_objects("get", "configmap", "contract", "--namespace", NAMESPACE)["data"]["values"]
    return t.cast("dict[str, t.Any]", json.loads(stored))


def revisions() -> list[str]:
    secret_names = observe.cluster_objects("get", "secret", "--namespace", NAMESPACE, "-l", "owner=helm")["items"]
    return sorted(one["metadata"]["name"] for one in secret_names)


def kill_helm_in(revision: str) -> None:
    """Leave the release as a helm does that dies while it upgrades."""
    secret = observe.cluster_objects("get", "secret", revision, "--namespace", NAMESPACE)
    release = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(secret["data"]["release"]))))
    release["info"]["status"] = secret["metadata"]["labels"]["status"] = "pending-upgrade"
    packed = base64.b64encode(gzip.compress(json.dumps(release).encode()))
    secret["data"]["release"] = base64.b64encode(packed).decode()
    observe.kubectl("replace", "-f", "-", text=json.dumps(secret))


def test_check_mode_predicts_the_first_run(predicted, installed) -> None:
    assert predicted == installed.changed_items() and predicted


def test_values_are_those_of_hosts_that_own_their_driver(installed) -> None:
    stored = values()
    assert stored["driver"] == {"enabled": False} and stored["toolkit"] == {"enabled": False}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in stored["daemonsets"][
        "tolerations"
    ]


def test_the_namespace_lets_the_operands_in(installed) -> None:
    labels = observe.cluster_objects("get", "namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_a_second_run_writes_nothing(run_operator, installed) -> None:
    before = revisions()
    assert run_operator().require_success().changed_items() == {}
    assert revisions() == before


def test_with_the_fast_path_off_the_module_agrees(run_operator, installed) -> None:
    before = revisions()
    assert run_operator(gpu_survey_fast=False).require_success().changed_items() == {}
    assert revisions() == before


def test_a_changed_value_is_shown_and_written_once(run_operator, installed) -> None:
    wish = {"gpu_operator_values": {"mig": {"strategy": "mixed"}, "extra": {"key": "value"}}}
    check = run_operator("--check", **wish).require_success()
    lines = [event["result"].get("msg") for event in check.results(("ok",))]
    assert ["values.extra.key: not set -> value", "values.mig.strategy: single -> mixed"] in lines
    run = run_operator(**wish).require_success()
    assert run.changed_items() == check.changed_items() != {}
    assert values()["mig"] == {"strategy": "mixed"} and values()["driver"] == {"enabled": False}
    assert run_operator(**wish).require_success().changed_items() == {}


def test_a_release_that_failed_is_repeated_although_its_values_are_right(run_operator, installed, chart: Path) -> None:
    template = chart / "templates" / "map.yaml"
    good = template.read_text()
    template.write_text(good + "---" + CONFIG_MAP.format(name="Not_A_Name"))
    try:
        failed = run_operator(gpu_operator_values={"tries": 1})
    finally:
        template.write_text(good)
    assert failed.exit_code != 0 and "Not_A_Name" in " ".join(failed.failures())
    repeated = run_operator(gpu_operator_values={"tries": 1}).require_success()
    assert repeated.changed_items() and values()["tries"] == 1
    assert run_operator(gpu_operator_values={"tries": 1}).require_success().changed_items() == {}


def test_a_helm_that_was_killed_is_taken_over(run_operator, installed) -> None:
    run_operator().require_success()
    killed = revisions()[-1]
    kill_helm_in(killed)
    assert run_operator("--check").require_success().changed_items() and killed in revisions()
    assert run_operator().require_success().changed_items()
    status = json.loads(
        observe.output_of([str(HELM), "list", "--kubeconfig", str(observe.KUBECONFIG), "-n", NAMESPACE, "-o", "json"])
    )
    assert [one["status"] for one in status] == ["deployed"]
    assert run_operator().require_success().changed_items() == {}


def test_a_node_without_its_gpus_fails_its_own_host_only(run_operator, installed) -> None:
    short, whole = sorted(NODES)
    offer(short, 1)
    try:
        run = run_operator()
    finally:
        offer(short, NODES[short])
    (failure,) = run.failures()
    assert run.exit_code != 0 and failure.startswith(f"{short}: ") and whole not in failure
    for word in ("offers 1 nvidia.com/gpu, wanted 2", "after 10 s", "gpu_operator_wait_seconds", "kubectl"):
        assert word in failure


def test_a_node_that_is_kept_free_of_operands_is_not_waited_for(run_operator, installed) -> None:
    node = sorted(NODES)[0]
    observe.kubectl("label", "node", node, "nvidia.com/gpu.deploy.operands=false")
    offer(node, 0)
    try:
        run_operator().require_success()
    finally:
        observe.kubectl("label", "node", node, "nvidia.com/gpu.deploy.operands-")
        offer(node, NODES[node])


def test_a_chart_of_another_version_is_told(run_operator, installed) -> None:
    (failure,) = run_operator(gpu_operator_chart_version="v9.9.9").failures()
    assert "contract-v1.2.3 -> v9.9.9" in failure and "gpu_operator_chart_version" in failure


def test_a_helm_that_cannot_work_is_refused_before_anything_is_written(run_operator, installed, tmp_path: Path) -> None:
    helm = tmp_path / "helm"
    helm.write_text("#!/bin/sh\necho v4.3.1\n")
    helm.chmod(0o755)
    for binary, word in ((helm, "is helm v4.3.1"), (tmp_path / "none", "no program that can be run")):
        before = observe.generations()
        (failure,) = run_operator(gpu_operator_helm_binary=str(binary), gpu_operator_mig_strategy="none").failures()
        assert word in failure and "gpu_operator_helm_binary" in failure and observe.generations() == before
