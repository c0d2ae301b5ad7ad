# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Package repositories of a host, and the key and source files that make apt or dnf trust exactly one key for each.

    resolved(repositories, host) -> list[dict]          placeholders of the addresses filled in, vendors' fingerprints
    added
    repository_files(repositories, host) -> list[dict]  `files` of the state document

A repository is {name, url, key, key_fingerprint} and, for apt repositories that are not flat, suites and components;
modules: false shows a yum repository's packages whatever module stream is enabled.

Formats: sources.list(5) (deb822, Signed-By), dnf.conf(5). The vendors' fingerprints were compared with several
independent installers that carry them: they change when a vendor changes its key, and then
gpu_*_repository_key_fingerprint says the new one.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.operating_system import operating_system, package_format

APT_KEYS = "/etc/apt/keyrings"
YUM_KEYS = "/etc/pki/rpm-gpg"
VENDOR_FINGERPRINTS = {
    ("cuda", "apt"): "EB693B3035CD5710E231E123A4B469963BF863CC",
    ("cuda", "yum"): "610C7B14E068A878070DA4E99CD0A493D42D0685",
    ("toolkit", "apt"): "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
    ("toolkit", "yum"): "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
    ("kubernetes", "apt"): "DE15B14486CD377B9E876E1A234654DA9A296436",
    ("kubernetes", "yum"): "DE15B14486CD377B9E876E1A234654DA9A296436",
}
DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CUDA_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}

Repository = t.Mapping[str, t.Any]


def resolved(repositories: t.Iterable[Repository], host: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """Return the repositories as this host uses them: format added, placeholders in url filled in, fingerprint known.

    Placeholders: {os} NVIDIA's folder name (ubuntu2404, debian12, rhel9), {cuda_arch} (x86_64, sbsa), {arch} (amd64 or
    x86_64, as the package format says it), {format} (deb, rpm).
    """
    package = package_format(host)
    return [
        {
            **repository,
            "format": package,
            "url": _filled(str(repository["url"]), host),
            "key_fingerprint": repository.get("key_fingerprint")
            or VENDOR_FINGERPRINTS.get((repository["name"], package), ""),
        }
        for repository in repositories
    ]


def repository_files(repositories: t.Iterable[Repository], host: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """Return the key and the source file of each repository as items of the state document, to be written first."""
    files = _yum_files if package_format(host) == "yum" else _apt_files
    return [
        {
            **file,
            "mode": "0644",
            "owner": "root",
            "group": "root",
            "state": "present",
            "first": True,
            "disrupts": "none",
        }
        for repository in resolved(repositories, host)
        for file in files(repository)
    ]


def _filled(url: str, host: t.Mapping[str, t.Any]) -> str:
    system, release = operating_system(host)
    folder = f"{'rhel' if system == 'el' else system}{release.replace('.', '')}"
    machine = host["os"]["machine"]
    is_yum = package_format(host) == "yum"
    values = {
        "{os}": folder,
        "{cuda_arch}": CUDA_ARCHITECTURES.get(machine, machine),
        "{arch}": machine if is_yum else DEB_ARCHITECTURES.get(machine, machine),
        "{format}": "rpm" if is_yum else "deb",
    }
    for placeholder, value in values.items():
        url = url.replace(placeholder, value)
    return url


def _apt_files(repository: Repository) -> list[dict[str, str]]:
    key_path = f"{APT_KEYS}/onprem-gpu-{repository['name']}.asc"
    suites = repository.get("suites") or "/"
    lines = [
        "# Managed by the Ansible collection onprem.gpu.",
        "Types: deb",
        f"URIs: {repository['url']}",
        f"Suites: {suites}",
        *([f"Components: {repository['components']}"] if not suites.endswith("/") else []),
        f"Signed-By: {key_path}",
    ]
    source_path = f"/etc/apt/sources.list.d/onprem-gpu-{repository['name']}.sources"
    return [_file(key_path, repository["key"]), _file(source_path, "\n".join(lines))]


def _yum_files(repository: Repository) -> list[dict[str, str]]:
    key_path = f"{YUM_KEYS}/onprem-gpu-{repository['name']}.asc"
    lines = [
        "# Managed by the Ansible collection onprem.gpu.",
        f"[onprem-gpu-{repository['name']}]",
        f"name=onprem.gpu {repository['name']}",
        f"baseurl={repository['url']}",
        "enabled=1",
        "gpgcheck=1",
        "repo_gpgcheck=1",
        f"gpgkey=file://{key_path}",
        *([] if repository.get("modules", True) else ["module_hotfixes=1"]),
    ]
    source_path = f"/etc/yum.repos.d/onprem-gpu-{repository['name']}.repo"
    return [_file(key_path, repository["key"]), _file(source_path, "\n".join(lines))]


def _file(path: str, content: str) -> dict[str, str]:
    return {"path": path, "content": content.rstrip("\n") + "\n"}
