#!/usr/bin/python3
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's side of GPU drivers, simulated inside a lab host: loading and unloading nvidia* and nouveau.

Runs under the names modprobe, rmmod, insmod and lsmod, which hand every other module to the real program, and as
``kernel.py boot`` once per boot. What is loaded is written to ``/var/lib/silicon/state``; what a driver shows in /proc,
/sys and /dev is made and removed with it. Exit statuses and messages are those of kmod.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FORMAT = "1"
END = "end"  # last line of a pairs file; what may follow is left over from a longer content

SIMULATED = ("nvidia", "nvidia_modeset", "nvidia_drm", "nvidia_uvm", "nvidia_peermem", "nouveau")
NEEDS = {
    "nvidia_modeset": "nvidia",
    "nvidia_drm": "nvidia_modeset",
    "nvidia_uvm": "nvidia",
    "nvidia_peermem": "nvidia",
}
SIZES = {"nvidia": 14381056, "nvidia_modeset": 1720320, "nvidia_drm": 139264, "nvidia_uvm": 4132864, "nouveau": 3096576}
# Filesystem paths that show a feature is in the running kernel, whatever module it came from -> its name
BUILT_IN = {
    "/proc/sys/net/bridge": "kernel/net/bridge/br_netfilter.ko",
    "/proc/sys/net/netfilter": "kernel/net/netfilter/nf_conntrack.ko",
}
GPU_MAJOR, CONTROL_MINOR, MODESET_MINOR = 195, 255, 254
UVM_MAJOR, CAPS_MAJOR, SWITCH_MAJOR = 508, 507, 506
VOLTA, AMPERE, BLACKWELL = 5, 7, 10  # NVML architecture numbers
# Capability nodes of MIG: their minors are dealt out beforehand, to every instance there could be
MIG_CONFIG, MIG_MONITOR, FIRST_INSTANCE = 1, 2, 3
CAPABILITY_MODES = {MIG_CONFIG: 0o400, MIG_MONITOR: 0o444}
MOST_GPU_INSTANCES, MOST_COMPUTE_INSTANCES = 15, 8
FIRST_BRANCH_WITHOUT_VOLTA = 590
RENAMED = {"NVreg_RestrictProfilingToAdminUsers": "RmProfilingAdminOnly"}  # module parameter -> its name in "params"
SIGNATURE = b"~Module signature appended~\n"


# -- files of key=value lines -----------------------------------------------------------------------------------------


def format_pairs(pairs: dict[str, str]) -> str:
    """Return the text of a board or state file."""
    return "".join(f"{key}={value}\n" for key, value in pairs.items()) + END + "\n"


def parse_pairs(text: str) -> dict[str, str]:
    """Return the pairs of a board or state file. Raises ValueError when its format is not ours."""
    pairs: dict[str, str] = {}
    for line in text.splitlines():
        if line == END:
            break
        key, _, value = line.partition("=")
        pairs[key] = value
    if pairs.get("format") != FORMAT:
        raise ValueError(f"silicon format is {pairs.get('format')!r}; this program knows {FORMAT!r}")
    return pairs


def read_pairs(path: Path) -> dict[str, str]:
    """Read a board or state file under a shared lock."""
    with path.open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return parse_pairs(file.read())


@contextlib.contextmanager
def edit_pairs(path: Path) -> Iterator[dict[str, str]]:
    """Read a state file, let the caller change the pairs, write them back; one lock is held all the while.

    The file stays the same inode. One write puts the whole new content before the old end marker, so that a process
    killed here leaves either the old or the new pairs.
    """
    with path.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pairs = parse_pairs(file.read())
        yield pairs
        content = format_pairs(pairs).encode()
        os.pwrite(file.fileno(), content, 0)
        os.ftruncate(file.fileno(), len(content))


class Refused(Exception):
    """The kernel says no; the text is what kmod prints."""


# -- the host ---------------------------------------------------------------------------------------------------------


