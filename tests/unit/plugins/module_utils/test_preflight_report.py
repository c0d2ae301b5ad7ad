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


def test_a_plan_says_how_many_differ_and_what_hurts_most_first():
    differences = [
        {"document": "gpu_driver", "disrupts": "gpu", "summary": "nvidia-open 580.173.02 is not installed"},
        {"document": "gpu_kubelet", "disrupts": "none", "summary": "/etc/x is missing"},
        {"document": "gpu_driver", "disrupts": "reboot", "summary": "nouveau is loaded"},
    ]
    heading, *lines = run_plan.plan_lines(differences, "gpu-a")
    assert heading == "gpu-a: 3 to change, disrupts reboot, gpu"
    assert [line.split()[0] for line in lines] == ["gpu_driver", "gpu_kubelet", "gpu_driver"]
    assert "nvidia-open 580.173.02 is not installed" in lines[0]


def test_a_plan_without_differences_disrupts_nothing():
    assert run_plan.plan_lines([], "gpu-a") == ["gpu-a: 0 to change, disrupts nothing"]
