# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.fleet_table import fleet_lines


def node(**changes):
    return {
        "ready": True,
        "unschedulable": False,
        "kubelet_version": "v1.37.1",
        "labels": {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/cuda.driver-version.full": "580.173.02"},
        "allocatable": {"cpu": "64", "nvidia.com/gpu": "2"},
        **changes,
    }


def cells(line):
    return [cell for cell in line.split("  ") if cell]


def row(found, alive=("gpu-a",), **variables):
    host = {"inventory_hostname": "gpu-a", **variables}
    _headings, line = fleet_lines([host], {"node-a": found} if found else {}, alive)
    return [cell.strip() for cell in cells(line)]


READ = {"gpu_survey_host": {"gpus": [{}, {}]}, "gpu_node_object": {"name": "node-a"}}


def test_a_host_in_service_shows_what_it_offers():
    assert row(node(), **READ) == ["gpu-a", "node-a", "Ready", "2", "2", "580.173.02", "v1.37.1", "NVIDIA-L4"]


@pytest.mark.parametrize(
    ("found", "alive", "state"),
    [
        (node(), (), "FAILED"),
        (None, ("gpu-a",), "no node"),
        (node(ready=False), ("gpu-a",), "NotReady"),
        (node(unschedulable=True), ("gpu-a",), "Ready, cordoned"),
    ],
)
def test_the_state_says_what_keeps_a_host_from_service(found, alive, state):
    assert row(found, alive, **READ)[2] == state


def test_a_host_that_was_not_read_and_is_no_node_shows_nothing():
    assert row(None, ()) == ["gpu-a", "gpu-a", "FAILED", "-", "-", "-", "-", "-"]


def test_a_host_that_failed_early_is_still_looked_up_by_the_name_the_inventory_gives():
    assert row(node(), (), gpu_node_name="node-a")[:5] == ["gpu-a", "node-a", "FAILED", "-", "2"]


@pytest.mark.parametrize(
    ("allocatable", "text"),
    [
        ({"nvidia.com/gpu": "8"}, "8"),
        ({"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "14"}, "14 mig-1g.10gb"),
        ({"cpu": "4"}, "-"),
    ],
)
def test_allocatable_names_what_is_no_plain_gpu(allocatable, text):
    assert row(node(allocatable=allocatable), **READ)[4] == text