class Host:
    """A lab host as this program sees it. ``root`` is / except in tests."""

    def __init__(self, silicon: Path, root: Path = Path("/"), release: str | None = None) -> None:
        self.silicon = silicon
        self.root = root
        self.release = release or os.uname().release
        self.board = read_pairs(silicon / "board")

    @property
    def state_file(self) -> Path:
        return self.silicon / "state"

    @property
    def modules_folder(self) -> Path:
        return self.root / "lib/modules" / self.release

    @property
    def gpus(self) -> list[dict[str, str]]:
        return [
            {key: self.board[f"gpu.{index}.{key}"] for key in ("pci", "name", "uuid", "minor", "architecture", "mig")}
            for index in range(int(self.board["gpus"]))
        ]

    @property
    def switches(self) -> list[str]:
        return [self.board[f"nvswitch.{index}.pci"] for index in range(int(self.board["nvswitches"]))]

    def loaded(self) -> dict[str, str]:
        """Return loaded modules and, for NVIDIA's, "version flavour"."""
        state = read_pairs(self.state_file)
        return {key.removeprefix("module."): value for key, value in state.items() if key.startswith("module.")}


# -- module files -----------------------------------------------------------------------------------------------------


def dependencies(host: Host) -> dict[str, tuple[Path, list[str]]]:
    """Return what modules.dep knows: module name -> its file and the modules it needs, first needed first."""
    index = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (host.modules_folder / "modules.dep").read_text(encoding="utf-8").splitlines():
            file, _, needs = line.partition(":")
            needed_first = [module_name(need) for need in reversed(needs.split())]
            index[module_name(file)] = (host.modules_folder / file, needed_first)
    return index


def module_name(path_or_name: str) -> str:
    """``kernel/drivers/nvidia-uvm.ko.xz`` -> ``nvidia_uvm``."""
    return path_or_name.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def module_fields(file: Path) -> dict[str, str]:
    """Return the fields of a module file's .modinfo section."""
    fields = {}
    for entry in file.read_bytes().split(b"\0"):
        key, equals, value = entry.partition(b"=")
        if equals and key.isalpha():
            fields[key.decode()] = value.decode(errors="replace")
    return fields


