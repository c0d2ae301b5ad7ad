# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import grp
import os
import pwd
import time

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.drift import ANY_VERSION, PackageState, differences
from ansible_collections.onprem.gpu.plugins.module_utils.host import CommandResult, HostError
from ansible_collections.onprem.gpu.plugins.module_utils.present_state import parse_is_enabled, read_present
from ansible_collections.onprem.gpu.plugins.module_utils.state_document import checked_documents

DEBIAN = 'ID=debian\nVERSION_ID="12"\n'
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n'
US = "\t"
OWNER = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name


def read(host_tree, **document):
    return read_present(host_tree.host(), checked_documents({"d": document}))


def found(host_tree, **document) -> list[str]:
    documents = checked_documents({"d": document})
    return [one.id for one in differences(documents, read_present(host_tree.host(), documents))]


# --- packages ---------------------------------------------------------------------------------------------------------


def dpkg(*rows: str) -> str:
    return "".join("\t".join(row.split()) + "\n" for row in ("dpkg amd64 1.21 install ok installed", *rows))


def test_dpkg_answers_everything_about_packages_at_once(host_tree):
    host_tree.write("/etc/os-release", DEBIAN)
    host_tree.program(
        "dpkg-query",
        dpkg(
            "kubelet amd64 1.37.1-1.1 hold ok installed",
            "left amd64 1-1 deinstall ok config-files",
            "both amd64 2-1 install ok installed",
            "both i386 1-1 hold ok installed",
            "docs all 3-1 install ok installed",
        ),
    )
    packages = [{"name": name} for name in ("kubelet", "left", "both", "docs", "unknown")]
    present = read(host_tree, packages=packages)
    assert present.package_manager == "dpkg"
    assert present.unfinished == {}
    assert present.packages == {
        "kubelet": PackageState(("1.37.1-1.1",), (ANY_VERSION,)),
        "left": PackageState(),
        "both": PackageState(("2-1",)),
        "docs": PackageState(("3-1",)),
        "unknown": PackageState(),
    }
    assert len(host_tree.calls) == 1


def test_dpkg_shows_what_is_half_done_even_in_packages_nobody_mentions(host_tree):
    host_tree.write("/etc/os-release", DEBIAN)
    host_tree.write("/var/lib/dpkg/updates/0003")
    host_tree.program(
        "dpkg-query",
        dpkg("nvidia amd64 580-1 install ok unpacked", "other amd64 1-1 install reinstreq half-installed"),
    )
    present = read(host_tree, packages=[{"name": "nvidia"}])
    assert present.unfinished == {
        "nvidia": "is unpacked",
        "other": "is half-installed",
        "dpkg": "was interrupted",
    }
    assert present.packages["nvidia"].installed == ("580-1",)


@pytest.mark.parametrize("leftover", ["tmp.i", "lock"])
def test_other_files_of_dpkg_are_no_interruption(host_tree, leftover):
    host_tree.write("/etc/os-release", DEBIAN)
    host_tree.write(f"/var/lib/dpkg/updates/{leftover}")
    host_tree.program("dpkg-query", dpkg())
    assert read(host_tree, packages=[{"name": "a"}]).unfinished == {}


def test_rpm_answers_with_locks_from_dnf(host_tree):
    host_tree.write("/etc/os-release", ROCKY)
    host_tree.write("/etc/dnf/plugins/versionlock.list", "nvidia-open-3:580.159.03-1.el9.*\n")
    host_tree.program("rpm", f"nvidia-open{US}noarch{US}3:580.159.03-1.el9\npackage kubelet is not installed\n", rc=1)
    present = read(host_tree, packages=[{"name": "nvidia-open"}, {"name": "kubelet"}])
    assert present.package_manager == "rpm"
    assert present.packages == {
        "nvidia-open": PackageState(("3:580.159.03-1.el9",), ("3:580.159.03-1.el9",)),
        "kubelet": PackageState(),
    }
    assert [call[1] for call in host_tree.calls] == ["-q"]


