# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading and unloading of simulated modules, as hosts see it."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import silicon
from fleet import Gpus, Host, Kernel
from mig_machine import kernel
from package_contents import MODULES
from silicon_modules import module_file

RELEASE = "6.1.0-test"
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


class Machine:
    """A host below a temporary folder: its silicon, its root file system, its module files."""

    def __init__(self, place: Path, host: Host) -> None:
        silicon.prepare_host(host, place / "silicon")
        self.root = place / "root"
        for folder in ("dev", "etc/modprobe.d", "boot", f"lib/modules/{RELEASE}"):
            (self.root / folder).mkdir(parents=True)
        self.host = kernel.Host(place / "silicon", self.root, RELEASE)
        self.install_modules(nouveau=module_file(silicon.NOUVEAU))

    def install_modules(self, **files: bytes) -> None:
        """Put module files in place and index them as depmod would."""
        folder = self.root / "lib/modules" / RELEASE
        for name, content in files.items():
            (folder / f"{name}.ko").write_bytes(content)
        needs = {"nvidia-modeset": ["nvidia"], "nvidia-drm": ["nvidia-modeset", "nvidia"], "nvidia-uvm": ["nvidia"]}
        lines = []
        for file in sorted(folder.glob("*.ko")):
            lines.append(f"{file.name}: {' '.join(f'{need}.ko' for need in needs.get(file.stem, []))}\n")
        (folder / "modules.dep").write_text("".join(lines))

    def install_driver(
        self, version: str = "580.95.05", license_text: str = "Dual MIT/GPL", signed: bool = False
    ) -> None:
        tail = b"~Module signature appended~\n" if signed else b""
        fields = [("version", version), ("license", license_text)]
        self.install_modules(**{name: module_file(fields, *symbols) + tail for name, symbols in MODULES.items()})

    def configure(self, text: str) -> None:
        (self.root / "etc/modprobe.d/test.conf").write_text(text)

    def write_initramfs(self, text: str) -> None:
        (self.root / f"boot/initrd.img-{RELEASE}").write_bytes(gzip.compress(text.encode()))

    @property
    def loaded(self) -> list[str]:
        return list(self.host.loaded())


