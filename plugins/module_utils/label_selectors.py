# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which labels a label selector matches, decided here rather than by the API server.

Pure. A selector comes as text (``app=train,tier in (a, b),!canary``) or as the LabelSelector of an object; both become
the same requirements, and all of them must hold. Comparisons by number (``>``, ``<``) are not taken.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.node_patch import key_problems, value_problems

Labels = t.Mapping[str, str]

_SET = re.compile(r"(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(r"(?P<key>[^\s=!]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^\s=!]*)")
_EXISTENCE = re.compile(r"(?P<operator>!?)\s*(?P<key>[^\s=!]+)")
_COMMA_OUTSIDE_PARENTHESES = re.compile(r",(?![^(]*\))")
_FORMS = "key=value, key!=value, key in (a, b), key notin (a, b), key, !key, separated by commas"


class SelectorError(ValueError):
    """Text that is no selector."""


@dataclass(frozen=True)
class Requirement:
    """One condition on one label. ``values`` None asks only whether there is such a label."""

    key: str
    wanted: bool
    values: frozenset[str] | None = None

    def holds(self, labels: Labels) -> bool:
        found = self.key in labels if self.values is None else labels.get(self.key) in self.values
        return found is self.wanted


Selector = tuple[Requirement, ...]


def matches(selector: Selector, labels: Labels | None) -> bool:
    return all(requirement.holds(labels or {}) for requirement in selector)


def parse_selector(text: str) -> Selector:
    """The requirements of a selector written as text. Raises SelectorError naming the part that is wrong."""
    parts = [part.strip() for part in _COMMA_OUTSIDE_PARENTHESES.split(text)]
    if parts == [""]:
        raise SelectorError(f"label selector {text!r} is empty; write {_FORMS}")
    return tuple(_requirement(part, text) for part in parts)


def _requirement(part: str, text: str) -> Requirement:
    requirement = _read(part)
    if requirement is None:
        raise SelectorError(f"label selector {text!r} has a part {part!r} that cannot be read; write {_FORMS}")
    problems = key_problems("label", requirement.key)
    for value in sorted(requirement.values or ()):
        problems += value_problems("label", requirement.key, value)
    if problems:
        raise SelectorError(f"label selector {text!r}: {'; '.join(problems)}")
    return requirement


def _read(part: str) -> Requirement | None:
    if found := _SET.fullmatch(part):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], found["operator"] == "in", values)
    if found := _EQUALITY.fullmatch(part):
        return Requirement(found["key"], found["operator"] != "!=", frozenset([found["value"]]))
    if found := _EXISTENCE.fullmatch(part):
        return Requirement(found["key"], not found["operator"])
    return None


def selector_of(label_selector: t.Mapping[str, t.Any]) -> Selector:
    """The requirements of a LabelSelector object; an empty one matches everything."""
    same = [Requirement(key, True, frozenset([value])) for key, value in _labels(label_selector).items()]
    return (*same, *(_expression(each) for each in label_selector.get("matchExpressions") or []))


def _labels(label_selector: t.Mapping[str, t.Any]) -> Labels:
    return label_selector.get("matchLabels") or {}


def _expression(expression: t.Mapping[str, t.Any]) -> Requirement:
    operator = expression["operator"]
    if operator in ("Exists", "DoesNotExist"):
        return Requirement(expression["key"], operator == "Exists")
    return Requirement(expression["key"], operator == "In", frozenset(expression["values"]))