@pytest.mark.parametrize(
    "name",
    [
        "kernel-devel",
        "kernel-devel-5.14.0-503.el9",
        "kernel-devel-5.14.0-503.el9.x86_64",
        "kernel-devel-0:5.14.0-503.el9.x86_64",
    ],
)
def test_rpm_packages_may_be_named_with_their_version(host_tree, name):
    host_tree.write("/etc/os-release", ROCKY)
    host_tree.program("rpm", f"kernel-devel{US}x86_64{US}5.14.0-503.el9\n")
    assert read(host_tree, packages=[{"name": name}]).packages[name].installed == ("5.14.0-503.el9",)


def test_rpm_with_two_versions_of_one_package_was_interrupted_but_kernels_are_many(host_tree):
    host_tree.write("/etc/os-release", ROCKY)
    rows = [
        ("nvidia-open", "3:580.1-1"),
        ("nvidia-open", "3:580.2-1"),
        ("kernel-devel", "5-1"),
        ("kernel-devel", "5-2"),
    ]
    host_tree.program("rpm", "".join(f"{name}{US}noarch{US}{version}\n" for name, version in rows))
    present = read(host_tree, packages=[{"name": "nvidia-open"}, {"name": "kernel-devel"}])
    assert present.unfinished == {"nvidia-open": "is installed twice (3:580.1-1, 3:580.2-1)"}
    assert present.packages["kernel-devel"].installed == ("5-1", "5-2")


def test_a_broken_package_database_is_an_error_and_no_absence(host_tree):
    host_tree.write("/etc/os-release", DEBIAN)
    host_tree.program("dpkg-query", rc=2, stderr="dpkg-query: error: parsing file '/var/lib/dpkg/status'\n")
    with pytest.raises(HostError, match="dpkg-query does not say what is installed: exit status 2: dpkg-query: error"):
        read(host_tree, packages=[{"name": "a"}])


def test_an_rpm_database_that_cannot_be_opened_is_an_error(host_tree):
    host_tree.write("/etc/os-release", ROCKY)
    host_tree.program("rpm", "package a is not installed\n", rc=1, stderr="error: cannot open Packages database\n")
    with pytest.raises(HostError, match="cannot open Packages database"):
        read(host_tree, packages=[{"name": "a"}])


def test_packages_of_an_unknown_system_are_an_error(host_tree):
    host_tree.write("/etc/os-release", "ID=arch\n")
    with pytest.raises(HostError, match="neither a Debian nor a Red Hat"):
        read(host_tree, packages=[{"name": "a"}])


def test_without_packages_no_package_manager_is_asked(host_tree):
    assert read(host_tree, files=[{"path": "/f"}]).packages == {}
    assert host_tree.calls == []


# --- files ------------------------------------------------------------------------------------------------------------


def file_item(path: str, **keys: str) -> dict[str, str]:
    return {"path": path, "owner": OWNER, "group": GROUP, **keys}


def test_a_file_as_wanted(host_tree):
    host_tree.write("/etc/f", "text ü\n", mode=0o640)
    assert found(host_tree, files=[file_item("/etc/f", content="text ü\n", mode="0640")]) == []


def make_symlink(tree):
    tree.write("/etc/target", "text\n")
    tree.link("/etc/f", "target")


@pytest.mark.parametrize(
    "make",
    [
        lambda tree: None,
        lambda tree: tree.write("/etc/f", "text"),
        lambda tree: tree.write("/etc/f", "text\n", mode=0o600),
        lambda tree: tree.write("/etc/f", b"text\n\xff"),
        lambda tree: tree.folder("/etc/f"),
        make_symlink,
        lambda tree: tree.link("/etc/f", "nowhere"),
        lambda tree: tree.write("/etc", "a file where the folder should be"),
    ],
    ids=["missing", "text", "mode", "bytes", "folder", "symlink", "dangling symlink", "parent is a file"],
)
def test_a_file_that_copy_would_change(host_tree, make):
    make(host_tree)
    assert found(host_tree, files=[file_item("/etc/f", content="text\n")]) == ["d/file//etc/f"]


