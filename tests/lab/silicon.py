# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated hardware of a lab host: GPUs, NVSwitches, NUMA nodes, Secure Boot.

``prepare_host(host, directory)`` writes everything a host needs into one directory, which the host sees read-write as
``/var/lib/silicon`` and which survives its reboots. At each boot the host runs ``sh /var/lib/silicon/boot.sh`` as root
before sysinit.target. Nothing else connects the two, and nothing but the lab's driver packages knows of it.

    board       what is soldered: identities and properties of GPUs and NVSwitches, Secure Boot (``key=value`` lines)
    state       what can change: loaded modules, persistence mode, faults, events; never replaced by a new file, so a
                container that has the file mounted sees changes; every access takes a lock on it
    boot.sh     shows the host its hardware (bind mounts over /sys and /proc), then loads what a real boot would load
    bin/        kernel.py under the names of the programs it stands for: modprobe, rmmod, insmod, lsmod
    modules/    module files that come with the host's kernel: nouveau
    pci/        shown as /sys/bus/pci           node/  shown as /sys/devices/system/node, when NUMA is simulated
    firmware/   shown as /sys/firmware, when the host has EFI         proc/driver/  shown as /proc/driver

Faults for tests: ``inject_xid``, ``lose_gpu``, ``restore_gpu``, and ``edit_state`` for any other value of the state.
``read_board`` and ``read_state`` say what is there.
What the mock library and the module simulation do, and the keys of ``board`` and ``state``: ``silicon/README.md``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import silicon_mig
import silicon_modules
import silicon_numa
import silicon_pci
from silicon_files import link, write_in_place
from silicon_models import ARCHITECTURES, MODELS, Model
from silicon_pci import PciDevice

__all__ = [
    "MODELS",
    "edit_state",
    "inject_xid",
    "lose_gpu",
    "prepare_host",
    "read_board",
    "read_state",
    "restore_gpu",
]

SOURCE = Path(__file__).resolve().parent / "silicon"
FORMAT = "1"  # of board and state; a reader refuses any other
PROGRAMS = ("modprobe", "rmmod", "insmod", "lsmod")
SECURE_BOOT_VARIABLE = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SETUP_MODE_VARIABLE = "SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"
NOUVEAU = (
    ("license", "GPL and additional rights"),
    ("description", "nVidia Riva/TNT/GeForce/Quadro/Tesla/Tegra K1+"),
    ("alias", "pci:v000010DEd*sv*sd*bc03sc*i*"),
    ("intree", "Y"),
    ("name", "nouveau"),
)
# Bus numbers as a two-socket machine deals them out, each GPU behind a switch of its own.
GPU_BUSES = (0x18, 0x2A, 0x3A, 0x5D, 0x9A, 0xAB, 0xBA, 0xDB, 0x1C, 0x2E, 0x3E, 0x61, 0x9E, 0xAF, 0xBE, 0xDF)
FIRST_SWITCH_BUS = 0x05


class Gpus(Protocol):
    """What a host says of its GPUs."""

    @property
    def model(self) -> str: ...

    @property
    def count(self) -> int: ...


class Kernel(Protocol):
    """What the host's kernel brings along."""

    @property
    def nouveau(self) -> str: ...


class Host(Protocol):
    """The part of a fleet's host that is hardware; ``fleet.Host`` is one."""

    @property
    def name(self) -> str: ...

    @property
    def gpus(self) -> Gpus: ...

    @property
    def numa_nodes(self) -> int: ...

    @property
    def nvswitches(self) -> int: ...

    @property
    def secure_boot(self) -> str: ...

    @property
    def passthrough(self) -> bool: ...

    @property
    def kernel(self) -> Kernel: ...


def prepare_host(host: Host, directory: Path, models: Sequence[str] = ()) -> None:
    """Write the hardware of a host; what the host has changed in ``state`` since is kept.

    ``models`` names the model of each GPU when they differ. Raises ValueError naming the host and the models that exist
    when a model is unknown.
    """
    models = models or [host.gpus.model] * host.gpus.count
    for model in models:
        if model not in MODELS:
            raise ValueError(f"host {host.name}: no GPU model {model!r}; allowed: {', '.join(sorted(MODELS))}")
    directory.mkdir(parents=True, exist_ok=True)
    gpus, switches = _gpu_devices(host, models), _switch_devices(host)
    write_in_place(directory / "board", _kernel().format_pairs(_board(host, models, gpus, switches)))
    if not (directory / "state").exists():
        write_in_place(directory / "state", _kernel().format_pairs({"format": FORMAT}))
    silicon_pci.write_pci(directory / "pci", [*_base_devices(host), *switches, *gpus])
    silicon_numa.write_numa(directory / "node", host.numa_nodes)
    _write_efi(directory / "firmware", host.secure_boot)
    (directory / "proc/driver").mkdir(parents=True, exist_ok=True)
    _install_programs(directory)


