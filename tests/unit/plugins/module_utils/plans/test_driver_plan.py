# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.driver_branches import ARCHITECTURES, BRANCHES
from ansible_collections.onprem.gpu.plugins.module_utils.driver_plan import plan, refusals
from ansible_collections.onprem.gpu.plugins.module_utils.findings import PlanError
from ansible_collections.onprem.gpu.plugins.module_utils.gpu_models import ARCHITECTURES as KNOWN_ARCHITECTURES

MakeHost = t.Callable[..., dict]


def wishes(**other: t.Any) -> dict:
    usual = {
        "branch": "580",
        "version": "",
        "kernel_modules": "auto",
        "flavour": "compute",
        "fabric_manager": "auto",
        "fabric_manager_version": "",
        "packages": [],
        "kernel_headers": "",
        "allow_end_of_life": False,
        "as_of": "2026-11-23",
    }
    return {**usual, **other}


def names(planned: dict, state: str = "present") -> list[str]:
    return [package["name"] for package in planned["packages"] if package["state"] == state]


def checks(found: list[dict], severity: str = "error") -> list[str]:
    return [finding["check"] for finding in found if finding["severity"] == severity]


@pytest.mark.parametrize(
    ("system", "branch", "expected"),
    [
        pytest.param(
            "ubuntu2404",
            "580",
            [
                "libnvidia-compute-580",
                "libnvidia-cfg1-580",
                "nvidia-dkms-580-open",
                "nvidia-utils-580",
                "nvidia-compute-utils-580",
            ],
            id="ubuntu, branch in the names",
        ),
        pytest.param(
            "ubuntu2404",
            "595",
            ["libnvidia-compute", "libnvidia-cfg1", "nvidia-dkms-open", "nvidia-utils", "nvidia-compute-utils"],
            id="ubuntu, renamed from 590 on",
        ),
        pytest.param(
            "debian12",
            "580",
            ["nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"],
            id="debian never has the branch",
        ),
        pytest.param(
            "rocky9",
            "595",
            [
                "python3-dnf-plugin-versionlock",
                "nvidia-driver-cuda",
                "kmod-nvidia-open-dkms",
                "nvidia-persistenced",
            ],
            id="el never has the branch",
        ),
    ],
)
def test_compute_packages_by_system_and_branch(
    gpu_host: MakeHost, system: str, branch: str, expected: list[str]
) -> None:
    assert names(plan(gpu_host("L4", system=system), wishes(branch=branch))) == expected


@pytest.mark.parametrize(
    ("system", "gpu", "package"),
    [
        ("ubuntu2404", "V100", "cuda-drivers-580"),
        ("ubuntu2404", "H100", "nvidia-open-580"),
        ("debian12", "V100", "cuda-drivers"),
        ("rhel10", "H100", "nvidia-open"),
    ],
)
def test_full_flavour_adds_the_metapackage(gpu_host: MakeHost, system: str, gpu: str, package: str) -> None:
    host = gpu_host(gpu, system=system)
    compute, full = names(plan(host, wishes())), names(plan(host, wishes(flavour="full")))
    assert full == [*compute, package]


@pytest.mark.parametrize(
    ("system", "branch", "fabric_packages"),
    [
        ("ubuntu2404", "570", {"nvidia-fabricmanager-570", "libnvidia-nscq-570"}),
        ("ubuntu2404", "580", {"nvidia-fabricmanager", "libnvidia-nscq"}),
        ("debian12", "580", {"nvidia-fabricmanager", "libnvidia-nscq"}),
        ("rocky9", "570", {"nvidia-fabricmanager", "libnvidia-nscq"}),
    ],
)
def test_fabric_manager_and_its_service_come_with_nvswitches_only(
    gpu_host: MakeHost, system: str, branch: str, fabric_packages: set[str]
) -> None:
    asked = wishes(branch=branch, allow_end_of_life=True)
    with_switch = plan(gpu_host("H100", system=system, nvswitch=True), asked)
    without = plan(gpu_host("H100", system=system), asked)
    assert set(names(with_switch)) - set(names(without)) == fabric_packages
    assert [service["name"] for service in without["services"]] == ["nvidia-persistenced.service"]
    assert [service["name"] for service in with_switch["services"]] == [
        "nvidia-persistenced.service",
        "nvidia-fabricmanager.service",
    ]


def test_all_driver_packages_are_held_at_one_version(gpu_host: MakeHost) -> None:
    planned = plan(gpu_host("H100", nvswitch=True), wishes(version="580.159.03"))
    present = [package for package in planned["packages"] if package["state"] == "present"]
    assert {(package["version"], package["hold"]) for package in present} == {("580.159.03", True)}


