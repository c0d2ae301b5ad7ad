# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fnmatch

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.document_work import document_work, package_specs

DOCUMENT = {
    "packages": [
        {"name": "headers", "version": None, "hold": None},
        {"name": "driver", "version": "580.1.2", "hold": True},
        {"name": "manager", "version": "580.1.2", "hold": True},
        {"name": "old", "version": None, "state": "absent"},
    ],
    "files": [
        {"path": "/etc/apt/keyrings/x.asc", "content": "", "first": True},
        {"path": "/etc/modprobe.d/x.conf", "content": ""},
        {"path": "/etc/gone", "content": "", "state": "absent"},
    ],
    "generated": [{"path": "/etc/made", "argv": ["make"]}],
    "modules": [{"name": "nvidia", "version": "580.1.2"}],
    "services": [{"name": "a.service"}, {"name": "b.service", "restarts_on": ["/etc/made"]}],
    "checkpoints": [{"path": "/var/state", "key": "k", "value": "v", "service": "a.service"}],
    "initramfs": {"newer_than": ["/etc/modprobe.d/x.conf"]},
}


def difference(kind: str, name: str, want: str = "") -> dict:
    return {"kind": kind, "name": name, "want": want}


def written(work: dict) -> dict:
    """The sections with something in them, generated files aside: those are always made again."""
    return {name: value for name, value in work.items() if value and name != "generated"}


def test_nothing_is_written_where_nothing_differs() -> None:
    assert written(document_work(DOCUMENT, [])) == {}


def test_only_the_file_that_differs_is_written() -> None:
    work = document_work(DOCUMENT, [difference("file", "/etc/modprobe.d/x.conf")])
    assert written(work) == {"files": [DOCUMENT["files"][1]]}


def test_a_file_that_comes_first_gets_its_folder() -> None:
    work = document_work(DOCUMENT, [difference("file", "/etc/apt/keyrings/x.asc")])
    assert written(work) == {"first_files": [DOCUMENT["files"][0]], "folders": ["/etc/apt/keyrings"]}


def test_a_file_to_remove_is_not_written() -> None:
    assert written(document_work(DOCUMENT, [difference("file", "/etc/gone")])) == {"absent_files": ["/etc/gone"]}


def test_one_package_that_differs_brings_the_whole_transaction_and_its_hold() -> None:
    work = document_work(DOCUMENT, [difference("package", "manager")])
    assert [package["name"] for package in work["install"]] == ["headers", "driver", "manager"]
    assert (work["remove"], work["hold"], work["refresh_index"]) == ([], ["manager"], True)


def test_a_package_to_remove_goes_before_the_whole_transaction() -> None:
    work = document_work(DOCUMENT, [difference("package", "old")])
    assert (work["remove"], len(work["install"])) == (["old"], 3)


def test_a_lost_hold_is_set_without_touching_packages() -> None:
    assert written(document_work(DOCUMENT, [difference("hold", "driver")])) == {"hold": ["driver"]}


def test_an_unwanted_hold_is_released_and_one_nobody_speaks_of_left_alone() -> None:
    document = {"packages": [{"name": "free", "hold": False}, {"name": "any", "hold": None}]}
    assert written(document_work(document, [difference("hold", "free")])) == {"release": ["free"]}
    assert not document_work(document, [], fast=False)["release"]


@pytest.mark.parametrize(
    ("found", "section"),
    [
        (difference("unfinished", "dpkg"), "unfinished"),
        (difference("initramfs", "initramfs"), "initramfs"),
        (difference("module", "nvidia"), "modules"),
        (difference("checkpoint", "/var/state"), "checkpoints"),
        (difference("service", "a.service"), "services"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_kind_of_difference_has_its_step(found: dict, section: str) -> None:
    assert list(written(document_work(DOCUMENT, [found]))) == [section]


def test_a_service_that_runs_with_an_older_file_is_stale() -> None:
    work = document_work(DOCUMENT, [difference("service", "b.service", "restarted for /etc/made")])
    assert work["stale_services"] == ["b.service"]
    assert document_work(DOCUMENT, [difference("service", "b.service", "started")])["stale_services"] == []


def test_without_the_fast_path_every_item_goes_to_its_writer() -> None:
    work = document_work(DOCUMENT, [], fast=False)
    assert len(work["install"]) == 3
    assert work["hold"] == ["driver", "manager"]
    assert (work["remove"], work["absent_files"]) == (["old"], ["/etc/gone"])
    assert work["first_files"] + work["files"] == DOCUMENT["files"][:2]
    assert (work["modules"], work["services"]) == (DOCUMENT["modules"], DOCUMENT["services"])


def test_without_the_fast_path_only_the_survey_knows_what_is_stale() -> None:
    work = document_work(DOCUMENT, [], fast=False)
    assert not any(work[name] for name in ("unfinished", "initramfs", "checkpoints", "stale_services", "refresh_index"))


def test_an_empty_document_is_no_work() -> None:
    assert written(document_work({}, [], fast=False)) == {}


@pytest.mark.parametrize(
    ("version", "installed", "matches"),
    [
        ("580.173.02", "580.173.02-1", True),
        ("580.173.02", "580.173.02-0ubuntu1", True),
        ("580.173.02", "580.173.021-1", False),
        ("1.20.1-1", "1.20.1-1", True),
        ("1.20.1-1", "1.20.1-12", False),
    ],
)
def test_apt_gets_a_pattern_for_exactly_one_upstream_version(version: str, installed: str, matches: bool) -> None:
    (spec,) = package_specs([{"name": "x", "version": version}], "apt")
    assert fnmatch.fnmatch(installed, spec.partition("=")[2]) is matches


def test_dnf_and_versionless_packages_are_named_plainly() -> None:
    packages = [{"name": "x", "version": "580.173.02"}, {"name": "y", "version": None}]
    assert package_specs(packages, "yum") == ["x-580.173.02", "y"]
    assert package_specs(packages, "apt") == ["x=580.173.02-*", "y"]
