# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The teams of the inventory as the cluster has them."""

from __future__ import annotations

import typing as t

import observe
import pytest
import yaml

TEAMS: list[dict[str, t.Any]] = yaml.safe_load((observe.INVENTORY / "group_vars" / "all.yml").read_text())["gpu_teams"]


def found(team: dict[str, t.Any], kind: str, name: str) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", observe.cluster_objects("get", kind, name, "--namespace", team["namespace"]))


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: str(team["name"]))
def test_quota_is_the_inventory_s(team: dict[str, t.Any]) -> None:
    hard = found(team, "resourcequota", "gpu-team")["spec"]["hard"]
    assert hard["requests.nvidia.com/gpu"] == str(team["quota"]["gpus"])
    assert hard["requests.nvidia.com/gpu.shared"] == "0"


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: str(team["name"]))
def test_network_is_closed(team: dict[str, t.Any]) -> None:
    deny = found(team, "networkpolicy", "gpu-team-default-deny")["spec"]
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"} and "ingress" not in deny and "egress" not in deny


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: str(team["name"]))
def test_pod_security_is_enforced(team: dict[str, t.Any]) -> None:
    labels = observe.cluster_objects("get", "namespace", team["namespace"])["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == team.get("pod_security", "restricted")
