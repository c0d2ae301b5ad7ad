# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import compat

RSA = "34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394"
KEY_FINGERPRINT = "BA58A493B788F7DCF35BF85F637D54D2336C94FF"
KEY = (Path(__file__).parent / "fixtures" / "openpgp-ed25519.asc").read_text()


def host(**changes):
    facts = {
        "gpus": [{"model": "H100-SXM5-80GB"}],
        "os": {"secure_boot": False, "cgroup_version": 2, "swap_bytes": 0},
        "disks": {"/var": {"free_bytes": 10 * 1024**3, "total_bytes": 100 * 1024**3}},
        "driver": {"nouveau_loaded": False, "module_version": None},
        "runtime": {
            "containerd": {"version": "2.4.2", "active": True, "socket": None},
            "crio": {"version": None, "active": False, "socket": None},
            "docker": {"version": None, "active": False, "socket": None},
            "embedded": {"active": False, "socket": None},
        },
        "errors": [],
    }
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = facts
        for parent in parents:
            target = target[parent]
        target[name] = value
    return facts


def wishes(**changes):
    given = {
        "kubelet_version": "1.37.1",
        "api_server_version": "v1.37.1",
        "runtime_packages": [],
        "driver_packages": ["nvidia-kernel-open-dkms"],
    }
    return {**given, **changes}


def checks(found):
    return {item["check"]: item["severity"] for item in found}


def test_nothing_stands_against_an_ordinary_host():
    assert compat.refusals(host(), wishes()) == []


@pytest.mark.parametrize(
    ("changes", "check", "severity", "says"),
    [
        ({"gpus": []}, "gpu_present", "warning", "No NVIDIA GPU"),
        ({"os__secure_boot": True}, "secure_boot", "error", "nvidia-kernel-open-dkms"),
        ({"os__cgroup_version": 1}, "cgroup_v1", "warning", "failCgroupV1"),
        ({"os__swap_bytes": 2 * 1024**3}, "swap_on", "warning", "2048 MiB"),
        ({"driver__nouveau_loaded": True}, "nouveau_loaded", "info", "reboot"),
        ({"runtime__containerd": {"version": "1.7.28", "active": True}}, "containerd_for_kubelet", "error", "1.7.28"),
        (
            {"runtime__containerd": {"version": None, "active": False}},
            "runtime_present",
            "error",
            "no container runtime",
        ),
        ({"errors": [{"path": "/sys/x", "reason": "Input/output error"}]}, "fact_readable", "warning", "/sys/x"),
    ],
)
def test_each_lack_is_one_finding_that_names_it(changes, check, severity, says):
    found = compat.refusals(host(**changes), wishes())
    assert checks(found) == {check: severity}
    assert says in found[0]["message"]


def test_docker_alone_is_no_runtime_for_a_kubelet():
    facts = host(
        runtime__containerd={"version": None, "active": False}, runtime__docker={"version": "29.0.1", "active": True}
    )
    assert checks(compat.refusals(facts, wishes())) == {"runtime_present": "error"}


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime__crio": {"version": "1.37.0", "active": True}},
        {"runtime__embedded": {"active": True, "socket": None}},
    ],
)
def test_other_runtimes_serve_a_kubelet_too(changes):
    facts = host(runtime__containerd={"version": None, "active": False}, **changes)
    assert compat.refusals(facts, wishes()) == []


def test_a_runtime_that_will_be_installed_is_judged_by_its_wanted_version():
    bare = host(runtime__containerd={"version": None, "active": False})
    new, old = ([{"name": "containerd.io", "version": version}] for version in ("2.4.2", "1.7.28"))
    assert compat.refusals(bare, wishes(runtime_packages=new)) == []
    found = compat.refusals(bare, wishes(runtime_packages=old))
    assert checks(found) == {"containerd_for_kubelet": "error"}
    assert found[0]["variable"] == "gpu_toolkit_runtime_packages"


def test_containerd_1_is_fine_up_to_kubelet_1_35():
    facts = host(runtime__containerd={"version": "1.7.28", "active": True})
    assert compat.refusals(facts, wishes(kubelet_version="1.35.3")) == []


@pytest.mark.parametrize("kubelet", ["1.37.0", "1.36.4", "1.34.1", "1.37.9"])
def test_a_kubelet_up_to_three_minor_versions_older_than_the_api_server_is_fine(kubelet):
    assert compat.refusals(host(), wishes(kubelet_version=kubelet)) == []


@pytest.mark.parametrize("kubelet", ["1.38.0", "1.33.9", "2.0.0"])
def test_any_other_kubelet_is_refused(kubelet):
    (found,) = compat.refusals(host(), wishes(kubelet_version=kubelet))
    assert (found["check"], found["allowed"]) == ("kubelet_version_skew", "1.34 to 1.37")


def test_versions_that_are_not_known_are_not_compared():
    assert compat.refusals(host(), wishes(api_server_version="")) == []


def test_cgroup_1_is_fine_up_to_kubelet_1_34():
    assert compat.refusals(host(os__cgroup_version=1), wishes(kubelet_version="1.34.9")) == []


