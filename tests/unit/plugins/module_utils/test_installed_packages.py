# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import (
    Package,
    locked_versions,
    parse_dpkg_query,
    parse_rpm_query,
    parse_versionlock_list,
    upstream_version,
    version_matches,
)


@pytest.mark.parametrize(
    ("wanted", "present", "matches"),
    [
        (None, "anything-1", True),
        ("580.95.05", "3:580.95.05-1.el9", True),
        ("3:580.95.05-1.el9", "3:580.95.05-1.el9", True),
        ("580.95.05-1.el9", "3:580.95.05-1.el9", True),
        ("3:580.95.05", "3:580.95.05-1.el9", True),
        ("2:580.95.05", "3:580.95.05-1.el9", False),
        ("580.95.05-2.el9", "3:580.95.05-1.el9", False),
        ("580.95", "580.95.05-1", False),
        ("580", "580.95.05-1", False),
        ("1.37.1", "1.37.1-1.1", True),
        ("2.4.2", "2.4.2-1~debian.12~bookworm", True),
        ("580.95.05", "580.95.05-0ubuntu1", True),
        ("1.2-3", "1.2-3-4", True),  # a Debian upstream version may have hyphens; the revision is after the last
        ("1.2", "1.2-3-4", False),
        ("1.5", "1.5", True),  # a native Debian package has no revision
        ("0:1.2-3", "1.2-3", True),  # rpm shows no epoch for epoch 0
        ("1.2-3", "0:1.2-3", True),
    ],
)
def test_version_matches(wanted, present, matches):
    assert version_matches(wanted, present) is matches


VERSION_PART = st.text("0123456789abcz.~+", min_size=1, max_size=8)


@given(epoch=st.integers(1, 9), upstream=VERSION_PART, revision=VERSION_PART)
def test_every_way_to_leave_parts_out_matches(epoch, upstream, revision):
    complete = f"{epoch}:{upstream}-{revision}"
    for wanted in (complete, f"{upstream}-{revision}", f"{epoch}:{upstream}", upstream):
        assert version_matches(wanted, complete)
    assert not version_matches(upstream + "9", complete)
    assert upstream_version(complete) == upstream


DPKG = """\
bash\tamd64\t5.2.15-2+b2\tinstall\tok\tinstalled
kubelet\tamd64\t1.37.1-1.1\thold\tok\tinstalled
old\tamd64\t1.0-1\tdeinstall\tok\tconfig-files
broken\tamd64\t2.0-1\tinstall\tok\thalf-configured
worse\tamd64\t2.0-1\tinstall\treinstreq\thalf-installed
wanted\tamd64\t\thold\tok\tnot-installed
"""


def test_dpkg_states():
    found = {package.name: package for package in parse_dpkg_query(DPKG)}
    assert [name for name, package in found.items() if package.installed] == ["bash", "kubelet", "broken"]
    assert [name for name, package in found.items() if package.held] == ["kubelet", "wanted"]
    assert {name: package.unfinished for name, package in found.items() if package.unfinished} == {
        "broken": "half-configured",
        "worse": "half-installed",
    }


def test_rpm_lines_about_missing_packages_are_left_out():
    text = "nvidia-open\tnoarch\t3:580.95.05-1.el9\npackage nothing is not installed\nbash\tx86_64\t5.1.8-9.el9\n"
    assert [(package.name, package.version) for package in parse_rpm_query(text)] == [
        ("nvidia-open", "3:580.95.05-1.el9"),
        ("bash", "5.1.8-9.el9"),
    ]


LOCKS = """\
# Added lock on Mon Nov 23 10:00:00 2026
nvidia-open-3:580.95.05-1.el9.*
kubelet-0:1.37.1-150500.1.1.*   # kept for the cluster
!nvidia-dkms-3:590.1-1.el9.*
"""


def test_versionlock_list_leaves_out_comments_and_exclusions():
    assert parse_versionlock_list(LOCKS) == ["nvidia-open-3:580.95.05-1.el9.*", "kubelet-0:1.37.1-150500.1.1.*"]


def rpm(name: str, version: str) -> Package:
    return Package(name, "x86_64", version, True, "", False)


@pytest.mark.parametrize(
    ("name", "installed", "patterns", "locked"),
    [
        ("nvidia-open", [], ["nvidia-open-3:580.95.05-1.el9.*"], ["3:580.95.05-1.el9"]),
        ("nvidia", [], ["nvidia-open-3:580.95.05-1.el9.*"], []),
        ("nvidia-open", [], ["nvidia-open-dkms-3:580.95.05-1.el9.*"], []),
        ("kubelet", ["1.37.1-1"], ["kubelet-0:1.37.1-1.*"], ["0:1.37.1-1"]),
        ("kubelet", ["1.37.1-1"], ["kubelet"], ["1.37.1-1"]),
        ("kubelet", [], ["kubelet"], []),
        ("nvidia-open", ["3:580.95.05-1.el9"], ["*nvidia*580*"], ["3:580.95.05-1.el9"]),
        ("nvidia-open", ["3:590.10-1.el9"], ["*nvidia*580*"], []),
        ("a", ["2-1"], ["a-0:1-1.*", "a-0:2-1.*"], ["0:1-1", "0:2-1"]),
        ("a", ["2-1"], ["b-0:2-1.*"], []),
    ],
)
def test_locked_versions(name, installed, patterns, locked):
    assert locked_versions(name, [rpm(name, version) for version in installed], patterns) == locked
