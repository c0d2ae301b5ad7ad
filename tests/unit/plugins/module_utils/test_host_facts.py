# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole hosts: what gpu_info says of the kinds of machines the roles have to tell apart."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.host import CommandResult
from ansible_collections.onprem.gpu.plugins.module_utils.host_facts import NVML_FACTS, join_gpus, read_facts

SWITCHES = [f"0000:0{number}:00.0" for number in range(5, 9)]
H100S = [f"0000:{bus}:00.0" for bus in ("1b", "43", "52", "61", "9d", "c3", "d1", "df")]
NO_LIBRARY = ({"state": "no_library", "code": 12, "gpu_count": 0}, [])
TAB = "\t"

SHOW_NOTHING = "\n\n".join(["ActiveState=inactive\nMainPID=0"] * 9) + "\n"


def never(driver_loaded: bool) -> t.Any:
    assert driver_loaded is False
    return NO_LIBRARY


def debian(tree) -> None:
    tree.write("/etc/os-release", 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    tree.write("/proc/sys/kernel/osrelease", "6.1.0-40-amd64\n")
    tree.write("/sys/devices/system/cpu/online", "0-3\n")
    tree.program("systemctl", SHOW_NOTHING)
    tree.program("dpkg-query", packages(("bash", "5.2.15-2+b2")))
    tree.program("modinfo", rc=1, stderr="modinfo: ERROR: Module nvidia not found.\n")


def packages(*names_and_versions: tuple[str, str]) -> str:
    rows = [(name, "amd64", version, "install", "ok", "installed") for name, version in names_and_versions]
    return "".join(TAB.join(row) + "\n" for row in rows)


def add_gpu(tree, address: str, device: str, numa: int, driver: str | None = None) -> None:
    add_pci(tree, address, device, "0x030200", numa)
    if driver:
        tree.link(f"/sys/bus/pci/devices/{address}/driver", f"../../../bus/pci/drivers/{driver}")


def add_pci(tree, address: str, device: str, pci_class: str, numa: int) -> None:
    folder = f"/sys/bus/pci/devices/{address}"
    for name, value in (("vendor", "0x10de"), ("device", f"0x{device}"), ("class", pci_class), ("numa_node", numa)):
        tree.write(f"{folder}/{name}", f"{value}\n")


def loaded_driver(tree, version: str) -> None:
    tree.write("/proc/modules", "nvidia 11567104 0 - Live 0xffffffffc1000000 (OE)\n")
    tree.write("/sys/module/nvidia/version", version + "\n")
    tree.write(
        "/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  R\n"
    )


def test_a_bare_host_without_gpus(host_tree):
    debian(host_tree)
    facts = read_facts(host_tree.host(), never)
    assert facts["pci"] == facts["gpus"] == []
    nothing = {"present": False, "count": 0, "addresses": [], "expected": False, "fabric_manager": False}
    assert facts["nvswitch"] == nothing
    assert facts["driver"]["packages"] == {}
    assert facts["nvml"]["state"] == "no_library"
    assert facts["kubelet"]["distribution"] == "none"
    assert facts["errors"] == []


def test_a_board_of_eight_h100_before_its_driver(host_tree):
    debian(host_tree)
    host_tree.write("/sys/devices/system/node/online", "0-1\n")
    host_tree.write("/sys/devices/system/node/node0/cpulist", "0-1\n")
    host_tree.write("/sys/devices/system/node/node1/cpulist", "2-3\n")
    for number, address in enumerate(H100S):
        add_gpu(host_tree, address, "2330", numa=number // 4)
    for address in SWITCHES:
        add_pci(host_tree, address, "22a3", "0x068000", 0)
    facts = read_facts(host_tree.host(), never)
    assert [gpu["pci_address"] for gpu in facts["gpus"]] == H100S
    assert {(gpu["model"], gpu["architecture"], gpu["uuid"]) for gpu in facts["gpus"]} == {
        ("H100-SXM5-80GB", "hopper", None)
    }
    switches = {"present": True, "count": 4, "addresses": SWITCHES, "expected": True, "fabric_manager": False}
    assert facts["nvswitch"] == switches
    assert [node["gpus"] for node in facts["numa"]] == [H100S[:4], H100S[4:]]


def test_a_fabric_manager_that_runs_is_told(host_tree):
    debian(host_tree)

    def systemctl(argv):
        names = [word for word in argv if word.endswith(".service")]
        states = ["active" if name == "nvidia-fabricmanager.service" else "inactive" for name in names]
        return CommandResult(0, "\n\n".join(f"ActiveState={state}\nMainPID=0" for state in states) + "\n", "")

    host_tree.program_that("systemctl", systemctl)
    assert read_facts(host_tree.host(), never)["nvswitch"]["fabric_manager"]


def test_a_host_with_its_driver_shows_each_gpu_once(host_tree):
    debian(host_tree)
    loaded_driver(host_tree, "580.159.03")
    host_tree.program("dpkg-query", packages(("nvidia-open", "580.159.03-1"), ("nvidia-container-toolkit", "1.20.1-1")))
    for address in H100S[:2]:
        add_gpu(host_tree, address, "2330", numa=0, driver="nvidia")

    def read_nvml(driver_loaded):
        assert driver_loaded is True
        told = [
            dict.fromkeys(NVML_FACTS) | {"index": 1 - n, "pci_address": H100S[n], "uuid": f"GPU-{n}"} for n in (1, 0)
        ]
        return {"state": "ok", "gpu_count": 2}, told

    facts = read_facts(host_tree.host(), read_nvml)
    assert [(gpu["pci_address"], gpu["index"], gpu["uuid"], gpu["kernel_driver"]) for gpu in facts["gpus"]] == [
        (H100S[0], 1, "GPU-0", "nvidia"),
        (H100S[1], 0, "GPU-1", "nvidia"),
    ]
    assert facts["driver"]["packages"] == {"nvidia-open": "580.159.03-1"}
    assert facts["toolkit"]["version"] == "1.20.1"
    assert (facts["driver"]["module_version"], facts["driver"]["flavour"]) == ("580.159.03", "open")


def test_nouveau_holds_the_gpu(host_tree):
    debian(host_tree)
    host_tree.write("/proc/modules", "nouveau 2633728 1 - Live 0xffffffffc1000000\n")
    add_gpu(host_tree, H100S[0], "1eb8", numa=-1, driver="nouveau")
    facts = read_facts(host_tree.host(), never)
    assert facts["driver"]["nouveau_loaded"] is True
    assert facts["gpus"][0]["kernel_driver"] == "nouveau"
    assert facts["gpus"][0]["numa_node"] is None


def test_an_upgrade_without_reboot(host_tree):
    debian(host_tree)
    loaded_driver(host_tree, "580.159.03")
    host_tree.program("dpkg-query", packages(("nvidia-open", "580.173.02-1")))
    host_tree.program("modinfo", "version:        580.173.02\nlicense:        Dual MIT/GPL\n")
    add_gpu(host_tree, H100S[0], "2330", numa=0, driver="nvidia")
    mismatch = {"state": "version_mismatch", "code": 18, "gpu_count": 0}
    facts = read_facts(host_tree.host(), lambda driver_loaded: (mismatch, []))
    assert facts["driver"]["module_version"] == "580.159.03"
    assert facts["driver"]["installed_module_version"] == "580.173.02"
    assert facts["nvml"] == mismatch
    assert [gpu["model"] for gpu in facts["gpus"]] == ["H100-SXM5-80GB"]


def test_el9_asks_rpm_and_reads_dnfs_locks(host_tree):
    debian(host_tree)
    host_tree.write("/etc/os-release", 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n')
    host_tree.write("/etc/dnf/plugins/versionlock.list", "nvidia-open-3:580.159.03-1.el9.*\n")
    rows = [("nvidia-open", "noarch", "3:580.159.03-1.el9"), ("kubelet", "x86_64", "1.37.1-150500.1.1")]
    host_tree.program("rpm", "".join(TAB.join(row) + "\n" for row in rows))
    facts = read_facts(host_tree.host(), never)
    assert (facts["os"]["family"], facts["os"]["package_manager"]) == ("redhat", "dnf")
    assert facts["driver"]["packages"] == {"nvidia-open": "3:580.159.03-1.el9"}
    assert facts["driver"]["held"] == ["nvidia-open"]
    assert facts["kubelet"]["version"] == "1.37.1"
    assert [call[0] for call in host_tree.calls if "dpkg" in call[0]] == []


@pytest.mark.parametrize(
    ("program", "subject"), [("dpkg-query", "packages"), ("systemctl", "systemctl")], ids=["packages", "systemd"]
)
def test_a_broken_program_costs_its_facts_and_is_named(host_tree, program, subject):
    debian(host_tree)
    host_tree.program(program, rc=1, stderr="it is broken\n")
    add_gpu(host_tree, H100S[0], "2330", numa=0)
    facts = read_facts(host_tree.host(), never)
    assert [error["path"] for error in facts["errors"]] == [subject]
    assert "it is broken" in facts["errors"][0]["reason"]
    assert len(facts["gpus"]) == 1


def test_three_programs_are_enough(host_tree):
    debian(host_tree)
    read_facts(host_tree.host(), never)
    assert sorted(call[0].rsplit("/", 1)[1] for call in host_tree.calls) == ["dpkg-query", "modinfo", "systemctl"]


def test_a_gpu_that_only_the_driver_shows_is_kept():
    told = [{"pci_address": "0000:99:00.0", "index": 0}, {"index": 1, "pci_address": None}]
    assert [gpu["pci_address"] for gpu in join_gpus([], told)] == ["0000:99:00.0"]


def test_every_key_of_a_gpu_is_always_there():
    bare, told = join_gpus([{"address": "a"}], [{"pci_address": "b"}])
    assert set(bare) == set(told) >= set(NVML_FACTS)