@pytest.mark.parametrize(
    ("system", "gpu", "other", "gone"),
    [
        pytest.param("ubuntu2404", "L4", {"branch": "595"}, "libnvidia-compute-580", id="names of another branch"),
        pytest.param("ubuntu2404", "L4", {}, "libnvidia-compute", id="names without branch"),
        pytest.param("ubuntu2404", "L4", {}, "libnvidia-gpucomp", id="what names without branch brought along"),
        pytest.param(
            "ubuntu2404", "L4", {"branch": "595"}, "nvidia-kernel-common-580", id="what another branch brought along"
        ),
        pytest.param("debian12", "L4", {}, "nvidia-kernel-dkms", id="the other kernel modules"),
        pytest.param("rocky9", "V100", {}, "kmod-nvidia-open-dkms", id="the other kernel modules on EL"),
        pytest.param("debian12", "L4", {}, "nvidia-open", id="the full flavour"),
        pytest.param("debian12", "L4", {}, "nvidia-fabricmanager", id="fabric manager without NVSwitch"),
    ],
)
def test_packages_that_stand_in_the_way_have_to_go(
    gpu_host: MakeHost, system: str, gpu: str, other: dict, gone: str
) -> None:
    planned = plan(gpu_host(gpu, system=system), wishes(**other))
    assert gone in names(planned, "absent")
    assert not set(names(planned)) & set(names(planned, "absent"))


@pytest.mark.parametrize(("branch", "suffix"), [("580", "-580"), ("595", "")])
def test_what_the_wanted_branch_brings_along_stays(gpu_host: MakeHost, branch: str, suffix: str) -> None:
    gone = names(plan(gpu_host("L4", system="ubuntu2404"), wishes(branch=branch)), "absent")
    own = {f"{stem}{suffix}" for stem in ("libnvidia-gpucomp", "nvidia-firmware", "nvidia-kernel-common")}
    assert own & set(gone) == set()


def test_headers_are_those_of_the_running_kernel_and_not_held(gpu_host: MakeHost) -> None:
    first = plan(gpu_host("L4"), wishes(kernel_headers="auto"))["packages"][0]
    assert (first["name"], first["version"], first["hold"]) == ("linux-headers-6.1.0-9-amd64", None, None)
    assert "kernel-devel-6.1.0-9-amd64" in names(plan(gpu_host("L4", system="rocky9"), wishes(kernel_headers="auto")))


def test_names_given_by_the_user_replace_the_driver_packages(gpu_host: MakeHost) -> None:
    planned = plan(gpu_host("H100", nvswitch=True), wishes(packages=["nvidia-open"]))
    assert names(planned) == ["nvidia-open", "nvidia-fabricmanager", "libnvidia-nscq"]
    assert names(planned, "absent") == []


@pytest.mark.parametrize(
    ("gpu", "flavour"),
    [("P100", "proprietary"), ("V100", "proprietary"), ("T4", "open"), ("H100", "open"), ("B200", "open")],
)
def test_open_modules_wherever_they_run(gpu_host: MakeHost, gpu: str, flavour: str) -> None:
    assert plan(gpu_host(gpu), wishes())["kernel_modules"] == flavour


def test_a_host_without_gpu_gets_nothing(gpu_host: MakeHost) -> None:
    host = gpu_host(system="opensuse")
    assert refusals(host, wishes(branch="1")) == []
    assert plan(host, wishes())["packages"] == []