def configuration(host: Host) -> list[list[str]]:
    """Return the words of every modprobe.d line; a file in /etc hides one of the same name below /usr/lib."""
    files: dict[str, Path] = {}
    for folder in ("usr/lib/modprobe.d", "lib/modprobe.d", "run/modprobe.d", "etc/modprobe.d"):
        files |= {file.name: file for file in sorted((host.root / folder).glob("*.conf"))}
    lines: list[list[str]] = []
    for _, file in sorted(files.items()):
        text = file.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
        lines += [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return lines


def blacklisted(host: Host, module: str) -> bool:
    """Say whether modprobe.d keeps the module from being loaded by hardware."""
    return any(words[0] == "blacklist" and module_name("".join(words[1:2])) == module for words in configuration(host))


def blacklisted_in_initramfs(host: Host, module: str) -> bool:
    """Say the same of the configuration inside the initramfs of the running kernel."""
    for name in (f"initrd.img-{host.release}", f"initramfs-{host.release}.img"):
        with contextlib.suppress(FileNotFoundError):
            content = (host.root / "boot" / name).read_bytes()
            with contextlib.suppress(gzip.BadGzipFile, EOFError):
                content = gzip.decompress(content)
            return re.search(rf"(?m)^\s*blacklist\s+{module}\s*$".encode(), content) is not None
    return blacklisted(host, module)


def soft_dependencies(host: Host, module: str) -> list[str]:
    """Return the modules that modprobe.d wants after this one."""
    for words in configuration(host):
        if words[0] == "softdep" and len(words) > 2 and module_name(words[1]) == module and "post:" in words:
            return [module_name(word) for word in words[words.index("post:") + 1 :] if not word.endswith(":")]
    return []


# -- loading ----------------------------------------------------------------------------------------------------------


def load(host: Host, module: str) -> None:
    """Load a module with all it needs, as modprobe does. Raises Refused."""
    if module in host.loaded():
        return
    index = dependencies(host)
    if module not in index:
        raise Refused(f"modprobe: FATAL: Module {module} not found in directory /lib/modules/{host.release}")
    file, needs = index[module]
    for need in needs:
        if need not in host.loaded():
            insert(host, need, index[need][0])
    insert(host, module, file)
    for extra in soft_dependencies(host, module):
        if extra in index:
            load(host, extra)


def insert(host: Host, module: str, file: Path, program: str = "modprobe") -> None:
    """Put one module file into the kernel. Raises Refused with the kernel's reason."""
    fields = module_fields(file)
    version = fields.get("version", "")
    flavour = {"NVIDIA": "proprietary", "Dual MIT/GPL": "open"}.get(fields.get("license", ""), "")
    if reason := refusal(host, module, version, flavour, signed=file.read_bytes().endswith(SIGNATURE)):
        name = f"'{module}'" if program == "modprobe" else f"module {file}"
        raise Refused(f"{program}: ERROR: could not insert {name}: {reason}")
    show(host, module, version, flavour)  # first: a process killed here is repeated, and finds nothing half done
    with edit_pairs(host.state_file) as state:
        state[f"module.{module}"] = f"{version} {flavour}".strip()
    show_module_list(host)


def refusal(host: Host, module: str, version: str, flavour: str, *, signed: bool) -> str | None:
    """Return why the kernel does not take a module; None = it does."""
    loaded = host.loaded()
    if host.board["secure_boot"] == "enabled" and not signed:
        return "Key was rejected by service"
    if module in ("nvidia", "nouveau") and not host.gpus:
        return "No such device"
    if module == "nvidia":
        return "No such device" if "nouveau" in loaded or not any_supported(host, version, flavour) else None
    if module == "nouveau":
        return "No such device" if "nvidia" in loaded else None
    if loaded.get("nvidia", "").split(" ")[0] != version:
        return "Invalid argument"
    return None


def any_supported(host: Host, version: str, flavour: str) -> bool:
    """Say whether a driver finds a GPU it can drive: open modules from Turing on, proprietary ones before Blackwell."""
    architectures = [int(gpu["architecture"]) for gpu in host.gpus]
    if flavour == "open":
        return any(architecture > VOLTA for architecture in architectures)
    oldest = VOLTA + 1 if int(version.partition(".")[0] or 0) >= FIRST_BRANCH_WITHOUT_VOLTA else 0
    return any(oldest <= architecture < BLACKWELL for architecture in architectures)


# -- unloading --------------------------------------------------------------------------------------------------------


def remove(host: Host, module: str, program: str = "rmmod") -> None:
    """Take one module out of the kernel. Raises Refused when it is not loaded or in use."""
    if module not in host.loaded():
        if program == "rmmod":
            raise Refused(f"rmmod: ERROR: Module {module} is not currently loaded")
        return
    if holders := holders_of(host, module):
        names = "" if program == "modprobe" else f" by: {' '.join(holders)}"
        raise Refused(f"{_fatal(program)} Module {module} is in use{names}{'.' if program == 'modprobe' else ''}")
    if users_of(host, module):
        raise Refused(f"{_fatal(program)} Module {module} is in use{'.' if program == 'modprobe' else ''}")
    hide(host, module)
    with edit_pairs(host.state_file) as state:
        state.pop(f"module.{module}", None)
        if module == "nvidia":
            forget_mig(host, state)
    show_module_list(host)


def forget_mig(host: Host, state: dict[str, str]) -> None:
    """Take from the state what MIG loses with the driver.

    Instances are gone on every GPU. The mode is a bit in the board's memory on Ampere, where what was pending is now in
    force; later GPUs come back with MIG off.
    """
    for index, gpu in enumerate(host.gpus):
        pending = state.get(f"gpu.{index}.mig.pending", state.get(f"gpu.{index}.mig.mode"))
        for key in list(state):
            if key.startswith((f"gpu.{index}.gi.", f"gpu.{index}.mig.mode", f"gpu.{index}.mig.pending")):
                del state[key]
        if pending == "1" and int(gpu["architecture"]) == AMPERE:
            state[f"gpu.{index}.mig.mode"] = "1"


def unload(host: Host, module: str) -> None:
    """Remove a module the way modprobe -r does: soft dependencies before it, what nobody needs any more after it."""
    for extra in reversed(soft_dependencies(host, module)):
        if extra in host.loaded():
            unload(host, extra)
    remove(host, module, "modprobe")
    for need in reversed(dependencies(host).get(module, (None, []))[1]):
        if need in host.loaded() and not holders_of(host, need) and not users_of(host, need):
            remove(host, need, "modprobe")


def _fatal(program: str) -> str:
    return "modprobe: FATAL:" if program == "modprobe" else "rmmod: ERROR:"


def holders_of(host: Host, module: str) -> list[str]:
    """Return the loaded modules that need this one directly."""
    return [other for other in host.loaded() if NEEDS.get(other) == module]


def users_of(host: Host, module: str) -> list[int]:
    """Return the processes that have one of the module's device nodes open (those of containers too)."""
    majors = {"nvidia": (GPU_MAJOR, SWITCH_MAJOR, CAPS_MAJOR), "nvidia_uvm": (UVM_MAJOR,)}.get(module, ())
    if not majors:
        return []
    users = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(_is_device(entry, majors) for entry in folder.iterdir()):
                users.append(int(folder.parent.name))
    return users


def _is_device(descriptor: Path, majors: tuple[int, ...]) -> bool:
    with contextlib.suppress(OSError):
        if "nvidia" in os.readlink(descriptor):
            status = descriptor.stat()
            return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in majors
    return False


# -- what a loaded module shows ---------------------------------------------------------------------------------------


def show(host: Host, module: str, version: str, flavour: str) -> None:
    """Make the files, links and device nodes that come with a module."""
    folder = host.root / "sys/module" / module
    (folder / "holders").mkdir(parents=True, exist_ok=True)
    for name, text in {"version": version, "initstate": "live", "coresize": str(SIZES.get(module, 65536))}.items():
        if text:
            (folder / name).write_text(text + "\n", encoding="ascii")
    if module == "nvidia":
        show_driver(host, version, flavour)
    elif module == "nvidia_uvm":
        make_nodes(host, {"nvidia-uvm": (UVM_MAJOR, 0), "nvidia-uvm-tools": (UVM_MAJOR, 1)})
    elif module == "nvidia_modeset":
        make_nodes(host, {"nvidia-modeset": (GPU_MAJOR, MODESET_MINOR)})
    elif module == "nouveau":
        bind_devices(host, [gpu["pci"] for gpu in host.gpus], "nouveau")


def hide(host: Host, module: str) -> None:
    """Take away what ``show`` made."""
    shutil.rmtree(host.root / "sys/module" / module, ignore_errors=True)
    if module == "nvidia":
        hide_driver(host)
    elif module == "nvidia_uvm":
        remove_nodes(host, "nvidia-uvm*")
    elif module == "nvidia_modeset":
        remove_nodes(host, "nvidia-modeset")
    elif module == "nouveau":
        unbind_devices(host, "nouveau")


def show_driver(host: Host, version: str, flavour: str) -> None:
    """What nvidia.ko shows: device nodes, /proc/driver/nvidia, the driver links of its PCI devices."""
    nodes = {f"nvidia{gpu['minor']}": (GPU_MAJOR, int(gpu["minor"])) for gpu in host.gpus}
    nodes["nvidiactl"] = (GPU_MAJOR, CONTROL_MINOR)
    if host.switches:
        nodes |= {f"nvidia-nvswitch{index}": (SWITCH_MAJOR, index) for index in range(len(host.switches))}
        nodes["nvidia-nvswitchctl"] = (SWITCH_MAJOR, CONTROL_MINOR)
    if any(gpu["mig"] == "1" for gpu in host.gpus):
        nodes |= {f"nvidia-caps/nvidia-cap{minor}": (CAPS_MAJOR, minor) for minor in (MIG_CONFIG, MIG_MONITOR)}
    make_nodes(host, nodes)
    bind_devices(host, [gpu["pci"] for gpu in host.gpus], "nvidia")
    bind_devices(host, host.switches, "nvidia-nvswitch")
    for path, text in driver_files(host, version, flavour).items():
        file = host.silicon / "proc/driver" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="ascii")


