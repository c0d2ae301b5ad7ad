# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The release, and what each node offers to pods, compared with what the driver on the host says."""

from __future__ import annotations

import json
import typing as t

import observe

Host = t.Any
HELM = observe.LAB / "bin" / "helm"


def test_release_is_deployed_with_driver_and_toolkit_left_to_the_host() -> None:
    place = ["--kubeconfig", str(observe.KUBECONFIG), "--namespace", "gpu-operator"]
    (release,) = json.loads(observe.output_of([str(HELM), "list", *place, "--output", "json"]))
    assert (release["status"], release["chart"]) == ("deployed", "gpu-operator-v26.7.0")
    values = json.loads(observe.output_of([str(HELM), "get", "values", "gpu-operator", *place, "--output", "json"]))
    assert not values["driver"]["enabled"] and not values["toolkit"]["enabled"]


def test_namespace_admits_the_operands() -> None:
    labels = observe.cluster_objects("get", "namespace", "gpu-operator")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_node_offers_every_gpu_the_driver_sees(host: Host) -> None:
    node = observe.cluster_objects("get", "node", host.backend.get_pytest_id().split("//")[-1])
    seen = host.check_output("nvidia-smi -L").count("UUID")
    assert seen > 0 and node["status"]["allocatable"]["nvidia.com/gpu"] == str(seen)
    assert node["metadata"]["labels"]["nvidia.com/gpu.count"] == str(seen)