@pytest.mark.parametrize(
    ("gpus", "other", "check"),
    [
        pytest.param(["V100"], {"branch": "595"}, "driver_branch_supports_gpus", id="V100 with 595"),
        pytest.param(
            ["B200"], {"branch": "535", "allow_end_of_life": True}, "driver_branch_supports_gpus", id="B200 with 535"
        ),
        pytest.param(["L4"], {"branch": "570"}, "driver_branch_end_of_life", id="past its end"),
        pytest.param(["L4"], {"as_of": "2028-07-01"}, "driver_branch_end_of_life", id="past its end some day"),
        pytest.param(["L4"], {"branch": "577"}, "driver_branch_known", id="no such branch"),
        pytest.param(["L4"], {"branch": "latest"}, "driver_branch_known", id="no number"),
        pytest.param(["V100"], {"kernel_modules": "open"}, "driver_kernel_modules_support_gpus", id="open on Volta"),
        pytest.param(
            ["B200"], {"kernel_modules": "proprietary"}, "driver_kernel_modules_support_gpus", id="closed on Blackwell"
        ),
        pytest.param(
            ["GH200"], {"kernel_modules": "proprietary"}, "driver_kernel_modules_support_gpus", id="closed on GH200"
        ),
        pytest.param(
            ["L4"],
            {"branch": "620", "version": "620.1.1", "kernel_modules": "proprietary"},
            "driver_kernel_modules_support_gpus",
            id="620 has no closed ones",
        ),
        pytest.param(["L4"], {"version": "595.91.07"}, "driver_version_of_branch", id="other branch's version"),
        pytest.param(["L4"], {"version": "580"}, "driver_version_of_branch", id="no full version"),
        pytest.param(["L4"], {"version": "580.173.02-1"}, "driver_version_of_branch", id="with revision"),
        pytest.param(["L4"], {"branch": "620"}, "driver_version_of_branch", id="no version known"),
        pytest.param(["L4"], {"fabric_manager_version": "580.159.03"}, "fabric_manager_version", id="other manager"),
        pytest.param(["L4"], {"fabric_manager": "true"}, "fabric_manager_needs_nvswitch", id="no NVSwitch"),
        pytest.param(["L4"], {"fabric_manager": True}, "fabric_manager_needs_nvswitch", id="no NVSwitch, YAML true"),
        pytest.param(["V100", "B200"], {}, "driver_serves_all_gpus", id="mixed box"),
    ],
)
def test_what_cannot_work_is_refused(gpu_host: MakeHost, gpus: list[str], other: dict, check: str) -> None:
    host = gpu_host(*gpus)
    assert checks(refusals(host, wishes(**other))) == [check]
    with pytest.raises(PlanError):
        plan(host, wishes(**other))


@pytest.mark.parametrize("system", ["opensuse", "debian11"])
def test_an_operating_system_without_driver_repository_is_refused(gpu_host: MakeHost, system: str) -> None:
    found = refusals(gpu_host("L4", system=system), wishes())
    assert checks(found) == ["driver_os_supported"]
    assert "debian 12 13" in found[0]["allowed"]


def test_a_refusal_names_value_hardware_and_what_is_allowed(gpu_host: MakeHost) -> None:
    (found,) = refusals(gpu_host("V100"), wishes(branch="595"))
    assert found["value"] == "595"
    assert "V100-PCIE-16GB (volta)" in found["message"]
    assert (found["allowed"], found["variable"]) == ("580", "gpu_driver_branch")


def test_all_reasons_come_at_once(gpu_host: MakeHost) -> None:
    found = refusals(gpu_host("V100"), wishes(branch="610", version="595.1.1", kernel_modules="open"))
    assert checks(found) == [
        "driver_version_of_branch",
        "driver_branch_end_of_life",
        "driver_branch_supports_gpus",
        "driver_kernel_modules_support_gpus",
    ]


def test_an_old_branch_may_be_insisted_on(gpu_host: MakeHost) -> None:
    assert plan(gpu_host("A100"), wishes(branch="535", allow_end_of_life=True))["version"] == "535.309.01"


def test_the_last_month_with_fixes_still_counts(gpu_host: MakeHost) -> None:
    assert refusals(gpu_host("L4"), wishes(as_of="2028-06-30")) == []


def test_a_branch_without_published_end_is_a_warning(gpu_host: MakeHost) -> None:
    found = refusals(gpu_host("L4"), wishes(branch="590"))
    assert (checks(found), checks(found, "warning")) == ([], ["driver_branch_end_of_life"])


def test_nvswitches_without_fabric_manager_are_a_warning(gpu_host: MakeHost) -> None:
    found = refusals(gpu_host("H100", nvswitch=True), wishes(fabric_manager="false"))
    assert (checks(found), checks(found, "warning")) == ([], ["fabric_manager_needs_nvswitch"])


def test_a_gpu_nobody_knows_gets_the_open_modules(gpu_host: MakeHost) -> None:
    assert plan(gpu_host("unknown"), wishes())["kernel_modules"] == "open"


@pytest.mark.parametrize("number", BRANCHES)
def test_every_branch_has_a_version_of_its_own(number: int) -> None:
    version = BRANCHES[number].version
    assert version is None or version.startswith(f"{number}.")


def test_every_architecture_gpu_info_reports_is_known_to_the_branches() -> None:
    assert set(KNOWN_ARCHITECTURES) <= set(ARCHITECTURES)
