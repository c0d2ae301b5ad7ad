# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.applied_objects import named, outcomes

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
QUOTA = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "a"}, "spec": {}}
UNCHANGED = {"changed": False, "method": "apply", "diff": {}}


def failure(message: str, reason: str, kind: str) -> dict[str, t.Any]:
    """An error as kubernetes.core 6.2.0 reports it for an object of a list."""
    status = f'{{"kind":"Status","message":"{message}","reason":"{reason}","details":{{"kind":"{kind}"}}}}'
    return {"changed": False, "result": {}, "error": {"msg": f"Failed to apply object: {status}", "reason": "x"}}


NO_NAMESPACE = failure("namespaces 'a' not found", "NotFound", "namespaces")


def test_objects_are_named_as_people_write_them() -> None:
    assert (named(NAMESPACE), named(QUOTA)) == ("Namespace a", "ResourceQuota a/q")


def test_a_diff_shows_what_changed_and_not_what_the_server_adds() -> None:
    diff = {
        "before": {"metadata": {"resourceVersion": "1", "labels": {"x": "1"}}, "status": {"used": "1"}},
        "after": {"metadata": {"resourceVersion": "2", "labels": {"x": "2"}}, "status": {"used": "2"}},
    }
    found = outcomes([QUOTA], [{"changed": True, "method": "apply", "diff": diff}], check_mode=False)[0]
    assert found["changed"] and found["error"] is None
    assert found["diff"]["before_header"] == "ResourceQuota a/q"
    assert found["diff"]["before"] == {"metadata": {"labels": {"x": "1"}}}
    assert found["diff"]["after"] == {"metadata": {"labels": {"x": "2"}}}


def test_an_object_as_wanted_has_no_diff() -> None:
    assert outcomes([QUOTA], [UNCHANGED], check_mode=False)[0]["diff"] is None


def test_in_check_mode_what_goes_into_a_new_namespace_would_be_made() -> None:
    found = outcomes([NAMESPACE, QUOTA], [{"changed": True, "diff": {}}, NO_NAMESPACE], check_mode=True)
    assert [one["changed"] for one in found] == [True, True]
    assert found[1]["error"] is None and found[1]["diff"]["after"]["kind"] == "ResourceQuota"


def test_a_missing_namespace_that_nobody_makes_is_an_error_even_in_check_mode() -> None:
    found = outcomes([QUOTA], [NO_NAMESPACE], check_mode=True)[0]
    assert not found["changed"] and found["error"] == "namespaces 'a' not found"


def test_a_missing_namespace_is_an_error_in_a_real_run() -> None:
    assert outcomes([NAMESPACE, QUOTA], [UNCHANGED, NO_NAMESPACE], check_mode=False)[1]["error"]


def test_other_errors_are_told_in_the_server_s_words() -> None:
    forbidden = failure("roles is forbidden: user ann cannot patch", "Forbidden", "roles")
    found = outcomes([NAMESPACE, QUOTA], [UNCHANGED, forbidden], check_mode=True)[1]
    assert found["error"] == "roles is forbidden: user ann cannot patch"
    plain = {"error": {"msg": "Failed to find exact match for v1.Foo"}}
    assert outcomes([QUOTA], [plain], check_mode=False)[0]["error"] == "Failed to find exact match for v1.Foo"


def test_a_deletion_shows_what_goes() -> None:
    found = outcomes([QUOTA], [{"changed": True, "method": "delete", "result": {}}], check_mode=False)[0]
    assert found["diff"]["before"]["metadata"] == {"name": "q", "namespace": "a"} and found["diff"]["after"] == {}