def hide_driver(host: Host) -> None:
    """Take away what ``show_driver`` made."""
    remove_nodes(host, "nvidia[0-9]*")
    remove_nodes(host, "nvidiactl")
    remove_nodes(host, "nvidia-nvswitch*")
    shutil.rmtree(host.root / "dev/nvidia-caps", ignore_errors=True)
    unbind_devices(host, "nvidia")
    unbind_devices(host, "nvidia-nvswitch")
    for folder in ("nvidia", "nvidia-caps"):
        shutil.rmtree(host.silicon / "proc/driver" / folder, ignore_errors=True)


def driver_files(host: Host, version: str, flavour: str) -> dict[str, str]:
    """Return the content of /proc/driver: path below it -> text."""
    product = "UNIX Open Kernel Module for x86_64" if flavour == "open" else "UNIX x86_64 Kernel Module"
    builder = "  Release Build  (dvs-builder@U22-I3-AM02-24-3)" if flavour == "open" else ""
    files = {
        "nvidia/version": f"NVRM version: NVIDIA {product}  {version}{builder}  Thu Jan  1 00:00:00 UTC 2026\n"
        "GCC version:  gcc version 12.2.0\n",
        "nvidia/params": "".join(f"{name}: {value}\n" for name, value in driver_parameters(host).items()),
        "nvidia/registry": 'Binary: ""\n',
    }
    for gpu in host.gpus:
        files[f"nvidia/gpus/{gpu['pci']}/information"] = (
            f"Model: \t\t {gpu['name']}\nIRQ:   \t\t 16\nGPU UUID: \t {gpu['uuid']}\nVideo BIOS: \t 96.00.00.00.00\n"
            f"Bus Type: \t PCIe\nDMA Size: \t 52 bits\nDMA Mask: \t 0xfffffffffffff\nBus Location: \t {gpu['pci']}\n"
            f"Device Minor: \t {gpu['minor']}\nGPU Firmware: \t {version}\nGPU Excluded:\t No\n"
        )
    if any(gpu["mig"] == "1" for gpu in host.gpus):
        for minor, name in ((MIG_CONFIG, "config"), (MIG_MONITOR, "monitor")):
            files[f"nvidia/capabilities/mig/{name}"] = (
                f"DeviceFileMinor: {minor}\nDeviceFileMode: {CAPABILITY_MODES[minor]}\nDeviceFileModify: 1\n"
            )
        files["nvidia-caps/mig-minors"] = mig_minors(host)
    return files