@pytest.mark.parametrize("make", [lambda tree: tree.folder("/f"), lambda tree: tree.link("/f", "nowhere")])
def test_a_superfluous_path_of_any_kind_is_seen(host_tree, make):
    make(host_tree)
    assert found(host_tree, files=[file_item("/f", state="absent")]) == ["d/file//f"]


def test_a_generated_file_is_compared_with_what_its_program_prints(host_tree):
    item = {**file_item("/etc/containerd/conf.d/99-nvidia.toml"), "argv": ["nvidia-ctk", "runtime", "configure"]}
    assert found(host_tree, generated=[item]) == ["d/generated//etc/containerd/conf.d/99-nvidia.toml"]
    host_tree.program("nvidia-ctk", "version = 3\n")
    host_tree.write(item["path"], "version = 3\n")
    assert found(host_tree, generated=[item]) == []
    assert host_tree.calls == [[f"/usr/bin/{item['argv'][0]}", *item["argv"][1:]]]


def test_a_generator_that_fails_says_why(host_tree):
    host_tree.program("nvidia-ctk", rc=1, stderr="unable to load config\n")
    present = read(host_tree, generated=[{"path": "/f", "argv": ["nvidia-ctk"]}])
    assert present.generated[("nvidia-ctk",)].problem == "nvidia-ctk: exit status 1: unable to load config"


# --- kernel modules ---------------------------------------------------------------------------------------------------

PROC_MODULES = """\
nvidia_uvm 4861952 0 - Live 0xffffffffc3000000 (OE)
nvidia 11567104 17 nvidia_uvm, Live 0xffffffffc1000000 (OE)
overlay 151552 12 - Live 0xffffffffc0800000
"""


def test_modules_that_are_loaded_or_built_in(host_tree):
    host_tree.write("/proc/modules", PROC_MODULES)
    host_tree.write("/sys/module/nvidia/version", "580.159.03\n")
    host_tree.write("/sys/module/nvidia_uvm/version", "580.159.03\n")
    host_tree.write("/sys/module/loop/parameters/max_loop", "8")
    host_tree.write("/sys/module/unloading/initstate", "going")
    names = ("nvidia", "nvidia-uvm", "overlay", "loop", "nouveau", "unloading")
    present = read(host_tree, modules=[{"name": name} for name in names])
    assert {name: tuple(state) for name, state in present.modules.items()} == {
        "nvidia": (True, "580.159.03"),
        "nvidia-uvm": (True, "580.159.03"),
        "overlay": (True, None),
        "loop": (True, None),
        "nouveau": (False, None),
        "unloading": (False, None),
    }


def test_a_module_that_is_part_of_the_kernel_counts_as_loaded(host_tree):
    """Not every built-in module has a folder in sysfs."""
    host_tree.write("/proc/sys/kernel/osrelease", "6.1.0\n")
    host_tree.write("/lib/modules/6.1.0/modules.builtin", "kernel/net/bridge/br_netfilter.ko\n")
    modules = read(host_tree, modules=[{"name": "br-netfilter"}, {"name": "overlay"}]).modules
    assert {name: state.loaded for name, state in modules.items()} == {"br-netfilter": True, "overlay": False}


def test_the_driver_tells_its_version_in_proc_where_sysfs_does_not(host_tree):
    host_tree.write("/proc/modules", PROC_MODULES)
    host_tree.write(
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build  (build)\n",
    )
    assert read(host_tree, modules=[{"name": "nvidia"}]).modules["nvidia"].version == "580.159.03"


# --- services ---------------------------------------------------------------------------------------------------------

SECONDS = 1_000_000  # in microseconds, as systemd counts


