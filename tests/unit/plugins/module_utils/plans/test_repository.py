# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.repository import repository_files, resolved

MakeHost = t.Callable[..., dict]

CUDA = {"name": "cuda", "url": "https://mirror.example/{os}/{cuda_arch}", "key": "KEY", "key_fingerprint": ""}


@pytest.mark.parametrize(
    ("system", "machine", "url", "expected"),
    [
        ("debian12", "x86_64", "https://m/{os}/{cuda_arch}/", "https://m/debian12/x86_64/"),
        ("ubuntu2404", "aarch64", "https://m/{os}/{cuda_arch}/", "https://m/ubuntu2404/sbsa/"),
        ("rocky9", "x86_64", "https://m/{os}/{cuda_arch}/", "https://m/rhel9/x86_64/"),
        ("debian12", "x86_64", "https://m/{format}/{arch}", "https://m/deb/amd64"),
        ("rocky9", "aarch64", "https://m/{format}/{arch}", "https://m/rpm/aarch64"),
        ("rocky9", "x86_64", "https://m/as-it-is", "https://m/as-it-is"),
    ],
)
def test_placeholders_are_filled_in_for_the_host(
    gpu_host: MakeHost, system: str, machine: str, url: str, expected: str
) -> None:
    (found,) = resolved([{**CUDA, "url": url}], gpu_host(system=system, machine=machine))
    assert found["url"] == expected


def test_vendors_keys_are_known_by_package_format(gpu_host: MakeHost) -> None:
    (apt,) = resolved([CUDA], gpu_host(system="debian12"))
    (yum,) = resolved([CUDA], gpu_host(system="rocky9"))
    assert (apt["format"], apt["key_fingerprint"][-8:]) == ("apt", "3BF863CC")
    assert (yum["format"], yum["key_fingerprint"][-8:]) == ("yum", "D42D0685")


def test_a_fingerprint_of_the_user_wins(gpu_host: MakeHost) -> None:
    (found,) = resolved([{**CUDA, "key_fingerprint": "A" * 40}], gpu_host())
    assert found["key_fingerprint"] == "A" * 40


def test_a_repository_nobody_knows_has_no_fingerprint(gpu_host: MakeHost) -> None:
    (found,) = resolved([{"name": "extras", "url": "https://m/", "key": "KEY"}], gpu_host())
    assert found["key_fingerprint"] == ""


def test_apt_trusts_one_key_for_one_repository(gpu_host: MakeHost) -> None:
    key, source = repository_files([CUDA], gpu_host())
    assert (key["path"], key["content"]) == ("/etc/apt/keyrings/onprem-gpu-cuda.asc", "KEY\n")
    assert source["path"] == "/etc/apt/sources.list.d/onprem-gpu-cuda.sources"
    assert source["content"].splitlines()[1:] == [
        "Types: deb",
        "URIs: https://mirror.example/debian12/x86_64",
        "Suites: /",
        "Signed-By: /etc/apt/keyrings/onprem-gpu-cuda.asc",
    ]


def test_apt_repositories_that_are_not_flat_have_components(gpu_host: MakeHost) -> None:
    _key, source = repository_files([{**CUDA, "suites": "bookworm", "components": "stable"}], gpu_host())
    assert "Suites: bookworm\nComponents: stable\n" in source["content"]


def test_yum_checks_packages_and_index(gpu_host: MakeHost) -> None:
    key, source = repository_files([{**CUDA, "modules": False}], gpu_host(system="rocky9"))
    assert key["path"] == "/etc/pki/rpm-gpg/onprem-gpu-cuda.asc"
    assert source["path"] == "/etc/yum.repos.d/onprem-gpu-cuda.repo"
    assert source["content"].splitlines()[1:] == [
        "[onprem-gpu-cuda]",
        "name=onprem.gpu cuda",
        "baseurl=https://mirror.example/rhel9/x86_64",
        "enabled=1",
        "gpgcheck=1",
        "repo_gpgcheck=1",
        "gpgkey=file:///etc/pki/rpm-gpg/onprem-gpu-cuda.asc",
        "module_hotfixes=1",
    ]


def test_files_are_written_before_packages(gpu_host: MakeHost) -> None:
    assert all(file["first"] for file in repository_files([CUDA], gpu_host()))
