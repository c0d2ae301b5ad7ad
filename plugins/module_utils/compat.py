# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host must bring along for GPU pods, besides driver and kubelet settings (driver_plan.py, kubelet_plan.py).

    refusals(host, wishes) -> list[Finding]
    disk_refusals(host, min_free) -> list[Finding]         for a host that is about to be written
    repository_refusals(repositories) -> list[Finding]     keys that are not the wanted ones; needs no host
    answer_refusals(repositories, answers, packages) -> list[Finding]    what repository_info found

Pure. `host` is the registered result of onprem.gpu.gpu_info. `wishes` is `gpu_preflight_wishes`: kubelet_version,
runtime_packages, driver_packages (names) and api_server_version ("" when not known).

Sources: containerd's RELEASES.md and the Kubernetes 1.35 announcement (last minor for containerd 1.x, whose CRI cannot
tell its cgroup driver); KubeletConfiguration v1beta1 (failCgroupV1 is true since 1.35, failSwapOn by default true);
Kubernetes' version skew policy (a kubelet is not newer than the API server and at most three minor versions older);
kernel lockdown: with Secure Boot a module needs a signature by an enrolled key, and DKMS's own key is not one.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils import openpgp
from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import version_matches
from ansible_collections.onprem.gpu.plugins.module_utils.preflight_report import shown

FIRST_KUBELET_WITHOUT_CONTAINERD_1 = (1, 36)
MOST_MINOR_VERSIONS_BEHIND = 3
FIRST_KUBELET_WITHOUT_CGROUP_1 = (1, 35)
OLDEST_CONTAINERD_FOR_IT = (2, 0)
CRI_RUNTIMES = ("containerd", "crio", "embedded")  # Docker alone does not serve a kubelet
UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
BINARY_UNITS = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}

Host = t.Mapping[str, t.Any]
Wishes = t.Mapping[str, t.Any]


def refusals(host: Host, wishes: Wishes) -> list[Finding]:
    """Return what stands against making this host a GPU node."""
    return [
        *_gpu_refusals(host),
        *_runtime_refusals(host, wishes),
        *_containerd_refusals(host, wishes),
        *_skew_refusals(wishes),
        *_cgroup_refusals(host, wishes),
        *_swap_refusals(host),
        *_secure_boot_refusals(host, wishes),
        *_nouveau_refusals(host),
        *_unread_facts(host),
    ]


