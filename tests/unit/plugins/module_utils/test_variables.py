# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import preflight_report, variables
from ansible_collections.onprem.gpu.plugins.module_utils.variables import Variable

SPECS = {
    "gpu_kubelet_cpu_manager_policy": {"type": "str", "choices": ["none", "static"]},
    "gpu_kubelet_memory_manager_policy": {"type": "str", "choices": ["None", "Static"]},
    "gpu_driver_version": {"type": "str"},
    "gpu_driver_branch": {"type": "int"},
    "gpu_driver_fabric_manager": {"type": "str", "choices": ["auto", "true", "false"]},
    "gpu_driver_allow": {"type": "bool"},
    "gpu_node_labels": {"type": "dict"},
    "gpu_node_token": {"type": "str", "choices": ["a"], "no_log": True},
    "gpu_teams": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "gpus": {"type": "int"},
            "roles": {"type": "list", "elements": "str", "choices": ["view", "edit"]},
        },
    },
}
PREFIXES = ("gpu_driver_", "gpu_kubelet_", "gpu_node_", "gpu_teams")


def check(exempt=(), specs=None, **values):
    given = {name: Variable(value, f"vars.yml:{line}") for line, (name, value) in enumerate(values.items(), 1)}
    return variables.check("gpu-a", given, specs or SPECS, PREFIXES, exempt)


def only(found):
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpu_kubelet_cpu_manager_policy", "static"),
        ("gpu_kubelet_memory_manager_policy", "Static"),
        ("gpu_kubelet_cpu_manager_policy", None),
        ("gpu_driver_version", "580.173.02"),
        ("gpu_driver_version", 580),
        ("gpu_driver_branch", 580),
        ("gpu_driver_branch", "580"),
        ("gpu_driver_fabric_manager", True),
        ("gpu_driver_fabric_manager", "auto"),
        ("gpu_driver_allow", "yes"),
        ("gpu_driver_allow", False),
        ("gpu_node_labels", {"any": "thing"}),
        ("gpu_teams", [{"name": "vision", "gpus": 4, "roles": ["view"]}]),
        ("gpu_teams", []),
        ("other_driver_branch", 1),
    ],
)
def test_good_values_give_no_finding(name, value):
    assert check(**{name: value}) == []


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("gpu_kubelet_cpu_manager_policy", "Static", "none, static"),
        ("gpu_kubelet_memory_manager_policy", "static", "None, Static"),
        ("gpu_driver_fabric_manager", "maybe", "auto, true, false"),
        ("gpu_driver_version", 580.1, 'text in quotes, "580.1"'),
        ("gpu_driver_version", ["580"], "text"),
        ("gpu_driver_branch", "production", "a whole number"),
        ("gpu_driver_branch", True, "a whole number"),
        ("gpu_driver_branch", 580.5, "a whole number"),
        ("gpu_driver_allow", "perhaps", "true or false"),
        ("gpu_node_labels", ["a"], "a mapping"),
        ("gpu_teams", {"name": "vision"}, "a list"),
    ],
)
def test_a_wrong_value_names_variable_value_what_is_allowed_and_where(name, value, allowed):
    found = only(check(**{name: value}))
    assert found["severity"] == "error"
    assert found["variable"] == name
    assert found["allowed"] == allowed
    line = preflight_report.line(found)
    for part in ("gpu-a:", name, preflight_report.shown(value), allowed, "vars.yml:1"):
        assert part in line


@pytest.mark.parametrize(
    ("name", "value", "suggestion"),
    [
        ("gpu_kubelet_cpu_manager_policy", "Static", "did you mean 'static'?"),
        ("gpu_kubelet_memory_manager_policy", "static", "did you mean 'Static'?"),
        ("gpu_driver_brunch", 580, "did you mean gpu_driver_branch?"),
    ],
)
def test_a_slip_of_the_pen_gets_a_suggestion(name, value, suggestion):
    assert suggestion in only(check(**{name: value}))["message"]


def test_an_unknown_name_without_anything_similar_is_an_error_all_the_same():
    found = only(check(gpu_driver_completely_else=1))
    assert (found["check"], found["severity"]) == ("variable_unknown", "error")
    assert "did you mean" not in found["message"]


def test_a_registered_name_of_the_collection_is_exempt():
    assert check(exempt={"gpu_driver_result"}, gpu_driver_result={}) == []


def test_a_misspelt_prefix_is_a_warning_because_the_name_may_be_somebody_elses():
    found = only(check(gpu_drivr_branch=580))
    assert found["severity"] == "warning"
    assert "gpu_driver_branch" in found["message"]


def test_nested_values_are_named_by_their_path():
    found = check(gpu_teams=[{"name": "a"}, {"gpus": "four", "roles": ["view", "edti"], "qouta": 1}])
    messages = " ".join(item["message"] for item in found)
    assert len(found) == 4
    for part in (
        "gpu_teams[1].gpus is 'four'",
        "gpu_teams[1].roles[1] is 'edti'",
        "unknown key 'qouta'",
        "gpu_teams[1].name is",
    ):
        assert part in messages


def test_a_secret_is_not_shown():
    assert "hunter2" not in str(check(gpu_node_token="hunter2"))


def test_a_long_value_is_cut():
    assert len(only(check(gpu_driver_branch="x" * 5000))["message"]) < 200


def test_all_findings_come_at_once():
    found = check(gpu_kubelet_cpu_manager_policy="Static", gpu_driver_brunch=1, gpu_node_labels="x")
    assert len(found) == 3


def test_a_required_variable_that_is_not_set_is_an_error():
    found = only(check(specs={"gpu_driver_branch": {"type": "int", "required": True}}))
    assert found["check"] == "variable_missing"
    assert "gpu_driver_branch" in found["message"]


def test_a_template_without_a_value_is_an_error_with_its_reason():
    given = {"gpu_driver_branch": Variable(None, "vars.yml:1", error="'brnch' is undefined")}
    assert "'brnch' is undefined" in only(variables.check("gpu-a", given, SPECS, PREFIXES))["message"]


def test_only_the_main_entry_point_can_require_a_variable():
    roles = [
        {
            "argument_specs": {
                "main": {"options": {"gpu_a": {"required": True}}},
                "apply": {"options": {"gpu_a": {}, "gpu_b": {"required": True}}},
            }
        },
        {"argument_specs": {"main": {}}},
    ]
    merged = variables.merged_specs(roles)
    assert merged["gpu_a"]["required"] is True
    assert merged["gpu_b"]["required"] is False
