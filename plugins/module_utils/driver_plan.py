# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which driver packages, kernel modules and services a host gets: from wishes and hardware, nothing else.

    refusals(host, wishes) -> list[Finding]     every reason why the wishes cannot be met on this host; no error in it
    = plan() succeeds
    plan(host, wishes) -> dict                  {version, kernel_modules, packages, services}; raises PlanError with
    the refusals

`host` is the registered result of onprem.gpu.gpu_info (gpu_survey_host); only PCI and OS facts are read.
`wishes` is `gpu_driver_wishes` of roles/gpu_driver/vars/main.yml: the role's variables without their prefix (branch,
version, kernel_modules, flavour, fabric_manager, fabric_manager_version, packages, kernel_headers, allow_end_of_life)
and as_of, today as YYYY-MM-DD. Finding: see findings.py.

Package names: NVIDIA's driver installation guide, release 620, and its notes on the renames of branch 590. In the
Ubuntu repository names carried the branch up to 580; Debian and EL names never did. The NVSwitch packages of Debian and
Ubuntu lost it with 580. Ubuntu keeps nvidia-smi in nvidia-utils and nvidia-persistenced in nvidia-compute-utils;
elsewhere the former is in nvidia-driver-cuda and the latter a package of its own.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.driver_branches import (
    BRANCHES,
    branches_for,
    is_past_end,
    open_modules_support,
    proprietary_modules_support,
)
from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, PlanError, errors, finding
from ansible_collections.onprem.gpu.plugins.module_utils.operating_system import operating_system

SUPPORTED_OS = {
    "ubuntu": ("22.04", "24.04", "26.04"),
    "debian": ("12", "13"),
    "el": ("8", "9", "10"),
}
FIRST_BRANCH_WITHOUT_SUFFIX = 590  # in the Ubuntu repository
FIRST_BRANCH_WITHOUT_FABRIC_SUFFIX = 580  # in the Debian and Ubuntu repositories
VERSION_SHAPE = re.compile(r"\d{3}\.\d+(\.\d+)?")
PERSISTENCED = "nvidia-persistenced.service"
FABRIC_MANAGER = "nvidia-fabricmanager.service"


class Wanted(t.NamedTuple):
    """What wishes and hardware come to, once nothing stands against them."""

    system: str
    branch: int
    version: str
    kernel_modules: str
    flavour: str
    fabric_manager: bool


def refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    """Return what stands against installing the wished driver on this host; [] for a host without a GPU."""
    if not gpus(host):
        return []
    if str(wishes["branch"]) not in map(str, BRANCHES):
        return [*_os_refusals(host), _unknown_branch(wishes)]
    return [
        *_os_refusals(host),
        *_version_refusals(wishes),
        *_end_of_life_refusals(wishes),
        *_architecture_refusals(host, wishes),
        *_kernel_module_refusals(host, wishes),
        *_fabric_manager_refusals(host, wishes),
    ]


