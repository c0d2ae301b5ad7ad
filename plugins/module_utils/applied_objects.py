# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kubernetes.core.k8s did with a list of objects, for people. Pure.

The module answers a list with one result per object, in order, and leaves it to the reader to find out which object
changed, how, and what went wrong.
"""

from __future__ import annotations

import json
import typing as t

Definition = t.Mapping[str, t.Any]

# What the API server adds to an object; it differs on every cluster and says nothing about the wish.
_SERVER_SIDE = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")


def outcomes(
    definitions: t.Sequence[Definition], results: t.Sequence[Definition], *, check_mode: bool
) -> list[dict[str, t.Any]]:
    """Return per object: object (as text), changed, error (text or None) and diff (Ansible's, or None).

    In check mode an object whose namespace is still to be made by the same list counts as one that would be made: the
    API server cannot be asked about it.
    """
    made = {one["metadata"]["name"] for one in definitions if one["kind"] == "Namespace"}
    return [_outcome(one, result, made, check_mode) for one, result in zip(definitions, results)]


def named(definition: Definition) -> str:
    """Return an object as people write it: ResourceQuota team-a/gpu-team."""
    metadata = definition["metadata"]
    place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{definition['kind']} {place}{metadata['name']}"


def _outcome(definition: Definition, result: Definition, made: t.Container[str], check_mode: bool) -> dict[str, t.Any]:
    outcome = {"object": named(definition), "changed": bool(result.get("changed")), "error": None, "diff": None}
    error = result.get("error")
    if error and check_mode and _namespace_missing(error) and definition["metadata"].get("namespace") in made:
        return {**outcome, "changed": True, "diff": _diff(definition, {}, definition)}
    if error:
        return {**outcome, "error": reason(error)}
    if outcome["changed"]:
        diff = result.get("diff") or {}
        before, after = diff.get("before") or {}, diff.get("after") or {}
        if result.get("method") == "delete":
            before, after = definition, {}
        outcome["diff"] = _diff(definition, before, after)
    return outcome


def _namespace_missing(error: Definition) -> bool:
    status = _status(str(error.get("msg", "")))
    return status.get("reason") == "NotFound" and (status.get("details") or {}).get("kind") == "namespaces"


def reason(error: Definition) -> str:
    """Return the API server's own words where there are any."""
    text = str(error.get("msg", ""))
    return str(_status(text).get("message") or text)


def _status(text: str) -> dict[str, t.Any]:
    """The Status object in a message such as: Failed to apply object: {"kind":"Status", ...}."""
    start = text.find('{"kind":"Status"')
    if start < 0:
        return {}
    try:
        found = json.JSONDecoder().raw_decode(text[start:])[0]
    except ValueError:
        return {}
    return found


def _diff(definition: Definition, before: Definition, after: Definition) -> dict[str, t.Any]:
    header = named(definition)
    return {
        "before_header": header,
        "after_header": header,
        "before": _readable(before),
        "after": _readable(after),
    }


def _readable(content: Definition) -> dict[str, t.Any]:
    """Without status and the API server's own metadata."""
    shown = {key: value for key, value in content.items() if key != "status"}
    if isinstance(shown.get("metadata"), dict):
        shown["metadata"] = {key: value for key, value in shown["metadata"].items() if key not in _SERVER_SIDE}
    return shown