@pytest.mark.parametrize(
    ("changes", "packages"),
    [
        ({"os__secure_boot": True}, ["linux-modules-nvidia-580-server-open-generic"]),
        ({"os__secure_boot": True, "driver__module_version": "580.159.03"}, ["nvidia-kernel-open-dkms"]),
        ({"os__secure_boot": None}, ["nvidia-kernel-open-dkms"]),
    ],
    ids=["signed by the vendor", "loaded, so a key is enrolled", "not known"],
)
def test_secure_boot_is_no_obstacle_when_the_modules_will_load(changes, packages):
    assert compat.refusals(host(**changes), wishes(driver_packages=packages)) == []


def test_a_disk_with_too_little_space_names_path_size_and_variable():
    facts = host(disks={"/var": {"free_bytes": 100 * 1024**2}, "/": {"free_bytes": 10**12}})
    (found,) = compat.disk_refusals(facts, {"/var": "5GiB", "/": "1GiB", "/unmeasured": "1TiB"})
    assert (found["check"], found["severity"]) == ("disk_free", "error")
    for part in ("/var", "100 MiB", "5120 MiB"):
        assert part in found["message"]
    assert found["variable"].startswith("gpu_preflight_min_free")


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GiB", 5 * 1024**3), ("5Gi", 5 * 1024**3), ("500M", 500 * 10**6), ("1.5 GiB", 1610612736), (1024, 1024)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert compat.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["lots", "", "5XB", "-1GiB", "5GiBB"])
def test_what_is_no_size_is_an_error_that_shows_it(text):
    with pytest.raises(ValueError, match="not a size"):
        compat.size_in_bytes(text)


@pytest.mark.parametrize(
    ("text", "version"), [("v1.37.1", (1, 37, 1)), ("1.7.28-1~deb12", (1, 7, 28)), ("", ()), (None, ()), ("none", ())]
)
def test_versions_compare_by_their_numbers(text, version):
    assert compat.version_tuple(text) == version


# --- repositories -----------------------------------------------------------------------------------------------------


def repository(**changes):
    return {
        "name": "cuda",
        "url": "https://mirror.example/cuda",
        "key": KEY,
        "key_fingerprint": KEY_FINGERPRINT,
        "variable": "gpu_driver_repository_key",
        **changes,
    }


def answer(**changes):
    return {
        "name": "cuda",
        "url": "https://mirror.example/cuda",
        "error": "",
        "offered": {"nvidia-open": ["3:580.159.03-1.el9", "3:580.173.02-1.el9"]},
        **changes,
    }


def test_the_wanted_key_is_no_finding():
    assert compat.repository_refusals([repository()]) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key_fingerprint": RSA}, [KEY_FINGERPRINT, RSA]),
        ({"key": ""}, ["has no key"]),
        ({"key_fingerprint": ""}, ["no key fingerprint"]),
        ({"key": "https://mirror.example/key.asc"}, ["BEGIN PGP PUBLIC KEY BLOCK"]),
    ],
)
def test_a_wrong_key_is_an_error_that_names_repository_and_variable(changes, says):
    (found,) = compat.repository_refusals([repository(**changes)])
    assert (found["check"], found["severity"]) == ("repository_key", "error")
    assert found["variable"] == "gpu_driver_repository_key"
    for part in ("cuda", *says):
        assert part in found["message"]


def test_an_offered_version_is_no_finding_whatever_epoch_and_revision_it_has():
    packages = [{"name": "nvidia-open", "version": "580.173.02"}, {"name": "dkms", "version": None}]
    assert compat.answer_refusals([repository()], [answer()], packages) == []


def test_a_version_that_is_not_offered_names_those_that_are():
    packages = [{"name": "nvidia-open", "version": "580.200.01"}]
    (found,) = compat.answer_refusals([repository()], [answer()], packages)
    assert (found["check"], found["severity"]) == ("package_offered", "error")
    assert "580.200.01" in found["message"]
    assert "580.173.02" in found["allowed"]


def test_a_package_that_no_repository_has_may_come_from_the_system_so_it_is_a_warning():
    (found,) = compat.answer_refusals([repository()], [answer()], [{"name": "containerd", "version": "2.0"}])
    assert (found["check"], found["severity"]) == ("package_known", "warning")


def test_a_package_to_remove_needs_no_offer():
    packages = [{"name": "nvidia-open", "version": "1.0", "state": "absent"}]
    assert compat.answer_refusals([repository()], [answer()], packages) == []


def test_a_broken_repository_is_an_error_with_its_own_words_and_hides_what_follows_from_it():
    broken = answer(error="cannot fetch https://mirror.example/cuda/InRelease: 404 Not Found", offered=None)
    (found,) = compat.answer_refusals([repository()], [broken], [{"name": "nvidia-open", "version": "1"}])
    assert (found["check"], found["severity"]) == ("repository_answer", "error")
    assert "404 Not Found" in found["message"]


def test_unknown_offers_are_not_judged():
    packages = [{"name": "nvidia-open", "version": "1"}]
    assert compat.answer_refusals([repository()], [answer(offered=None)], packages) == []
