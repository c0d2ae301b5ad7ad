# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.onprem.gpu.plugins.module_utils import preflight_report, run_plan
from ansible_collections.onprem.gpu.plugins.module_utils.findings import finding


def example(**changes):
    values = {
        "check": "disk_free",
        "value": "1 GiB",
        "message": "/var has 1 GiB free.",
        "allowed": "5GiB",
        "variable": "gpu_x",
    }
    return finding(**{**values, **changes})


def test_a_line_names_host_message_allowed_variable_and_place():
    line = preflight_report.line(preflight_report.located(example(), "gpu-a", "group_vars/all.yml:3"))
    assert line == "gpu-a: /var has 1 GiB free. Allowed: 5GiB. Set it with gpu_x in group_vars/all.yml:3."


def test_a_variable_that_the_message_names_is_not_named_twice():
    found = preflight_report.located(example(message="gpu_x is 'a', which is not a number"), "gpu-a", "vars.yml:3")
    assert (
        preflight_report.line(found) == "gpu-a: gpu_x is 'a', which is not a number. Allowed: 5GiB. Set in vars.yml:3."
    )


def test_the_severity_of_a_check_can_be_set():
    found = preflight_report.located(example(), "gpu-a", severity_of_check={"disk_free": "warning", "other": "info"})
    assert found["severity"] == "warning"
    assert preflight_report.warnings([found]) == [found]


def test_a_table_puts_errors_first():
    found = [
        preflight_report.located(example(check="b", severity=severity), "gpu-a")
        for severity in ("info", "error", "warning")
    ]
    assert [line.split()[0] for line in preflight_report.table(found)] == ["error", "warning", "info"]


DIFFERENCES = [
    {"document": "gpu_driver", "kind": "package", "name": "nvidia-open", "disrupts": "gpu", "summary": "install it"},
    {"document": "gpu_driver", "kind": "package", "name": "nvidia-utils", "disrupts": "gpu", "summary": "install it"},
    {"document": "gpu_driver", "kind": "hold", "name": "nvidia-open", "disrupts": "none", "summary": "hold it"},
    {"document": "gpu_kubelet", "kind": "file", "name": "/etc/x", "disrupts": "none", "summary": "/etc/x is missing"},
    {"document": "gpu_driver", "kind": "module", "name": "nouveau", "disrupts": "reboot", "summary": "unload nouveau"},
]


def test_a_plan_says_how_many_differ_and_what_hurts_most_first():
    heading, *lines = run_plan.plan_lines(DIFFERENCES, "gpu-a")
    assert heading == "gpu-a: 5 to change, disrupts reboot, gpu"
    assert [line.split() for line in lines] == [
        ["gpu_driver", "gpu", "package:", "nvidia-open,", "nvidia-utils"],
        ["gpu_kubelet", "file:", "/etc/x"],
        ["gpu_driver", "reboot", "module:", "nouveau"],
    ]


def test_the_full_list_has_a_line_for_each_difference():
    _heading, *lines = run_plan.difference_lines(DIFFERENCES, "gpu-a")
    assert len(lines) == len(DIFFERENCES)
    assert "/etc/x is missing" in lines[3]


def test_a_plan_without_differences_disrupts_nothing():
    assert run_plan.plan_lines([], "gpu-a") == ["gpu-a: 0 to change, disrupts nothing"]