def mig_minors(host: Host) -> str:
    """Return /proc/driver/nvidia-caps/mig-minors: a minor for every instance there could ever be."""
    lines = [f"config {MIG_CONFIG}", f"monitor {MIG_MONITOR}"]
    for gpu in host.gpus:
        minor = FIRST_INSTANCE + int(gpu["minor"]) * MOST_GPU_INSTANCES * (1 + MOST_COMPUTE_INSTANCES)
        if gpu["mig"] != "1":
            continue
        for instance in range(MOST_GPU_INSTANCES):
            place = f"gpu{gpu['minor']}/gi{instance}"
            names = [place, *(f"{place}/ci{number}" for number in range(MOST_COMPUTE_INSTANCES))]
            lines += [f"{name}/access {minor + offset}" for offset, name in enumerate(names)]
            minor += len(names)
    return "".join(f"{line}\n" for line in lines)


def driver_parameters(host: Host) -> dict[str, str]:
    """Return the driver's parameters: defaults, then what modprobe.d sets (without the prefix NVreg_)."""
    parameters = {
        # Not the driver's default of 1: a container's own /proc has no driver in it, and with 1 nvidia-cdi-hook insists
        # on changing that container's view of this very setting.
        "ModifyDeviceFiles": "0",
        "DeviceFileUID": "0",
        "DeviceFileGID": "0",
        "DeviceFileMode": "438",
        "RmProfilingAdminOnly": "1",
        "EnableGpuFirmware": "18",
        "OpenRmEnableUnsupportedGpus": "1",
        "RegistryDwords": '""',
    }
    for words in configuration(host):
        if words[0] == "options" and len(words) > 2 and module_name(words[1]) == "nvidia":
            for word in words[2:]:
                name, _, value = word.partition("=")
                parameters[RENAMED.get(name, name.removeprefix("NVreg_"))] = value
    return parameters


