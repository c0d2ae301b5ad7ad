# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import time

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host, command_failure, run_program

ROOT_READS_EVERYTHING = os.geteuid() == 0


def test_what_is_not_there_is_an_answer_and_no_error(host_tree):
    host_tree.write("/etc/file")
    host = host_tree.host()
    assert host.read_bytes("/nowhere") is None
    assert host.read_text("/etc/file/below-a-file") is None
    assert host.names("/nowhere") == []
    assert host.status("/nowhere") is None
    assert host.link_target("/etc/file") is None
    assert host.modified_ns("/nowhere") is None
    assert host.space("/nowhere") is None
    assert host.program("nothing-of-that-name") is None
    assert host.run(["nothing-of-that-name"]) is None
    assert host.errors == []


@pytest.mark.parametrize("read", ["read_text", "read_bytes", "read_value"])
def test_what_is_there_and_unreadable_is_noted_once(host_tree, read):
    host_tree.folder("/etc/is-a-folder")
    host = host_tree.host()
    assert getattr(host, read)("/etc/is-a-folder") is None
    getattr(host, read)("/etc/is-a-folder")
    assert host.errors == [{"path": "/etc/is-a-folder", "reason": "Is a directory"}]


def test_a_number_that_is_none_is_noted(host_tree):
    host_tree.write("/sys/count", "many\n")
    host = host_tree.host()
    assert host.read_number("/sys/count") is None
    assert host.errors == [{"path": "/sys/count", "reason": "'many' is not a number"}]


def test_status_shows_a_link_and_not_its_target(host_tree):
    host_tree.write("/etc/target", "text")
    host_tree.link("/etc/link", "target")
    assert host_tree.host().status("/etc/link").kind == "symlink"
    assert host_tree.host().status("/etc").kind == "directory"


def test_status_tells_mode_owner_and_time(host_tree):
    host_tree.write("/etc/file", "text", mode=0o640)
    host_tree.age("/etc/file", 1_700_000_000.123456789)
    status = host_tree.host().status("/etc/file")
    assert (status.kind, status.mode, status.uid, status.size) == ("file", "0640", os.geteuid(), 4)
    assert abs(status.mtime_ns - 1_700_000_000_123_456_789) < 1000


def test_a_program_runs_in_the_c_locale_without_input():
    result = run_program(["/bin/sh", "-c", 'cat; echo "$LC_ALL"; exit 3'], 10)
    assert result == (3, "C\n", "")


def test_a_program_that_hangs_is_given_up():
    started = time.monotonic()
    result = run_program(["/bin/sleep", "60"], 0.2)
    assert result.rc is None
    assert command_failure(result) == "no answer within 0.2 seconds"
    assert time.monotonic() - started < 10


def test_a_failure_is_told_by_its_last_line():
    result = run_program(["/bin/sh", "-c", "echo first >&2; echo last >&2; exit 2"], 10)
    assert command_failure(result) == "exit status 2: last"


def test_output_of_a_failing_program_is_none_and_noted(host_tree):
    host_tree.program("kubelet", rc=1, stderr="broken\n")
    host = host_tree.host()
    assert host.output(["kubelet", "--version"]) is None
    assert host.errors == [{"path": "kubelet", "reason": "exit status 1: broken"}]


def test_open_files_names_the_processes_and_not_their_arguments(host_tree):
    for pid, target in ((10, "/dev/nvidia0"), (11, "/dev/null"), (9, "/dev/nvidiactl")):
        host_tree.write(f"/proc/{pid}/comm", f"program{pid}\n")
        host_tree.link(f"/proc/{pid}/fd/3", target)
    host_tree.write("/proc/uptime", "1 1")
    assert host_tree.host().open_files("/dev/nvidia") == [
        {"pid": 9, "command": "program9"},
        {"pid": 10, "command": "program10"},
    ]


def test_the_boot_clock_offset_gives_the_time_of_day():
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + Host().boot_clock_offset_ns()
    assert abs(now - time.time_ns()) < 1_000_000_000


def test_whether_the_clock_is_synchronized_can_be_asked():
    assert Host().time_synchronized() in (True, False)
