# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated hardware a host is given."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import silicon
import silicon_numa
import silicon_pci
from fleet import Gpus, Host, Kernel

HOST = Host(
    name="node-1",
    number=11,
    os="debian12",
    gpus=Gpus("H100-SXM", 8),
    numa_nodes=2,
    nvswitches=4,
    secure_boot="disabled",
    kernel=Kernel(nouveau="loaded"),
)


@pytest.fixture
def small_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one NUMA node, six CPUs and 4,000 kB of memory, whatever this one has."""
    (tmp_path / "online").write_text("0-3,8,9\n")
    (tmp_path / "meminfo").write_text("MemTotal:       4000 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(silicon_numa, "CPU_ONLINE", tmp_path / "online")
    monkeypatch.setattr(silicon_numa, "MEMORY", tmp_path / "meminfo")


def texts_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_gpus_get_identities_that_depend_on_host_and_place_only(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        silicon.prepare_host(HOST, tmp_path / folder)
    silicon.prepare_host(replace(HOST, name="node-2"), tmp_path / "other")
    boards = [silicon.read_board(tmp_path / name) for name in ("first", "second", "other")]
    uuids = {board[f"gpu.{index}.uuid"] for board in boards[1:] for index in range(8)}
    assert boards[0] == boards[1]
    assert len(uuids) == 16
    assert all(uuid.startswith("GPU-") and len(uuid) == 40 for uuid in uuids)


@pytest.mark.usefixtures("small_machine")
def test_preparing_again_keeps_what_the_host_changed(tmp_path: Path) -> None:
    silicon.prepare_host(HOST, tmp_path / "silicon")
    silicon.inject_xid(tmp_path / "silicon", 3, 79)
    before = texts_below(tmp_path / "silicon")
    silicon.prepare_host(HOST, tmp_path / "silicon")
    assert texts_below(tmp_path / "silicon") == before
    assert silicon.read_state(tmp_path / "silicon")["event.1"] == "3 79"


def test_state_is_changed_in_place_so_that_mounts_of_it_stay_valid(tmp_path: Path) -> None:
    silicon.prepare_host(HOST, tmp_path)
    inode = (tmp_path / "state").stat().st_ino
    silicon.lose_gpu(tmp_path, 0)
    silicon.prepare_host(HOST, tmp_path)
    assert (tmp_path / "state").stat().st_ino == inode
    silicon.restore_gpu(tmp_path, 0)
    assert "gpu.0.lost" not in silicon.read_state(tmp_path)


def test_an_unknown_model_names_host_value_and_what_exists(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"node-1: no GPU model 'H1000'; allowed: .*H100-SXM"):
        silicon.prepare_host(replace(HOST, gpus=Gpus("H1000", 1)), tmp_path)


def test_gpus_are_spread_over_the_numa_nodes_in_bus_order(tmp_path: Path) -> None:
    silicon.prepare_host(HOST, tmp_path)
    board = silicon.read_board(tmp_path)
    addresses = [board[f"gpu.{index}.pci"] for index in range(8)]
    assert addresses == sorted(addresses)
    assert [board[f"gpu.{index}.numa_node"] for index in range(8)] == ["0"] * 4 + ["1"] * 4
    for index, address in enumerate(addresses):
        assert (tmp_path / "pci/devices" / address / "numa_node").read_text() == board[f"gpu.{index}.numa_node"] + "\n"


@pytest.mark.parametrize(
    ("model", "identity"),
    [
        ("H100-SXM", "0x10de 0x22a3 0x068000"),
        ("A100-SXM", "0x10de 0x1af1 0x068000"),
        ("B200", "0x15b3 0x1021 0x020700"),
    ],
)
def test_nvswitches_show_themselves_as_their_generation_does(tmp_path: Path, model: str, identity: str) -> None:
    silicon.prepare_host(replace(HOST, gpus=Gpus(model, 8), nvswitches=2), tmp_path)
    folder = tmp_path / "pci/devices" / silicon.read_board(tmp_path)["nvswitch.0.pci"]
    words = [(folder / name).read_text().strip() for name in ("vendor", "device", "class")]
    assert " ".join(words) == identity
    assert (folder / "vpd").exists() == (model == "B200")


def test_configuration_space_says_the_same_as_the_files(tmp_path: Path) -> None:
    silicon.prepare_host(replace(HOST, gpus=Gpus("L4", 1)), tmp_path)
    folder = tmp_path / "pci/devices" / silicon.read_board(tmp_path)["gpu.0.pci"]
    config = (folder / "config").read_bytes()
    assert struct.unpack_from("<HH", config) == (0x10DE, 0x27B8)
    assert struct.unpack_from("<I", config, 8)[0] >> 8 == int((folder / "class").read_text(), 16)
    assert len((folder / "resource").read_text().splitlines()) == silicon_pci.RESOURCES


def test_a_host_without_gpus_has_neither_gpus_nor_switches(tmp_path: Path) -> None:
    silicon.prepare_host(replace(HOST, gpus=Gpus("H100-SXM", 0)), tmp_path)
    vendors = [path.read_text().strip() for path in (tmp_path / "pci/devices").glob("*/vendor")]
    assert "0x10de" not in vendors
    assert silicon.read_board(tmp_path)["nvswitches"] == "0"


@pytest.mark.parametrize(("secure_boot", "last_byte"), [("enabled", 1), ("disabled", 0)])
def test_secure_boot_is_an_efi_variable(tmp_path: Path, secure_boot: str, last_byte: int) -> None:
    silicon.prepare_host(replace(HOST, secure_boot=secure_boot), tmp_path)
    content = (tmp_path / "firmware/efi/efivars" / silicon.SECURE_BOOT_VARIABLE).read_bytes()
    assert content == b"\x06\x00\x00\x00" + bytes([last_byte])


def test_a_machine_booted_by_a_bios_has_no_efi(tmp_path: Path) -> None:
    silicon.prepare_host(replace(HOST, secure_boot="enabled"), tmp_path)
    silicon.prepare_host(replace(HOST, secure_boot="unsupported"), tmp_path)
    assert not (tmp_path / "firmware").exists()


@pytest.mark.usefixtures("small_machine")
def test_numa_deals_out_the_machines_cpus_and_memory(tmp_path: Path) -> None:
    tree = tmp_path / "node"
    silicon_numa.write_numa(tree, 2)
    assert [(tree / f"node{node}/cpulist").read_text() for node in (0, 1)] == ["0-2\n", "3,8-9\n"]
    assert (tree / "node1/cpumap").read_text() == "00000308\n"
    assert (tree / "node1/distance").read_text() == "21 10\n"
    assert (tree / "node0/meminfo").read_text().splitlines()[0].split() == ["Node", "0", "MemTotal:", "2000", "kB"]
    assert (tree / "node1/cpu8").readlink() == Path("../../cpu/cpu8")
    assert (tree / "online").read_text() == "0-1\n"


@pytest.mark.usefixtures("small_machine")
def test_more_nodes_than_cpus_leave_nodes_without_any(tmp_path: Path) -> None:
    tree = tmp_path / "node"
    silicon_numa.write_numa(tree, 8)
    lists = [(tree / f"node{node}/cpulist").read_text().strip() for node in range(8)]
    assert sorted(lists) == ["", "", "0", "1", "2", "3", "8", "9"]
    assert (tree / "has_cpu").read_text() != (tree / "online").read_text()


@pytest.mark.usefixtures("small_machine")
def test_a_host_keeps_the_memory_it_was_prepared_with(tmp_path: Path) -> None:
    silicon_numa.write_numa(tmp_path / "node", 1)
    (tmp_path / "meminfo").write_text("MemTotal:       3000 kB\nMemAvailable:   1000 kB\n")
    silicon_numa.write_numa(tmp_path / "node", 1)
    assert (tmp_path / "node/node0/meminfo").read_text().splitlines()[0].split()[3] == "4000"
    assert (tmp_path / "node/online").read_text() == "0\n"