def plan(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the driver of one host: version, kernel_modules (open or proprietary), packages and services.

    packages are items of the state document, in install order; services are unit names. A host without a GPU gets none.
    Raises PlanError when refusals() has an error.
    """
    if not gpus(host):
        return {"version": None, "kernel_modules": None, "packages": [], "services": []}
    against = errors(refusals(host, wishes))
    if against:
        raise PlanError(against)
    wanted = _wanted(host, wishes)
    return {
        "version": wanted.version,
        "kernel_modules": wanted.kernel_modules,
        "packages": _packages(host, wishes, wanted),
        "services": [_service(name) for name in (PERSISTENCED, *([FABRIC_MANAGER] if wanted.fabric_manager else []))],
    }


def gpus(host: t.Mapping[str, t.Any]) -> list[t.Mapping[str, t.Any]]:
    """Return the GPUs on the PCI bus, which are there with or without a driver."""
    return [device for device in host["pci"] if device["kind"] == "gpu"]


def architectures(host: t.Mapping[str, t.Any]) -> list[str]:
    """Return the known architectures of the host's GPUs, each once, in PCI order."""
    return list(dict.fromkeys(gpu["architecture"] for gpu in gpus(host) if gpu["architecture"]))


def _wanted(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> Wanted:
    branch = int(wishes["branch"])
    return Wanted(
        system=operating_system(host)[0],
        branch=branch,
        version=_version(wishes),
        kernel_modules=_kernel_modules(host, wishes),
        flavour=wishes["flavour"],
        fabric_manager=_wants_fabric_manager(host, wishes),
    )


def _version(wishes: t.Mapping[str, t.Any]) -> str:
    return str(wishes.get("version") or BRANCHES[int(wishes["branch"])].version or "")


def _kernel_modules(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> str:
    if wishes["kernel_modules"] != "auto":
        return str(wishes["kernel_modules"])
    return "open" if all(map(open_modules_support, architectures(host))) else "proprietary"


def _wants_fabric_manager(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> bool:
    wish = str(wishes["fabric_manager"]).lower()
    return bool(host["nvswitch"]["present"]) if wish == "auto" else wish == "true"


def _service(name: str) -> dict[str, t.Any]:
    return {"name": name, "enabled": True, "state": "started", "disrupts": "gpu"}


# --- packages ---------------------------------------------------------------------------------------------------------


def _packages(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any], wanted: Wanted) -> list[dict[str, t.Any]]:
    own = list(wishes.get("packages") or [])
    names = [*(own or _driver_names(wanted)), *(_fabric_names(wanted) if wanted.fabric_manager else [])]
    return [
        *(_item(name, None) for name in _build_requirements(host, wishes, wanted)),
        *(_item(name, wanted.version) for name in names),
        *(
            {"name": name, "version": None, "state": "absent", "disrupts": "gpu"}
            for name in _rivals(wanted, names)
            if not own
        ),
    ]


def _rivals(wanted: Wanted, names: t.Collection[str]) -> list[str]:
    """Names of other branches, flavours and kernel modules: what is left of them, and held, stands in the way."""
    others = [
        wanted._replace(branch=branch, kernel_modules=modules, flavour="full")
        for branch in BRANCHES
        for modules in ("open", "proprietary")
    ]
    known = [
        name for other in others for name in (*_driver_names(other), *_fabric_names(other), *_brought_along(other))
    ]
    kept = {*names, *_brought_along(wanted)}
    return [name for name in dict.fromkeys(known) if name not in kept]


def _item(name: str, version: str | None) -> dict[str, t.Any]:
    """A package of the state document; what has the driver's version is held, and disturbs GPU work when it changes."""
    of_driver = version is not None
    return {
        "name": name,
        "version": version,
        "hold": of_driver or None,
        "state": "present",
        "disrupts": "gpu" if of_driver else "none",
    }


def _build_requirements(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any], wanted: Wanted) -> list[str]:
    """Headers of the running kernel: dkms builds for it, and the newest kernel in the repository may be another one."""
    wish = wishes.get("kernel_headers", "auto")
    kernel = host["os"]["kernel"]
    headers = f"kernel-devel-{kernel}" if wanted.system == "el" else f"linux-headers-{kernel}"
    versionlock = ["python3-dnf-plugin-versionlock"] if wanted.system == "el" else []
    return [*versionlock, *([headers] if wish == "auto" else [wish] if wish else [])]


def _driver_names(wanted: Wanted) -> list[str]:
    return {"ubuntu": _ubuntu_names, "debian": _debian_names, "el": _el_names}[wanted.system](wanted)


def _ubuntu_suffix(wanted: Wanted) -> str:
    return f"-{wanted.branch}" if wanted.branch < FIRST_BRANCH_WITHOUT_SUFFIX else ""


def _ubuntu_names(wanted: Wanted) -> list[str]:
    suffix = _ubuntu_suffix(wanted)
    module = "-open" if wanted.kernel_modules == "open" else ""
    compute = [
        f"libnvidia-compute{suffix}",
        f"libnvidia-cfg1{suffix}",
        f"nvidia-dkms{suffix}{module}",
        f"nvidia-utils{suffix}",
        f"nvidia-compute-utils{suffix}",
    ]
    if wanted.flavour == "compute":
        return compute
    return [*compute, ("nvidia-open" if module else "cuda-drivers") + suffix]


def _brought_along(wanted: Wanted) -> list[str]:
    """Dependencies on Ubuntu that are named like the driver: those without branch conflict with those of 580."""
    if wanted.system != "ubuntu":
        return []
    suffix = _ubuntu_suffix(wanted)
    stems = ("libnvidia-gpucomp", "nvidia-firmware", "nvidia-kernel-common", "nvidia-kernel-source")
    return [*(f"{stem}{suffix}" for stem in stems), f"nvidia-kernel-source{suffix}-open"]


def _debian_names(wanted: Wanted) -> list[str]:
    is_open = wanted.kernel_modules == "open"
    compute = [
        "nvidia-driver-cuda",
        "nvidia-kernel-open-dkms" if is_open else "nvidia-kernel-dkms",
        "nvidia-persistenced",
    ]
    if wanted.flavour == "compute":
        return compute
    return [*compute, "nvidia-open" if is_open else "cuda-drivers"]


def _el_names(wanted: Wanted) -> list[str]:
    is_open = wanted.kernel_modules == "open"
    compute = [
        "nvidia-driver-cuda",
        "kmod-nvidia-open-dkms" if is_open else "kmod-nvidia-latest-dkms",
        "nvidia-persistenced",
    ]
    if wanted.flavour == "compute":
        return compute
    return [*compute, "nvidia-open" if is_open else "cuda-drivers"]


def _fabric_names(wanted: Wanted) -> list[str]:
    """Fabric manager and the NVSwitch telemetry library; both refuse to work with a driver of another version."""
    with_branch = wanted.system != "el" and wanted.branch < FIRST_BRANCH_WITHOUT_FABRIC_SUFFIX
    suffix = f"-{wanted.branch}" if with_branch else ""
    return [f"nvidia-fabricmanager{suffix}", f"libnvidia-nscq{suffix}"]


# --- refusals ---------------------------------------------------------------------------------------------------------


def _os_refusals(host: t.Mapping[str, t.Any]) -> list[Finding]:
    system, release = operating_system(host)
    if release in SUPPORTED_OS.get(system, ()):
        return []
    return [
        finding(
            check="driver_os_supported",
            value=f"{host['os']['id']} {host['os']['version_id']}",
            message=f"NVIDIA's driver repository has nothing for {host['os']['id']} {host['os']['version_id']}.",
            allowed=", ".join(f"{name} {' '.join(releases)}" for name, releases in SUPPORTED_OS.items()),
            variable="the operating system of the host",
        )
    ]


def _unknown_branch(wishes: t.Mapping[str, t.Any]) -> Finding:
    return finding(
        check="driver_branch_known",
        value=wishes["branch"],
        message=f"Driver branch {wishes['branch']} is not known.",
        allowed=", ".join(map(str, branches_for([], wishes["as_of"]))),
        variable="gpu_driver_branch",
    )


def _version_refusals(wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    version = _version(wishes)
    if VERSION_SHAPE.fullmatch(version) and version.split(".", maxsplit=1)[0] == str(wishes["branch"]):
        return []
    return [
        finding(
            check="driver_version_of_branch",
            value=version,
            message=f"Driver version {version or '(none)'} is not a version of branch {wishes['branch']}.",
            allowed=f"{wishes['branch']}.x.y, the exact version without package revision",
            variable="gpu_driver_version",
        )
    ]


def _end_of_life_refusals(wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    number = int(wishes["branch"])
    branch = BRANCHES[number]
    if wishes["allow_end_of_life"]:
        return []
    if branch.end_of_life is None:
        return [
            finding(
                check="driver_branch_end_of_life",
                value=number,
                message=f"NVIDIA's support table has no end of life for driver branch {number}.",
                allowed=", ".join(map(str, branches_for([], wishes["as_of"]))),
                variable="gpu_driver_branch",
                severity="warning",
            )
        ]
    if not is_past_end(branch, wishes["as_of"]):
        return []
    return [
        finding(
            check="driver_branch_end_of_life",
            value=number,
            message=f"Driver branch {number} got its last fixes in {branch.end_of_life}.",
            allowed=f"{', '.join(map(str, branches_for([], wishes['as_of'])))}, or gpu_driver_allow_end_of_life: true",
            variable="gpu_driver_branch",
        )
    ]


def _architecture_refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    number = int(wishes["branch"])
    present = architectures(host)
    if _no_modules_serve_all(host):
        return [_mixed_box(host)]
    unsupported = [name for name in present if not BRANCHES[number].supports(name)]
    allowed = ", ".join(map(str, branches_for(present, wishes["as_of"]))) or "none"
    return [
        finding(
            check="driver_branch_supports_gpus",
            value=number,
            message=f"Driver branch {number} does not support {_named(host, [name])}.",
            allowed=allowed,
            variable="gpu_driver_branch",
        )
        for name in unsupported
    ]


def _no_modules_serve_all(host: t.Mapping[str, t.Any]) -> bool:
    return not _all_run_open(host) and not _all_run_proprietary(host)


def _all_run_open(host: t.Mapping[str, t.Any]) -> bool:
    return all(map(open_modules_support, architectures(host)))


def _all_run_proprietary(host: t.Mapping[str, t.Any]) -> bool:
    known = [gpu for gpu in gpus(host) if gpu["architecture"]]
    return all(proprietary_modules_support(gpu["architecture"], gpu["form_factor"]) for gpu in known)


def _mixed_box(host: t.Mapping[str, t.Any]) -> Finding:
    mix = _named(host, architectures(host))
    text = (
        f"No driver serves all GPUs of this host: {mix}. Some need the proprietary kernel modules, some the open ones."
    )
    return finding(
        check="driver_serves_all_gpus",
        value=mix,
        message=text,
        allowed="GPUs up to Volta, or Turing and newer, in one host",
        variable="the hardware of the host",
    )


def _kernel_module_refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    if _no_modules_serve_all(host):
        return []
    flavour, branch = _kernel_modules(host, wishes), wishes["branch"]
    if flavour == "open" and not _all_run_open(host):
        old = [name for name in architectures(host) if not open_modules_support(name)]
        return [_module_finding(wishes, f"The open kernel modules do not run {_named(host, old)}.", "proprietary")]
    if flavour == "proprietary" and not _all_run_proprietary(host):
        new = [name for name in architectures(host) if _needs_open(host, name)]
        return [_module_finding(wishes, f"The proprietary kernel modules do not run {_named(host, new)}.", "open")]
    if flavour == "proprietary" and not BRANCHES[int(branch)].proprietary:
        return [_module_finding(wishes, f"Driver branch {branch} has no proprietary kernel modules.", "open")]
    return []


def _needs_open(host: t.Mapping[str, t.Any], architecture: str) -> bool:
    return any(
        gpu["architecture"] == architecture and not proprietary_modules_support(architecture, gpu["form_factor"])
        for gpu in gpus(host)
    )


def _module_finding(wishes: t.Mapping[str, t.Any], message: str, allowed: str) -> Finding:
    return finding(
        check="driver_kernel_modules_support_gpus",
        value=wishes["kernel_modules"],
        message=message,
        allowed=f"auto, {allowed}",
        variable="gpu_driver_kernel_modules",
    )


def _fabric_manager_refusals(host: t.Mapping[str, t.Any], wishes: t.Mapping[str, t.Any]) -> list[Finding]:
    found = []
    version, asked = _version(wishes), str(wishes.get("fabric_manager_version") or "")
    if asked not in ("", version):
        found.append(
            finding(
                check="fabric_manager_version",
                value=asked,
                message=f"Fabric manager {asked} refuses to start with driver {version}.",
                allowed=f"{version}, or leave it empty",
                variable="gpu_driver_fabric_manager_version",
            )
        )
    has_switch, wants = bool(host["nvswitch"]["present"]), _wants_fabric_manager(host, wishes)
    if wants and not has_switch:
        found.append(_fabric_manager_wish(wishes, "Fabric manager fails on a host without NVSwitch.", "error"))
    if has_switch and not wants:
        text = "Without fabric manager CUDA fails on this NVSwitch host (error 802, system not yet initialized)."
        found.append(_fabric_manager_wish(wishes, text, "warning"))
    return found


def _fabric_manager_wish(wishes: t.Mapping[str, t.Any], message: str, severity: str) -> Finding:
    return finding(
        check="fabric_manager_needs_nvswitch",
        value=wishes["fabric_manager"],
        message=message,
        allowed="auto",
        variable="gpu_driver_fabric_manager",
        severity=severity,
    )


def _named(host: t.Mapping[str, t.Any], names: t.Iterable[str]) -> str:
    """Return "V100-PCIE-16GB (volta), H100-PCIe (hopper)" for the GPUs of these architectures."""
    return ", ".join(f"{_models(host, name)} ({name})" for name in names)


def _models(host: t.Mapping[str, t.Any], architecture: str) -> str:
    known = (gpu for gpu in gpus(host) if gpu["architecture"] == architecture)
    return ", ".join(dict.fromkeys(gpu["model"] or f"10de:{gpu['device']}" for gpu in known))
