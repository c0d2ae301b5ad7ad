# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import repository_index

RELEASE = """\
Suite: stable
MD5Sum:
 aaaa 10 Packages.gz
SHA256:
 1111 30 ./Packages
 2222 10 Packages.gz
 3333 20 main/binary-amd64/Packages.xz
 4444 40 main/binary-arm64/Packages.xz
SHA512:
 5555 9 Packages.xz
"""
PACKAGES = """\
Package: nvidia-open
Version: 580.159.03-1
Architecture: amd64

Package: other
Version: 1.0

Package: nvidia-open
Version: 580.173.02-1
"""
REPOMD = """\
<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo">
  <data type="filelists"><checksum type="sha256">ff</checksum><location href="repodata/f.xml.gz"/></data>
  <data type="primary">
    <checksum type="sha256">abcd</checksum><location href="repodata/p.xml.gz"/><size>77</size>
  </data>
</repomd>
"""
PRIMARY = """\
<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common" packages="3">
  <package type="rpm"><name>nvidia-open</name><version epoch="3" ver="580.173.02" rel="1.el9"/></package>
  <package type="rpm"><name>kubelet</name><version epoch="0" ver="1.37.1" rel="150500.1.1"/></package>
  <package type="rpm"><name>other</name><version epoch="0" ver="1" rel="1"/></package>
</metadata>
"""


def test_a_flat_repository_names_its_smallest_package_list():
    assert repository_index.apt_package_list(RELEASE) == ("Packages.gz", "2222", 10)


def test_a_component_has_a_package_list_per_architecture():
    folder, (packages,) = repository_index.apt_folders("stable", "main", "amd64")
    assert folder == "dists/stable"
    assert repository_index.apt_package_list(RELEASE, packages) == ("main/binary-amd64/Packages.xz", "3333", 20)


@pytest.mark.parametrize(("suites", "folder"), [("/", ""), ("./", "."), ("x86_64/", "x86_64")])
def test_a_suite_with_a_slash_is_a_folder(suites, folder):
    assert repository_index.apt_folders(suites, "", "amd64") == (folder, [""])


def test_only_sha256_counts():
    assert repository_index.apt_package_list("MD5Sum:\n aaaa 10 Packages.gz\n") is None


def test_all_versions_of_the_wanted_packages_are_offered():
    offered = repository_index.apt_versions(PACKAGES, ["nvidia-open", "absent"])
    assert offered == {"nvidia-open": ["580.159.03-1", "580.173.02-1"]}


def test_a_yum_repository_names_its_package_list():
    assert repository_index.yum_package_list(REPOMD) == ("repodata/p.xml.gz", "abcd", 77)


def test_a_yum_package_list_without_sha256_is_not_trusted():
    assert repository_index.yum_package_list(REPOMD.replace("sha256", "sha1")) is None


def test_yum_versions_have_an_epoch_only_where_it_is_not_zero():
    offered = repository_index.yum_versions(PRIMARY, ["nvidia-open", "kubelet"])
    assert offered == {"nvidia-open": ["3:580.173.02-1.el9"], "kubelet": ["1.37.1-150500.1.1"]}