def read_board(directory: Path) -> dict[str, str]:
    """Return the board's ``key=value`` pairs."""
    return dict(_kernel().read_pairs(directory / "board"))


def read_state(directory: Path) -> dict[str, str]:
    """Return the state's ``key=value`` pairs as of now."""
    return dict(_kernel().read_pairs(directory / "state"))


@contextlib.contextmanager
def edit_state(directory: Path) -> Iterator[dict[str, str]]:
    """Change the state's pairs; nobody else reads or writes them meanwhile."""
    with _kernel().edit_pairs(directory / "state") as state:
        yield state


def inject_xid(directory: Path, gpu: int, xid: int) -> None:
    """Let a GPU report an XID: the event sets of all processes, in containers too, deliver it."""
    with edit_state(directory) as state:
        number = int(state.get("event.last", "0")) + 1
        state["event.last"] = str(number)
        state[f"event.{number}"] = f"{gpu} {xid}"


def lose_gpu(directory: Path, gpu: int) -> None:
    """Let a GPU fall off the bus: NVML answers GPU_IS_LOST for it until ``restore_gpu`` or a reboot of the host."""
    with edit_state(directory) as state:
        state[f"gpu.{gpu}.lost"] = "1"


def restore_gpu(directory: Path, gpu: int) -> None:
    """Undo ``lose_gpu``."""
    with edit_state(directory) as state:
        state.pop(f"gpu.{gpu}.lost", None)


