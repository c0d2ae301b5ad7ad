# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_models import (
    ARCHITECTURES,
    CHIP_RANGES,
    MODELS,
    SUBSYSTEM_MODELS,
    gpu_model,
)


@pytest.mark.parametrize(
    ("device", "subsystem", "known"),
    [
        ("1db1", "10de:1212", ("V100-SXM2-16GB", "volta", "sxm", False)),
        ("1eb8", "10de:12a2", ("T4", "turing", "pcie", False)),
        ("20b2", "10de:1463", ("A100-SXM4-80GB", "ampere", "sxm", True)),
        ("20f1", "10de:145f", ("A100-PCIE-40GB", "ampere", "pcie", False)),
        ("25b6", "10de:14a9", ("A16", "ampere", "pcie", False)),
        ("25b6", "10de:157e", ("A2", "ampere", "pcie", False)),
        ("2330", "10de:16c1", ("H100-SXM5-80GB", "hopper", "sxm", True)),
        ("2331", "10de:1626", ("H100-PCIE-80GB", "hopper", "pcie", False)),
        ("2321", "10de:1839", ("H100-NVL", "hopper", "pcie", False)),
        ("2342", "10de:1809", ("GH200-480GB", "hopper", "superchip", False)),
        ("26b9", "10de:1851", ("L40S", "ada", "pcie", False)),
        ("27b8", "10de:16ee", ("L4", "ada", "pcie", False)),
        ("2901", "10de:1999", ("B200", "blackwell", "sxm", True)),
        ("2941", "10de:2046", ("GB200", "blackwell", "superchip", False)),
        ("3182", "10de:20e6", ("B300", "blackwell", "sxm", True)),
        ("2bb5", "10de:204e", ("RTX-PRO-6000-Blackwell-Server", "blackwell", "pcie", False)),
    ],
)
def test_known_boards(device, subsystem, known):
    assert gpu_model(device, subsystem) == known


@pytest.mark.parametrize(
    ("device", "architecture"),
    [("2204", "ampere"), ("2684", "ada"), ("2b85", "blackwell"), ("23ff", "hopper"), ("1f08", "turing")],
)
def test_a_board_that_is_not_in_the_table_has_an_architecture_by_its_id(device, architecture):
    assert gpu_model(device) == (None, architecture, None, False)


@pytest.mark.parametrize("device", ["0000", "13c2", "4000", "ffff"])
def test_an_unknown_id_is_no_error(device):
    assert gpu_model(device) == (None, None, None, False)


def test_table_and_ranges_agree():
    for device, known in MODELS.items():
        by_range = [name for first, last, name in CHIP_RANGES if first <= int(device, 16) <= last]
        assert by_range == [known.architecture], device


def test_ids_are_written_as_sysfs_does():
    for device in (*MODELS, *(device for device, _subsystem in SUBSYSTEM_MODELS)):
        assert re.fullmatch("[0-9a-f]{4}", device)
    assert {known.architecture for known in MODELS.values()} == set(ARCHITECTURES)