@pytest.fixture(autouse=True)
def _no_real_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device nodes become plain files, which any user may make; depmod is not run; nobody uses a device."""

    def make_file(path: Path, mode: int, device: int) -> None:
        Path(path).touch(exist_ok=False)

    monkeypatch.setattr(kernel.os, "mknod", make_file)
    monkeypatch.setattr(kernel, "users_of", lambda host, module: [])
    monkeypatch.setattr(kernel.subprocess, "run", lambda *arguments, **more: None)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return new_machine(tmp_path, kernel=Kernel(nouveau="absent"))


def new_machine(place: Path, **more: Any) -> Machine:
    return Machine(place, replace(HOST, **more))


def test_loading_brings_what_a_module_needs_first(machine: Machine) -> None:
    machine.install_driver()
    kernel.load(machine.host, "nvidia_drm")
    assert machine.loaded == ["nvidia", "nvidia_modeset", "nvidia_drm"]
    assert machine.host.loaded()["nvidia"] == "580.95.05 open"


def test_loading_shows_devices_proc_and_drivers_and_unloading_takes_them_away(machine: Machine) -> None:
    machine.install_driver()
    kernel.load(machine.host, "nvidia")
    proc = machine.host.silicon / "proc/driver/nvidia"
    device = machine.host.silicon / "pci/devices" / machine.host.gpus[0]["pci"]
    assert {"nvidia0", "nvidia7", "nvidiactl", "nvidia-nvswitch3"} <= set(os.listdir(machine.root / "dev"))
    assert "Open Kernel Module for x86_64  580.95.05" in (proc / "version").read_text()
    assert len(list((proc / "gpus").iterdir())) == 8
    assert (device / "driver").readlink().name == "nvidia"
    assert (machine.root / "sys/module/nvidia/version").read_text() == "580.95.05\n"
    kernel.remove(machine.host, "nvidia")
    assert os.listdir(machine.root / "dev") == []
    assert not proc.exists()
    assert not (device / "driver").is_symlink()
    assert not (machine.root / "sys/module/nvidia").exists()


def test_capabilities_and_their_nodes_have_the_drivers_modes(machine: Machine) -> None:
    machine.install_driver()
    kernel.load(machine.host, "nvidia")
    for minor, name, mode in ((1, "config", 0o400), (2, "monitor", 0o444)):
        text = (machine.host.silicon / "proc/driver/nvidia/capabilities/mig" / name).read_text()
        assert text == f"DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n"
        assert (machine.root / f"dev/nvidia-caps/nvidia-cap{minor}").stat().st_mode & 0o777 == mode


def test_the_module_list_names_holders(machine: Machine) -> None:
    machine.install_driver()
    kernel.load(machine.host, "nvidia_uvm")
    assert kernel.module_list(machine.host).splitlines() == [
        "nvidia_uvm 4132864 0 - Live 0x0000000000000000",
        "nvidia 14381056 1 nvidia_uvm, Live 0x0000000000000000",
    ]


def test_a_module_others_need_is_not_removed(machine: Machine) -> None:
    machine.install_driver()
    kernel.load(machine.host, "nvidia_uvm")
    with pytest.raises(kernel.Refused, match="rmmod: ERROR: Module nvidia is in use by: nvidia_uvm"):
        kernel.remove(machine.host, "nvidia")
    assert machine.loaded == ["nvidia", "nvidia_uvm"]


def test_a_module_with_open_devices_is_not_removed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.install_driver()
    kernel.load(machine.host, "nvidia")
    monkeypatch.setattr(kernel, "users_of", lambda host, module: [4711])
    with pytest.raises(kernel.Refused, match=r"modprobe: FATAL: Module nvidia is in use\."):
        kernel.unload(machine.host, "nvidia")
    assert machine.loaded == ["nvidia"]


def test_modprobe_removes_soft_dependencies_with_the_module(machine: Machine) -> None:
    machine.install_driver()
    machine.configure("softdep nvidia post: nvidia-uvm nvidia-drm\n")
    kernel.load(machine.host, "nvidia")
    assert sorted(machine.loaded) == ["nvidia", "nvidia_drm", "nvidia_modeset", "nvidia_uvm"]
    kernel.unload(machine.host, "nvidia")
    assert machine.loaded == []


def test_a_module_that_is_not_installed_is_not_found(machine: Machine) -> None:
    with pytest.raises(kernel.Refused, match=f"Module nvidia not found in directory /lib/modules/{RELEASE}"):
        kernel.load(machine.host, "nvidia")


def test_modules_of_two_driver_versions_do_not_mix(machine: Machine) -> None:
    machine.install_driver("580.95.05")
    kernel.load(machine.host, "nvidia")
    machine.install_driver("580.99.01")
    with pytest.raises(kernel.Refused, match="could not insert 'nvidia_uvm': Invalid argument"):
        kernel.load(machine.host, "nvidia_uvm")


@pytest.mark.parametrize(
    ("model", "version", "license_text", "loads"),
    [
        ("V100-PCIe", "580.95.05", "NVIDIA", True),
        ("V100-PCIe", "580.95.05", "Dual MIT/GPL", False),
        ("V100-PCIe", "595.91.07", "NVIDIA", False),
        ("L4", "595.91.07", "NVIDIA", True),
        ("L4", "580.95.05", "Dual MIT/GPL", True),
        ("B200", "580.95.05", "NVIDIA", False),
        ("B200", "580.95.05", "Dual MIT/GPL", True),
    ],
)
def test_a_driver_loads_only_where_it_finds_a_gpu_it_can_drive(
    tmp_path: Path, model: str, version: str, license_text: str, loads: bool
) -> None:
    machine = new_machine(tmp_path, gpus=Gpus(model, 2), nvswitches=0)
    machine.install_driver(version, license_text)
    if loads:
        kernel.load(machine.host, "nvidia")
    else:
        with pytest.raises(kernel.Refused, match="could not insert 'nvidia': No such device"):
            kernel.load(machine.host, "nvidia")
    assert machine.loaded == (["nvidia"] if loads else [])


@pytest.mark.parametrize(
    ("secure_boot", "signed", "loads"), [("enabled", False, False), ("enabled", True, True), ("disabled", False, True)]
)
def test_secure_boot_wants_signed_modules(tmp_path: Path, secure_boot: str, signed: bool, loads: bool) -> None:
    machine = new_machine(tmp_path, secure_boot=secure_boot)
    machine.install_driver(signed=signed)
    if loads:
        kernel.load(machine.host, "nvidia")
    else:
        with pytest.raises(kernel.Refused, match="could not insert 'nvidia': Key was rejected by service"):
            kernel.load(machine.host, "nvidia")


def test_nouveau_keeps_nvidia_out_until_it_is_removed(tmp_path: Path) -> None:
    machine = new_machine(tmp_path)
    machine.install_driver()
    kernel.boot(machine.host)
    assert machine.loaded == ["nouveau"]
    with pytest.raises(kernel.Refused, match="could not insert 'nvidia': No such device"):
        kernel.load(machine.host, "nvidia")
    kernel.remove(machine.host, "nouveau")
    kernel.load(machine.host, "nvidia")
    assert machine.loaded == ["nvidia"]


@pytest.mark.parametrize(
    ("in_root", "in_initramfs", "after_boot"),
    [
        (False, False, ["nouveau"]),
        (True, False, ["nouveau"]),
        (False, True, ["nouveau"]),
        (True, True, ["nvidia"]),
    ],
)
def test_nouveau_is_back_after_a_boot_unless_root_and_initramfs_blacklist_it(
    tmp_path: Path, in_root: bool, in_initramfs: bool, after_boot: list[str]
) -> None:
    machine = new_machine(tmp_path)
    machine.install_driver()
    machine.configure("blacklist nouveau\n" if in_root else "\n")
    machine.write_initramfs("options x y=1\nblacklist nouveau\n" if in_initramfs else "# blacklist nouveau\n")
    kernel.boot(machine.host)
    assert machine.loaded == after_boot


def test_a_boot_forgets_memory_and_keeps_what_is_stored(machine: Machine) -> None:
    machine.install_driver()
    kernel.load(machine.host, "nvidia")
    silicon.inject_xid(machine.host.silicon, 0, 79)
    silicon.lose_gpu(machine.host.silicon, 1)
    with kernel.edit_pairs(machine.host.state_file) as state:
        state |= {"gpu.0.persistence": "1", "gpu.0.ecc": "0", "fabric.manager": "580.95.05"}
    (machine.root / "lib/modules" / RELEASE / "modules.dep").write_text("")
    kernel.boot(machine.host)
    assert kernel.read_pairs(machine.host.state_file) == {"format": "1", "gpu.0.ecc": "0"}
    assert not (machine.host.silicon / "proc/driver/nvidia").exists()


def test_parameters_follow_modprobe_configuration(machine: Machine) -> None:
    machine.install_driver()
    machine.configure("options nvidia NVreg_RestrictProfilingToAdminUsers=0 NVreg_EnableGpuFirmware=0\n")
    kernel.load(machine.host, "nvidia")
    text = (machine.host.silicon / "proc/driver/nvidia/params").read_text()
    assert "RmProfilingAdminOnly: 0\n" in text
    assert "EnableGpuFirmware: 0\n" in text


def test_configuration_in_etc_hides_the_one_below_usr_lib(machine: Machine) -> None:
    packaged = machine.root / "usr/lib/modprobe.d/test.conf"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("blacklist nouveau\n")
    assert kernel.blacklisted(machine.host, "nouveau")
    machine.configure("# nothing\n")
    assert not kernel.blacklisted(machine.host, "nouveau")


def test_pairs_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="format is '2'"):
        kernel.parse_pairs("format=2\nend\n")


def test_what_follows_the_end_marker_is_ignored() -> None:
    assert kernel.parse_pairs("format=1\na=b=c\nend\nx=left over\n") == {"format": "1", "a": "b=c"}


def test_other_modules_go_to_the_real_program(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(kernel, "real", lambda name, arguments: calls.append((name, arguments)) or 0)
    assert kernel.modprobe(machine.host, ["-q", "overlay"]) == 0
    assert kernel.modprobe(machine.host, ["-n", "nvidia"]) == 0
    assert kernel.rmmod(machine.host, ["bridge"]) == 0
    assert calls == [("modprobe", ["-q", "overlay"]), ("modprobe", ["-n", "nvidia"]), ("rmmod", ["bridge"])]