def size_in_bytes(text: str) -> int:
    """Return the bytes of "5GiB", "5Gi", "500M" or "1048576"; raise ValueError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?)B?\s*", str(text))
    factor = {**UNITS, **BINARY_UNITS}.get(match.group(2)) if match else None
    if not match or not factor:
        raise ValueError(f"{shown(text)} is not a size such as 5GiB")
    return int(float(match.group(1)) * factor)


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "v1.37.1" and "1.37.1-1.1" give (1, 37, 1); () when there are none."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", str(version or ""))
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


# --- hardware and operating system ------------------------------------------------------------------------------------


def _gpu_refusals(host: Host) -> list[Finding]:
    if host["gpus"]:
        return []
    return [
        finding(
            check="gpu_present",
            value="none",
            message="No NVIDIA GPU is on the PCI bus of this host, so there is nothing to do for a driver.",
            allowed="a display or 3D controller of vendor 10de",
            variable="the hosts of the group gpu_nodes",
            severity="warning",
        )
    ]


def disk_refusals(host: Host, min_free: t.Mapping[str, str]) -> list[Finding]:
    """Return the paths with less free space than wanted, {path: "5GiB"}; raise ValueError for another size."""
    found = []
    for path, wanted in sorted(min_free.items()):
        free = (host["disks"].get(path) or {}).get("free_bytes")
        if free is not None and free < size_in_bytes(wanted):
            text = f"{path} has {_mebibytes(free)} free, wanted are {_mebibytes(size_in_bytes(wanted))}."
            allowed = f"at least {wanted} free there, or a smaller size"
            found.append(finding("disk_free", _mebibytes(free), text, allowed, f"gpu_preflight_min_free[{path}]"))
    return found


def _mebibytes(octets: int) -> str:
    return f"{octets // 1024**2} MiB"


def _secure_boot_refusals(host: Host, wishes: Wishes) -> list[Finding]:
    """DKMS signs with a key that only a person at the console can enrol; a loaded module proves that somebody did."""
    built_here = [name for name in wishes["driver_packages"] if "dkms" in name]
    if not host["os"]["secure_boot"] or not built_here or host["driver"]["module_version"]:
        return []
    return [
        finding(
            check="secure_boot",
            value="Secure Boot on",
            message=(
                f"Secure Boot is on and {', '.join(built_here)} builds modules that no enrolled key signs: "
                "they will not load (Key was rejected by service)."
            ),
            allowed=(
                "precompiled signed modules named in gpu_driver_packages; a Machine Owner Key enrolled at the console "
                "(mokutil --import), then gpu_preflight_severity: {secure_boot: warning}; or Secure Boot off"
            ),
            variable="gpu_driver_packages",
        )
    ]


def _nouveau_refusals(host: Host) -> list[Finding]:
    if not host["driver"]["nouveau_loaded"]:
        return []
    return [
        finding(
            check="nouveau_loaded",
            value="nouveau",
            message="The kernel module nouveau holds the GPUs; it goes away with the next reboot.",
            allowed="a reboot after the driver was installed",
            variable="",
            severity="info",
        )
    ]


def _unread_facts(host: Host) -> list[Finding]:
    return [
        finding(
            check="fact_readable",
            value=error["path"],
            message=f"{error['path']} could not be read ({error['reason']}), so what it says is taken as absent.",
            allowed="",
            variable="",
            severity="warning",
        )
        for error in host["errors"]
    ]


# --- container runtime and kubelet ------------------------------------------------------------------------------------


def _runtime_refusals(host: Host, wishes: Wishes) -> list[Finding]:
    present = [name for name in CRI_RUNTIMES if host["runtime"][name].get("version") or host["runtime"][name]["active"]]
    if present or wishes["runtime_packages"]:
        return []
    return [
        finding(
            check="runtime_present",
            value="none",
            message="There is no container runtime on this host, and none is to be installed.",
            allowed='a host with containerd or CRI-O, or packages such as [{name: containerd.io, version: "2.4.2"}]',
            variable="gpu_toolkit_runtime_packages",
        )
    ]


def _containerd_refusals(host: Host, wishes: Wishes) -> list[Finding]:
    kubelet = version_tuple(wishes["kubelet_version"])
    version, variable = _containerd_version(host, wishes)
    containerd = version_tuple(version)
    if not containerd or kubelet < FIRST_KUBELET_WITHOUT_CONTAINERD_1 or containerd >= OLDEST_CONTAINERD_FOR_IT:
        return []
    return [
        finding(
            check="containerd_for_kubelet",
            value=version,
            message=f"Kubelet {wishes['kubelet_version']} does not work with containerd {version}.",
            allowed="containerd 2.0 or newer, or a kubelet before 1.36",
            variable=variable,
        )
    ]


def _containerd_version(host: Host, wishes: Wishes) -> tuple[str, str]:
    """Return (version, where it comes from): the wanted one when we install containerd, else the present one."""
    for package in wishes["runtime_packages"]:
        if package["name"].startswith("containerd") and package.get("version"):
            return str(package["version"]), "gpu_toolkit_runtime_packages"
    return str(host["runtime"]["containerd"]["version"] or ""), "the containerd package of the host"


def _skew_refusals(wishes: Wishes) -> list[Finding]:
    kubelet, server = version_tuple(wishes["kubelet_version"]), version_tuple(wishes["api_server_version"])
    if len(kubelet) < 2 or len(server) < 2:
        return []
    behind = server[1] - kubelet[1]
    if kubelet[0] == server[0] and 0 <= behind <= MOST_MINOR_VERSIONS_BEHIND:
        return []
    return [
        finding(
            check="kubelet_version_skew",
            value=wishes["kubelet_version"],
            message=f"Kubelet {wishes['kubelet_version']} does not go with API server {wishes['api_server_version']}.",
            allowed=f"{server[0]}.{max(server[1] - MOST_MINOR_VERSIONS_BEHIND, 0)} to {server[0]}.{server[1]}",
            variable="gpu_kubelet_version",
        )
    ]


def _cgroup_refusals(host: Host, wishes: Wishes) -> list[Finding]:
    new_kubelet = version_tuple(wishes["kubelet_version"]) >= FIRST_KUBELET_WITHOUT_CGROUP_1
    if host["os"]["cgroup_version"] != 1 or not new_kubelet:
        return []
    return [
        finding(
            check="cgroup_v1",
            value="cgroup v1",
            message=f"Kubelet {wishes['kubelet_version']} refuses to start on cgroup v1 unless failCgroupV1 is false.",
            allowed="cgroup v2 (kernel argument systemd.unified_cgroup_hierarchy=1)",
            variable="failCgroupV1 in the cluster's KubeletConfiguration",
            severity="warning",
        )
    ]


def _swap_refusals(host: Host) -> list[Finding]:
    if not host["os"]["swap_bytes"]:
        return []
    return [
        finding(
            check="swap_on",
            value=_mebibytes(host["os"]["swap_bytes"]),
            message=(
                f"{_mebibytes(host['os']['swap_bytes'])} of swap are on; "
                "the kubelet refuses to start unless failSwapOn is false."
            ),
            allowed="swapoff -a and no swap in /etc/fstab",
            variable="failSwapOn in the cluster's KubeletConfiguration",
            severity="warning",
        )
    ]


# --- repositories -----------------------------------------------------------------------------------------------------


def repository_refusals(repositories: t.Iterable[t.Mapping[str, t.Any]]) -> list[Finding]:
    """Return what is wrong with the keys of repositories {name, url, key, key_fingerprint, variable}.

    variable: prefix of the variables that describe it, such as gpu_driver_repository, or the list it stands in.
    """
    found = []
    for repository in repositories:
        key, wanted = str(repository.get("key") or ""), str(repository.get("key_fingerprint") or "")
        if not key.strip():
            text = f"The repository {repository['name']} ({repository['url']}) has no key."
            found.append(_key_finding(repository, "", text, "the vendor's public key, ASCII-armoured"))
        elif not wanted:
            text = f"The repository {repository['name']} has no key fingerprint to compare its key with."
            found.append(_key_finding(repository, "", text, "40 hexadecimal digits, from the vendor's own page"))
        else:
            problem = openpgp.key_problem(key, wanted)
            if problem:
                text = f"The key of the repository {repository['name']} is wrong: {problem}."
                found.append(_key_finding(repository, wanted, text, "the key with the wanted fingerprint"))
    return found


def _key_finding(repository: t.Mapping[str, t.Any], value: str, text: str, allowed: str) -> Finding:
    return finding("repository_key", value, text, allowed, str(repository["variable"]))


def answer_refusals(
    repositories: t.Iterable[t.Mapping[str, t.Any]],
    answers: t.Iterable[t.Mapping[str, t.Any]],
    packages: t.Iterable[t.Mapping[str, t.Any]],
) -> list[Finding]:
    """Return what the repositories' own answers (RV(repositories) of repository_info) stand against.

    packages: items of a state document; those with an exact version must be offered by one of these repositories.
    """
    variables = {repository["name"]: str(repository["variable"]) for repository in repositories}
    answers = list(answers)
    broken = [_answer_finding(answer, variables[answer["name"]]) for answer in answers if answer["error"]]
    if broken or any(answer["offered"] is None for answer in answers):
        return broken
    offers = [_offer_finding(package, answers) for package in packages if _needs_an_offer(package)]
    return [found for found in offers if found]


def _answer_finding(answer: t.Mapping[str, t.Any], variable: str) -> Finding:
    return finding(
        check="repository_answer",
        value=answer["url"],
        message=f"The repository {answer['name']} cannot be used: {answer['error']}.",
        allowed="an address that answers, signed by the key that is set",
        variable=variable,
    )


def _needs_an_offer(package: t.Mapping[str, t.Any]) -> bool:
    return bool(package.get("version")) and package.get("state", "present") == "present"


def _offer_finding(package: t.Mapping[str, t.Any], answers: t.Iterable[t.Mapping[str, t.Any]]) -> Finding | None:
    versions = [version for answer in answers for version in answer["offered"].get(package["name"], [])]
    if any(version_matches(package["version"], version) for version in versions):
        return None
    addresses = ", ".join(answer["url"] for answer in answers)
    return finding(
        check="package_offered" if versions else "package_known",
        value=f"{package['name']} {package['version']}",
        message=f"No repository of this role offers {package['name']} {package['version']} ({addresses}).",
        allowed=", ".join(versions) or "a repository of the system that has it",
        variable="the version wanted for it, or the role's repositories",
        severity="error" if versions else "warning",
    )