@functools.cache
def _kernel() -> ModuleType:
    """The program that hosts run; it owns the format of board and state."""
    spec = importlib.util.spec_from_file_location("silicon_kernel", SOURCE / "kernel.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {SOURCE / 'kernel.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _install_programs(directory: Path) -> None:
    """Copy what runs inside the host; each file is replaced whole, since the host may be running it."""
    (directory / "bin").mkdir(exist_ok=True)
    for name in ("boot.sh", "bin/kernel.py"):
        source, target = SOURCE / Path(name).name, directory / name
        fresh = target.with_name(target.name + ".new")
        shutil.copyfile(source, fresh)
        fresh.chmod(0o755)
        fresh.rename(target)
    for name in PROGRAMS:
        link(directory / "bin" / name, "kernel.py")
    (directory / "modules").mkdir(exist_ok=True)
    write_in_place(directory / "modules/nouveau.ko", silicon_modules.module_file(NOUVEAU))


# -- the board --------------------------------------------------------------------------------------------------------


def _board(
    host: Host, models: Sequence[str], gpus: Sequence[PciDevice], switches: Sequence[PciDevice]
) -> dict[str, str]:
    board = {
        "format": FORMAT,
        "host": host.name,
        "secure_boot": host.secure_boot,
        "nouveau": host.kernel.nouveau,
        "passthrough": str(int(host.passthrough)),
        "gpus": str(len(gpus)),
        "nvswitches": str(len(switches)),
    }
    for index, (name, device) in enumerate(zip(models, gpus, strict=True)):
        board |= {f"gpu.{index}.{key}": value for key, value in _gpu_properties(host, index, name, device)}
    for index, device in enumerate(switches):
        board[f"nvswitch.{index}.pci"] = device.address
    return board


def _gpu_properties(host: Host, index: int, name: str, device: PciDevice) -> Iterator[tuple[str, str]]:
    model = MODELS[name]
    seed = hashlib.sha256(f"{host.name}/{index}".encode()).digest()
    yield "model", name
    yield "name", model.name
    yield "uuid", f"GPU-{uuid.UUID(bytes=seed[:16], version=4)}"
    yield "serial", str(1_320_000_000_000 + int.from_bytes(seed[16:20], "big"))
    yield "minor", str(index)
    yield "pci", device.address
    yield "device_id", f"{model.device:#06x}"
    yield "subsystem_id", f"{model.subsystem:#06x}"
    yield "class", f"{model.pci_class:#08x}"
    yield "memory_mib", str(model.memory_mib)
    yield "architecture", str(ARCHITECTURES[model.architecture])
    yield "compute_capability", model.compute_capability
    yield "numa_node", str(device.numa_node)
    yield "cpus", device.local_cpus
    yield "power_w", str(model.power_w)
    yield "nvlinks", str(model.nvlinks if host.nvswitches else 0)
    yield "mig", str(int(bool(model.mig)))
    if model.mig:
        yield from silicon_mig.board_pairs(model.mig)


def _gpu_devices(host: Host, models: Sequence[str]) -> list[PciDevice]:
    return [
        PciDevice(
            address=f"0000:{bus:02x}:00.0",
            vendor=silicon_pci.NVIDIA,
            device=model.device,
            pci_class=model.pci_class,
            subsystem_vendor=silicon_pci.NVIDIA,
            subsystem_device=model.subsystem,
            numa_node=node,
            local_cpus=_local_cpus(host, node),
            memory_bytes=(16 << 20, model.memory_mib << 20, 32 << 20),
        )
        for (bus, node), model in zip(_places(host), map(MODELS.__getitem__, models), strict=True)
    ]


def _places(host: Host) -> Iterator[tuple[int, int]]:
    """Bus and NUMA node of each GPU, in bus order: the first GPUs hang on the first node."""
    for position, bus in enumerate(sorted(GPU_BUSES[: host.gpus.count])):
        yield bus, position * host.numa_nodes // host.gpus.count


def _local_cpus(host: Host, node: int) -> str:
    return silicon_numa.cpu_list(silicon_numa.cpus_of_node(node, host.numa_nodes, silicon_numa.machine_cpus()))


def _switch_devices(host: Host) -> list[PciDevice]:
    if not host.gpus.count:
        return []
    describe = _connectx_switch if MODELS[host.gpus.model].nvlink5 else _nvswitch
    return [
        describe(f"0000:{FIRST_SWITCH_BUS + index:02x}:00.0", MODELS[host.gpus.model], _local_cpus(host, 0))
        for index in range(host.nvswitches)
    ]


def _nvswitch(address: str, model: Model, local_cpus: str) -> PciDevice:
    return PciDevice(
        address=address,
        vendor=silicon_pci.NVIDIA,
        device=model.nvswitch,
        pci_class=silicon_pci.CLASS_BRIDGE_OTHER,
        subsystem_vendor=silicon_pci.NVIDIA,
        subsystem_device=0x1796,
        numa_node=0,
        local_cpus=local_cpus,
        memory_bytes=(32 << 20,),
    )


def _connectx_switch(address: str, _model: Model, local_cpus: str) -> PciDevice:
    """An NVLink 5 switch shows itself only through the vital product data of its management function."""
    return PciDevice(
        address=address,
        vendor=silicon_pci.MELLANOX,
        device=0x1021,
        pci_class=silicon_pci.CLASS_INFINIBAND,
        subsystem_vendor=silicon_pci.MELLANOX,
        subsystem_device=0x0023,
        numa_node=0,
        local_cpus=local_cpus,
        driver="mlx5_core",
        vpd=silicon_pci.vital_product_data("Nvidia ConnectX-7 NVSwitch management", {"V2": "SW_MNG"}),
        memory_bytes=(32 << 20,),
    )


def _base_devices(host: Host) -> list[PciDevice]:
    """What every server has besides: a system device per socket, the management controller's screen, network, disk."""
    sockets = [
        PciDevice(f"0000:{address}", 0x8086, 0x09A2, silicon_pci.CLASS_SYSTEM_OTHER, 0x8086, 0x0000, node)
        for node, address in enumerate(("00:00.0", "80:00.0"))
        if node < host.numa_nodes
    ]
    mellanox = silicon_pci.MELLANOX
    return [
        *sockets,
        PciDevice("0000:02:00.0", 0x1A03, 0x2000, silicon_pci.CLASS_VGA, 0x1A03, 0x2000, 0, driver="ast"),
        PciDevice("0000:03:00.0", mellanox, 0x101F, silicon_pci.CLASS_ETHERNET, mellanox, 0x16, 0, driver="mlx5_core"),
        PciDevice("0000:04:00.0", 0x144D, 0xA824, silicon_pci.CLASS_NVME, 0x144D, 0xA801, 0, driver="nvme"),
    ]


# -- firmware ---------------------------------------------------------------------------------------------------------


def _write_efi(tree: Path, secure_boot: str) -> None:
    """Write /sys/firmware of a machine with EFI; nothing for one booted by a BIOS."""
    if secure_boot == "unsupported":
        shutil.rmtree(tree, ignore_errors=True)
        return
    variables = tree / "efi/efivars"
    variables.mkdir(parents=True, exist_ok=True)
    attributes = b"\x06\x00\x00\x00"  # readable by boot services and at run time
    write_in_place(variables / SECURE_BOOT_VARIABLE, attributes + bytes([secure_boot == "enabled"]))
    write_in_place(variables / SETUP_MODE_VARIABLE, attributes + b"\x00")
    write_in_place(tree / "efi/fw_platform_size", "64\n")