def make_nodes(host: Host, nodes: dict[str, tuple[int, int]]) -> None:
    """Make character devices below /dev, readable and writable by all as NVIDIA's are; capabilities have own modes."""
    for name, (major, minor) in nodes.items():
        path = host.root / "dev" / name
        path.parent.mkdir(exist_ok=True)
        mode = CAPABILITY_MODES[minor] if major == CAPS_MAJOR else 0o666
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFCHR | mode, os.makedev(major, minor))
        path.chmod(mode)


def remove_nodes(host: Host, pattern: str) -> None:
    for path in (host.root / "dev").glob(pattern):
        path.unlink()


def bind_devices(host: Host, addresses: list[str], driver: str) -> None:
    """Link PCI devices and driver to each other, as the PCI bus does."""
    if not addresses:
        return
    folder = host.silicon / "pci/drivers" / driver
    folder.mkdir(parents=True, exist_ok=True)
    for address in addresses:
        device = host.silicon / "pci/devices" / address
        (device / "driver").unlink(missing_ok=True)
        (device / "driver").symlink_to(f"../../drivers/{driver}")
        (folder / address).unlink(missing_ok=True)
        (folder / address).symlink_to(f"../../devices/{address}")


def unbind_devices(host: Host, driver: str) -> None:
    folder = host.silicon / "pci/drivers" / driver
    for device in (host.silicon / "pci/devices").iterdir():
        link = device / "driver"
        if link.is_symlink() and Path(os.readlink(link)).name == driver:
            link.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def show_module_list(host: Host) -> None:
    """Bring everything that lists modules up to date: reference counts, holders, /proc/modules, /proc/devices."""
    for module in host.loaded():
        folder = host.root / "sys/module" / module
        holders = holders_of(host, module)
        (folder / "refcnt").write_text(f"{len(holders) + len(users_of(host, module))}\n", encoding="ascii")
        for entry in (folder / "holders").iterdir():
            entry.unlink()
        for holder in holders:
            (folder / "holders" / holder).symlink_to(f"../../{holder}")
    _rewrite(host.silicon / "proc/modules", module_list(host))
    devices = host.silicon / "proc/devices.real"
    if devices.exists():
        _rewrite(host.silicon / "proc/devices", _with_majors(devices.read_text(encoding="ascii"), host.loaded()))


def module_list(host: Host) -> str:
    """Return /proc/modules: the newest module first, the real kernel's own last."""
    lines = ""
    for module in reversed(host.loaded()):
        holders = holders_of(host, module)
        names = "".join(f"{holder}," for holder in holders) or "-"
        count = len(holders) + len(users_of(host, module))
        lines += f"{module} {SIZES.get(module, 65536)} {count} {names} Live 0x0000000000000000\n"
    with contextlib.suppress(FileNotFoundError):
        lines += (host.silicon / "proc/modules.real").read_text(encoding="ascii")
    return lines


