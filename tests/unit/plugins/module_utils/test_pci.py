# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.onprem.gpu.plugins.module_utils.pci import read_devices, switches


def add_device(
    tree, address, *, vendor="10de", device="2330", pci_class="030200", subsystem="10de:16c1", numa=0, driver=None
):
    folder = f"/sys/bus/pci/devices/{address}"
    subsystem_vendor, subsystem_device = subsystem.split(":")
    values = {
        "vendor": f"0x{vendor}",
        "device": f"0x{device}",
        "class": f"0x{pci_class}",
        "subsystem_vendor": f"0x{subsystem_vendor}",
        "subsystem_device": f"0x{subsystem_device}",
        "numa_node": str(numa),
    }
    for name, value in values.items():
        tree.write(f"{folder}/{name}", value + "\n")
    if driver:
        tree.link(f"{folder}/driver", f"../../../../bus/pci/drivers/{driver}")


def test_a_gpu_with_all_its_facts(host_tree):
    add_device(host_tree, "0000:1b:00.0", numa=1, driver="nvidia")
    assert read_devices(host_tree.host()) == [
        {
            "address": "0000:1b:00.0",
            "kind": "gpu",
            "vendor": "10de",
            "device": "2330",
            "class": "0302",
            "subsystem": "10de:16c1",
            "numa_node": 1,
            "driver": "nvidia",
            "model": "H100-SXM5-80GB",
            "architecture": "hopper",
            "form_factor": "sxm",
            "switched": True,
        }
    ]


def test_only_gpus_and_switches_of_nvidia_count(host_tree):
    add_device(host_tree, "0000:00:01.0", vendor="8086", pci_class="030000")
    add_device(host_tree, "0000:00:02.0", pci_class="040300")  # the audio function of a card
    add_device(host_tree, "0000:00:03.0", pci_class="030000", device="1eb8")
    add_device(host_tree, "0000:00:04.0", pci_class="068000", device="22a3")
    add_device(host_tree, "0000:00:05.0", vendor="15b3", pci_class="020700")
    found = read_devices(host_tree.host())
    assert [(one["address"], one["kind"]) for one in found] == [("0000:00:03.0", "gpu"), ("0000:00:04.0", "nvswitch")]


def test_virtual_functions_the_host_made_are_not_its_gpus(host_tree):
    add_device(host_tree, "0000:41:00.0", device="20b5")
    add_device(host_tree, "0000:41:00.4", device="20b5")
    host_tree.link("/sys/bus/pci/devices/0000:41:00.4/physfn", "../0000:41:00.0")
    assert [one["address"] for one in read_devices(host_tree.host())] == ["0000:41:00.0"]


def test_a_numa_node_the_firmware_does_not_tell_is_none(host_tree):
    add_device(host_tree, "0000:1b:00.0", numa=-1)
    assert read_devices(host_tree.host())[0]["numa_node"] is None


def test_an_unreadable_attribute_costs_one_fact(host_tree):
    add_device(host_tree, "0000:1b:00.0")
    numa = host_tree.root / "sys/bus/pci/devices/0000:1b:00.0/numa_node"
    numa.unlink()
    numa.mkdir()
    host = host_tree.host()
    assert read_devices(host)[0]["numa_node"] is None
    assert host.errors[0]["path"].endswith("/numa_node")


def test_a_full_board_expects_switches_and_half_a_board_does_not(host_tree):
    for number in range(4):
        add_device(host_tree, f"0000:1{number}:00.0")
    assert switches(read_devices(host_tree.host())) == {
        "present": False,
        "count": 0,
        "addresses": [],
        "expected": False,
    }
    for number in range(4, 8):
        add_device(host_tree, f"0000:1{number}:00.0")
    add_device(host_tree, "0000:05:00.0", pci_class="068000", device="22a3")
    assert switches(read_devices(host_tree.host())) == {
        "present": True,
        "count": 1,
        "addresses": ["0000:05:00.0"],
        "expected": True,
    }


def test_switches_of_nvlink_5_boards_are_found_by_their_management_device(host_tree):
    for number in range(8):
        add_device(host_tree, f"0000:1{number}:00.0", device="2901", subsystem="10de:1999")
    for number, vital_product_data in enumerate((b"\x82Nvidia SW_MNG\x90", b"\x82ConnectX-7\x90")):
        add_device(host_tree, f"0000:0{number}:00.0", vendor="15b3", device="1021", pci_class="020700")
        host_tree.write(f"/sys/bus/pci/devices/0000:0{number}:00.0/vpd", vital_product_data)
    assert switches(read_devices(host_tree.host()))["addresses"] == ["0000:00:00.0"]


def test_vital_product_data_is_left_alone_on_other_machines(host_tree):
    add_device(host_tree, "0000:10:00.0")
    add_device(host_tree, "0000:00:00.0", vendor="15b3", device="1021", pci_class="020700")
    host_tree.write("/sys/bus/pci/devices/0000:00:00.0/vpd", b"SW_MNG")
    assert switches(read_devices(host_tree.host()))["count"] == 0