def systemd(host_tree, units: dict[str, dict[str, str]], enabled: str | None = None) -> None:
    """A systemctl that shows these units in the order asked, and answers is-enabled with one line a unit."""

    def answer(argv):
        names = argv[argv.index("--") + 1 :]
        if argv[1] == "is-enabled":
            lines = enabled or "".join(units[name].get("enabled", "disabled") + "\n" for name in names)
            return CommandResult(1, lines, "")
        blocks = [units.get(name, {"LoadState": "not-found", "ActiveState": "inactive"}) for name in names]
        return CommandResult(0, "\n\n".join("\n".join(f"{k}={v}" for k, v in one.items()) for one in blocks) + "\n", "")

    host_tree.program_that("systemctl", answer)


def unit(started: float = 0, **properties: str) -> dict[str, str]:
    """A running unit that was started so many seconds ago."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return {
        "LoadState": "loaded",
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "ExecMainStartTimestampMonotonic": str(now - int(started * SECONDS)),
        "ActiveEnterTimestampMonotonic": str(now),
        **properties,
    }


def test_all_units_are_asked_at_once(host_tree):
    systemd(host_tree, {"a.service": unit(enabled="enabled"), "b.service": unit(enabled="static")})
    services = [
        {"name": "a.service", "enabled": True, "state": "started"},
        {"name": "gone.service", "enabled": False, "state": "stopped"},
        {"name": "b.service", "enabled": True},
    ]
    assert found(host_tree, services=services) == []
    assert [call[1] for call in host_tree.calls] == ["show", "is-enabled"]
    assert host_tree.calls[1][-2:] == ["a.service", "b.service"]


def test_is_enabled_is_asked_only_where_a_document_cares(host_tree):
    systemd(host_tree, {"a.service": unit()})
    assert found(host_tree, services=[{"name": "a.service", "state": "started"}]) == []
    assert [call[1] for call in host_tree.calls] == ["show"]


def test_an_is_enabled_that_answers_oddly_is_replaced_by_what_the_manager_knows(host_tree):
    systemd(host_tree, {"a.service": unit(UnitFileState="enabled")}, enabled="one\ntwo\n")
    assert found(host_tree, services=[{"name": "a.service", "enabled": True}]) == []


@pytest.mark.parametrize(
    ("answer", "enabled"),
    [
        ("enabled\n", True),
        ("static\n", True),
        ("generated\n", True),
        ("disabled\n", False),
        ("masked\n", False),
        ("linked\n  /etc/systemd/system/a.service\n", False),
        ("enabled-runtime\n", False),
        ("alias\n", False),
        ("alias\n  /etc/systemd/system/b.service\n", True),
        ("indirect\n", False),
        ("indirect\n  /etc/systemd/system/multi-user.target.wants/b.service\n", True),
    ],
)
def test_what_counts_as_enabled_is_what_systemd_service_takes_for_it(host_tree, answer, enabled):
    systemd(host_tree, {"a.service": unit()}, enabled=answer)
    assert read(host_tree, services=[{"name": "a.service", "enabled": True}]).services["a.service"].enabled is enabled


def test_links_below_an_answer_belong_to_it():
    text = "enabled\n  /etc/a\n  /etc/b\nstatic\ndisabled\n"
    assert parse_is_enabled(text) == [("enabled", "/etc/a", "/etc/b"), ("static",), ("disabled",)]


def test_a_unit_that_is_not_installed_differs_when_it_is_to_run(host_tree):
    systemd(host_tree, {})
    assert found(host_tree, services=[{"name": "a.service", "state": "started"}]) == ["d/service/a.service"]


def test_a_host_without_systemd_is_an_error(host_tree):
    host_tree.program("systemctl", rc=1, stderr="System has not been booted with systemd as init system (PID 1).\n")
    with pytest.raises(HostError, match=r"does not show a.service: exit status 1: System has not been booted"):
        read(host_tree, services=[{"name": "a.service", "state": "started"}])


def test_an_answer_for_fewer_units_than_asked_is_an_error(host_tree):
    host_tree.program("systemctl", "LoadState=loaded\nActiveState=active\n")
    services = [{"name": "a.service", "state": "started"}, {"name": "b.service", "state": "started"}]
    with pytest.raises(HostError, match=r"does not show a.service, b.service"):
        read(host_tree, services=services)


@pytest.mark.parametrize(
    ("started_ago", "changed_ago", "differs"), [(60, 120, False), (60, 30, True), (60, 60.5, False), (60, 59.5, True)]
)
def test_a_unit_is_stale_when_a_file_changed_after_its_main_process_started(
    host_tree, started_ago, changed_ago, differs
):
    host_tree.write("/etc/f")
    host_tree.age("/etc/f", time.time() - changed_ago)
    systemd(host_tree, {"a.service": unit(started_ago)})
    services = [{"name": "a.service", "restarts_on": ["/etc/f", "/etc/nowhere"]}]
    assert found(host_tree, services=services) == (["d/service/a.service"] if differs else [])


def test_a_unit_without_a_main_process_started_when_it_became_active(host_tree):
    host_tree.write("/etc/f")
    host_tree.age("/etc/f", time.time() - 30)
    timer = unit(ExecMainStartTimestampMonotonic="")
    long_ago = str(int(timer["ActiveEnterTimestampMonotonic"]) - 60 * SECONDS)
    systemd(host_tree, {"a.timer": {**timer, "ActiveEnterTimestampMonotonic": long_ago}})
    assert found(host_tree, services=[{"name": "a.timer", "restarts_on": ["/etc/f"]}]) == ["d/service/a.timer"]


# --- initramfs and checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/boot/initrd.img-6.1.0-40-amd64", "/boot/initramfs-6.1.0-40-amd64.img"])
def test_the_initramfs_of_the_running_kernel_counts(host_tree, path):
    host_tree.write("/proc/sys/kernel/osrelease", "6.1.0-40-amd64\n")
    host_tree.write("/etc/f")
    host_tree.age("/etc/f", 1000)
    assert found(host_tree, initramfs={"newer_than": ["/etc/f"]}) == ["d/initramfs/initramfs"]
    host_tree.write(path)
    host_tree.age(path, 999)
    assert found(host_tree, initramfs={"newer_than": ["/etc/f"]}) == ["d/initramfs/initramfs"]
    host_tree.age(path, 1001)
    assert found(host_tree, initramfs={"newer_than": ["/etc/f"]}) == []


@pytest.mark.parametrize(
    ("content", "differs"),
    [
        (None, False),
        ('{"policyName":"static","defaultCpuSet":"0-3","checksum":1}', False),
        ('{"policyName":"none","defaultCpuSet":"","checksum":2}', True),
        ('{"other":1}', True),
        ("", True),
        ("[]", True),
    ],
)
def test_a_checkpoint_must_name_the_wanted_policy(host_tree, content, differs):
    path = "/var/lib/kubelet/cpu_manager_state"
    if content is not None:
        host_tree.write(path, content)
    item = {"path": path, "key": "policyName", "value": "static", "service": "kubelet.service"}
    assert found(host_tree, checkpoints=[item]) == ([f"d/checkpoint/{path}"] if differs else [])


@pytest.mark.parametrize(("reserved", "differs"), [(1024, False), (2048, True)])
def test_a_checkpoint_may_look_inside_nested_objects(host_tree, reserved, differs):
    host_tree.write("/state", f'{{"machineState": {{"0": {{"memory": {{"systemReserved": {reserved}}}}}}}}}')
    item = {"path": "/state", "key": "machineState.0.memory.systemReserved", "value": 1024, "service": "k.service"}
    assert found(host_tree, checkpoints=[item]) == (["d/checkpoint//state"] if differs else [])