def _with_majors(devices: str, loaded: dict[str, str]) -> str:
    majors: dict[int, str] = {}
    if "nvidia" in loaded:
        majors |= {GPU_MAJOR: "nvidia", CAPS_MAJOR: "nvidia-caps", SWITCH_MAJOR: "nvidia-nvswitch"}
    if "nvidia_uvm" in loaded:
        majors |= {UVM_MAJOR: "nvidia-uvm"}
    added = "".join(f"{major:3} {name}\n" for major, name in sorted(majors.items()))
    return devices.replace("\nBlock devices:", f"{added}\nBlock devices:", 1)


def _rewrite(path: Path, text: str) -> None:
    """Give a file new content and keep its inode, which is bound over one in /proc."""
    with path.open("a+", encoding="ascii") as file:
        file.truncate(0)
        file.write(text)


# -- boot -------------------------------------------------------------------------------------------------------------


def boot(host: Host) -> None:
    """Begin with empty memory, then load what hardware and initramfs make a real host load."""
    with edit_pairs(host.state_file) as state:
        for key in list(state):
            if key.startswith(("module.", "event.", "fabric.")) or key.endswith((".lost", ".persistence", ".busy")):
                del state[key]
        forget_mig(host, state)
    hide_driver(host)  # its links and files lie in the silicon folder, which survives a reboot
    unbind_devices(host, "nouveau")
    take_over_programs(host)
    install_stock_modules(host)
    show_module_list(host)
    if host.gpus and host.board["nouveau"] == "loaded" and nouveau_is_free(host):
        attempt(host, "nouveau")
    if "nvidia" in dependencies(host) and not blacklisted(host, "nvidia"):
        attempt(host, "nvidia")


def nouveau_is_free(host: Host) -> bool:
    """Say whether nouveau gets loaded by the initramfs or, later, by the root file system."""
    return not (blacklisted_in_initramfs(host, "nouveau") and blacklisted(host, "nouveau"))


def attempt(host: Host, module: str) -> None:
    try:
        load(host, module)
    except Refused as refused:
        print(refused, file=sys.stderr)


def take_over_programs(host: Host) -> None:
    """Put this program where kmod's names are."""
    for folder in ("usr/sbin", "usr/bin"):
        for name in ("modprobe", "rmmod", "insmod", "lsmod"):
            path = host.root / folder / name
            if path.is_symlink() and os.readlink(path) != str(host.silicon / "bin" / name):
                path.unlink()
                path.symlink_to(host.silicon / "bin" / name)


def install_stock_modules(host: Host) -> None:
    """Give the host the module files its kernel package would bring; depmod only when something is new."""
    host.modules_folder.mkdir(parents=True, exist_ok=True)
    changed = False
    for source in sorted((host.silicon / "modules").glob("*.ko")):
        target = host.modules_folder / "kernel/drivers/gpu/drm" / source.stem / source.name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            changed = True
    built_in = host.modules_folder / "modules.builtin"
    if not built_in.exists() or not built_in.read_text(encoding="ascii"):
        built_in.write_text("".join(f"{file}\n" for file in built_in_modules()), encoding="ascii")
        built_in.with_name("modules.builtin.modinfo").touch()
        changed = True
    if changed:
        subprocess.run(["depmod", host.release], check=True)


def built_in_modules() -> list[str]:
    """Return the modules whose features the running kernel has, so that loading them succeeds."""
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii").split()
    found = ["kernel/fs/overlayfs/overlay.ko"] if "overlay" in filesystems else []
    return found + [file for path, file in BUILT_IN.items() if Path(path).exists()]


# -- the programs -----------------------------------------------------------------------------------------------------


QUESTIONS = ("-c", "-D", "-R", "-V", "-h", "-n")  # options with which modprobe only prints


