# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node as the cluster has it, and what the join leaves on the host."""

from __future__ import annotations

import base64
import typing as t

import observe
import pytest

Host = t.Any


@pytest.fixture
def node(host: Host) -> dict[str, t.Any]:
    return t.cast(
        "dict[str, t.Any]", observe.cluster_objects("get", "node", host.backend.get_pytest_id().split("//")[-1])
    )


def test_node_is_ready(node: dict[str, t.Any]) -> None:
    assert {"Ready": "True"}.items() <= {item["type"]: item["status"] for item in node["status"]["conditions"]}.items()


def test_only_pods_that_want_gpus_are_let_in(node: dict[str, t.Any]) -> None:
    assert {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"} in node["spec"]["taints"]


def test_no_token_outlives_the_join() -> None:
    secrets = observe.cluster_objects("get", "secret", "--namespace", "kube-system")["items"]
    tokens = [secret["data"] for secret in secrets if secret.get("type") == "bootstrap.kubernetes.io/token"]
    descriptions = [base64.b64decode(token.get("description", "")).decode() for token in tokens]
    assert [text for text in descriptions if "onprem.gpu" in text] == []


def test_host_keeps_no_bootstrap_credentials(host: Host) -> None:
    assert not host.file("/etc/kubernetes/bootstrap-kubelet.conf").exists
    assert host.file("/etc/kubernetes/kubelet.conf").mode == 0o600
