# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vendors' packages of the lab: complete, exact, and built as packages of their format."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import package_lists
import package_tools
import pytest
from package_contents import DRIVERS, Driver
from package_formats import Package, build_deb, build_rpm

LISTS = {
    "debian12": package_lists.debian_driver,
    "ubuntu2404": package_lists.ubuntu_driver,
    "rhel9": package_lists.el_driver,
}
FROM_ELSEWHERE = {"dkms", "kmod", "iptables", "mount", "util-linux"}


class UncompiledDriver(Driver):
    """A driver whose programs exist as names only; lists need no more."""

    def _compile(self) -> None:
        """Compile nothing."""


@pytest.fixture(params=[(system, version) for system in LISTS for version in DRIVERS], ids="-".join)
def packages(request: pytest.FixtureRequest, tmp_path: Path) -> list[Package]:
    system, version = request.param
    return list(LISTS[system](UncompiledDriver(version, tmp_path)))


def names_in(relation: str) -> Iterator[tuple[str, str]]:
    """Name and version of each alternative of a relation, in either format's words."""
    for alternative in relation.split("|"):
        match = re.fullmatch(r"\s*(\S+)(?:\s*\(?\s*(=|>=)\s*([^)\s]+)\)?)?\s*", alternative)
        assert match, relation
        yield match[1], match[3] if match[2] == "=" else ""


def test_every_dependency_is_in_the_repository_at_that_version(packages: list[Package]) -> None:
    versions = {package.name: package.version for package in packages}
    virtual = {name for package in packages for relation in package.provides for name, _ in names_in(relation)}
    for package in packages:
        for relation in package.depends:
            for name, version in names_in(relation):
                assert name in versions or name in virtual | FROM_ELSEWHERE, f"{package.name} needs {relation}"
                if version and name in versions:
                    assert versions[name] in (version, f"{version}-1.el9"), f"{package.name} needs {relation}"


def test_no_name_is_used_twice_and_no_path_belongs_to_two_packages_that_go_together(packages: list[Package]) -> None:
    names = [package.name for package in packages]
    assert len(names) == len(set(names))
    owners: dict[str, Package] = {}
    for package in packages:
        for path in package.files:
            other = owners.setdefault(path, package)
            assert other is package or other.name in package.conflicts, f"{path}: {other.name} and {package.name}"


def test_names_follow_the_branch_on_ubuntu(tmp_path: Path) -> None:
    old, new = (
        {package.name: package for package in package_lists.ubuntu_driver(UncompiledDriver(version, tmp_path))}
        for version in ("580.173.02", "595.91.07")
    )
    assert {"libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-utils-580", "nvidia-open-580"} <= set(old)
    assert {"libnvidia-compute", "nvidia-dkms-open", "nvidia-utils", "nvidia-open"} <= set(new)
    assert not any("580" in name for name in new)
    assert old["nvidia-fabricmanager"].provides == ("nvidia-fabricmanager-580",)
    assert "nvidia-fabricmanager-580" not in old


def test_pinning_exists_once_per_branch_and_once_per_version(tmp_path: Path) -> None:
    seen: set[str] = set()
    for version in reversed(DRIVERS):
        list(package_lists.pinning(UncompiledDriver(version, tmp_path), version, seen))
    assert seen == {"580", "595", *DRIVERS}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_deb_says_what_its_description_says(tmp_path: Path) -> None:
    package = package_lists.dkms_deb("3.2.2-1")
    build_deb(package, tmp_path, tmp_path / "work")
    deb = tmp_path / "dkms_3.2.2-1_all.deb"
    fields = subprocess.run(["dpkg-deb", "--field", deb], capture_output=True, text=True, check=True).stdout
    listing = subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True).stdout
    assert "Package: dkms\nVersion: 3.2.2-1\nArchitecture: all\n" in fields
    assert re.search(r"-rwxr-xr-x root/root +\d+ .* \./usr/sbin/dkms", listing)


@pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="needs rpmbuild")
def test_an_rpm_says_what_its_description_says(tmp_path: Path) -> None:
    (package,) = (
        package
        for package in package_lists.el_driver(UncompiledDriver("580.173.02", tmp_path / "driver"))
        if package.name == "kmod-nvidia-open-dkms"
    )
    build_rpm(package, tmp_path, tmp_path / "work")
    rpm = tmp_path / "kmod-nvidia-open-dkms-580.173.02-1.el9.noarch.rpm"
    query = [
        "rpm",
        "-qp",
        "--dbpath",
        tmp_path / "db",
        "--qf",
        "%{EPOCH}:%{VERSION}-%{RELEASE}\n[%{REQUIRES} %{REQUIREVERSION}\n]",
    ]
    lines = subprocess.run([*query, rpm], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "3:580.173.02-1.el9"
    assert {"dkms 3.1.8", "nvidia-kmod-common 3:580.173.02"} <= set(lines)
    assert not any(line.startswith("/bin/sh") for line in lines), "the hosts' rpm database has no shell"


def test_kubelet_and_kubeadm_are_not_enabled_by_their_packages(tmp_path: Path) -> None:
    for package in (*package_tools.kubernetes_deb(tmp_path), *package_tools.kubernetes_rpm(tmp_path)):
        assert not any("enable" in body or "start" in body for body in package.scripts.values())