def modprobe(host: Host, arguments: list[str]) -> int:
    """Run modprobe: ours for simulated modules, the real one for the rest."""
    options, words = _split(arguments, takes_value=("-C", "-d", "-S", "--config", "--dirname", "--set-version"))
    removing = any(_has_flag(option, "r", "--remove") for option in options)
    several = removing or any(_has_flag(option, "a", "--all") for option in options)
    quiet = any(_has_flag(option, "q", "--quiet") for option in options)
    only_asking = any(option in QUESTIONS or option.startswith("--show") for option in options)
    modules = words if several else words[:1]
    if only_asking or not any(module_name(module) in SIMULATED for module in modules):
        return real("modprobe", arguments)
    status = 0
    for module in map(module_name, modules):
        if module not in SIMULATED:
            status |= real("modprobe", [*options, module])
            continue
        if "--first-time" in options and (module in host.loaded()) != removing:
            state = "Module is not in kernel" if removing else "Module already in kernel"
            status |= _complain(f"modprobe: FATAL: {state}.", quiet=quiet)
            continue
        try:
            (unload if removing else load)(host, module)
        except Refused as refused:
            status |= _complain(str(refused), quiet=quiet)
    return status


def rmmod(host: Host, arguments: list[str]) -> int:
    """Run rmmod."""
    options, words = _split(arguments)
    status = 0
    for module in map(module_name, words):
        if module not in SIMULATED:
            status |= real("rmmod", [*options, module])
            continue
        try:
            remove(host, module)
        except Refused as refused:
            status |= _complain(str(refused))
    return status


def insmod(host: Host, arguments: list[str]) -> int:
    """Run insmod: one file, without what it needs."""
    _, words = _split(arguments)
    if not words or module_name(words[0]) not in SIMULATED:
        return real("insmod", arguments)
    module, file = module_name(words[0]), Path(words[0])
    if not file.exists():
        return _complain(f"insmod: ERROR: could not load module {file}: No such file or directory")
    if module in host.loaded():
        return _complain(f"insmod: ERROR: could not insert module {file}: File exists")
    try:
        insert(host, module, file, "insmod")
    except Refused as refused:
        return _complain(str(refused))
    return 0


def lsmod(host: Host, _arguments: list[str]) -> int:
    """Run lsmod, with reference counts as of now (as far as the caller may see processes)."""
    print("Module                  Size  Used by")
    for line in module_list(host).splitlines():
        name, size, count, holders = line.split()[:4]
        print(f"{name:<19} {size:>8}  {count} {'' if holders == '-' else holders.rstrip(',')}".rstrip())
    return 0


def real(name: str, arguments: list[str]) -> int:
    """Run kmod under one of its names."""
    return subprocess.run([name, *arguments], executable="/usr/bin/kmod", check=False).returncode


def _split(arguments: list[str], takes_value: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    options: list[str] = []
    words: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("-"):
            words.append(argument)
            continue
        options.append(argument)
        if argument in takes_value:
            options.append(next(remaining, ""))
    return options, words


def _has_flag(option: str, letter: str, long: str) -> bool:
    return option == long or (option.startswith("-") and not option.startswith("--") and letter in option)


def _complain(text: str, *, quiet: bool = False) -> int:
    if not quiet:
        print(text, file=sys.stderr)
    return 1


PROGRAMS = {"modprobe": modprobe, "rmmod": rmmod, "insmod": insmod}


def main(argv: list[str]) -> int:
    """Run as the program whose name was called; loads and unloads take turns."""
    silicon = Path(os.environ.get("SILICON", "/var/lib/silicon"))
    name = Path(argv[0]).name
    if name == "lsmod":
        return lsmod(Host(silicon), argv[1:])
    if os.geteuid() != 0 and name in PROGRAMS:
        if any(module_name(word) in SIMULATED for word in argv[1:]):
            return _complain(f"{name}: ERROR: Operation not permitted")
        return real(name, argv[1:])
    with (silicon / "kernel.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        host = Host(silicon)
        if name in PROGRAMS:
            return PROGRAMS[name](host, argv[1:])
        if argv[1:] == ["boot"]:
            boot(host)
            return 0
    print(f"{name}: usage: kernel.py boot; other names: {', '.join(PROGRAMS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
