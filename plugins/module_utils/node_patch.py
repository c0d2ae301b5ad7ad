# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Node object should carry, and the smallest patch that brings it there.

Pure: values in, values out. A node is the decoded JSON of a v1 Node and is never altered; taints are copied as they
came, so fields this code does not know (``timeAdded``) and the order survive. The patch is a JSON merge patch
(RFC 7386): in it the taint list replaces the whole list on the server, which is why every writer must send it together
with the resourceVersion it was computed from.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

Node = dict[str, t.Any]
Patch = dict[str, t.Any]

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
ANNOTATIONS_MAX_BYTES = 256 * 1024

# Rules of k8s.io/apimachinery/pkg/util/validation (IsQualifiedName, IsValidLabelValue, IsDNS1123Subdomain).
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_RULE = "1 to 63 characters: letters, digits, '-', '_', '.', first and last a letter or digit"
_PREFIX_RULE = "a DNS subdomain: at most 253 characters: lower-case letters, digits, '-' and '.'"
_VALUE_RULE = "at most 63 characters: letters, digits, '-', '_', '.', first and last a letter or digit, or empty"


class WishError(ValueError):
    """A wish that no API server would take, found before any request. ``problems`` has one line for each."""

    def __init__(self, problems: t.Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class ForeignValue(Exception):
    """The node carries other values under the wanted keys, and overwriting them was not allowed."""


@dataclass(frozen=True)
class TaintWish:
    """One taint that should be there, or should not.

    Without an effect an absent taint means every effect of the key.
    """

    key: str
    effect: str | None
    value: str = ""
    present: bool = True

    def means(self, taint: t.Mapping[str, t.Any]) -> bool:
        return taint["key"] == self.key and self.effect in (None, taint["effect"])


@dataclass(frozen=True)
class Wish:
    """What one node should carry. A label or annotation of None should be gone; unschedulable None is left alone."""

    labels: t.Mapping[str, str | None] = field(default_factory=dict)
    annotations: t.Mapping[str, str | None] = field(default_factory=dict)
    taints: tuple[TaintWish, ...] = ()
    unschedulable: bool | None = None

    def over(self, common: Wish) -> Wish:
        """This wish on top of a common one; where both speak of the same thing this one counts."""
        inherited = [wish for wish in common.taints if not any(_same_taint(wish, own) for own in self.taints)]
        return Wish(
            labels={**common.labels, **self.labels},
            annotations={**common.annotations, **self.annotations},
            taints=(*inherited, *self.taints),
            unschedulable=common.unschedulable if self.unschedulable is None else self.unschedulable,
        )


def _same_taint(one: TaintWish, other: TaintWish) -> bool:
    return one.key == other.key and (None in (one.effect, other.effect) or one.effect == other.effect)


# --- From what a user wrote to a wish -------------------------------------------------------------------------------


def parse_wish(raw: t.Mapping[str, t.Any], where: str = "") -> Wish:
    """Check what a user wrote and make it a wish.

    ``raw`` has the keys labels, annotations, taints and unschedulable, each optional or None; ``where`` says in
    messages which entry it is ("nodes[2] (gpu-1)"). Raises WishError with everything that is wrong, not only the first.
    """
    prefix = f"{where}: " if where else ""
    problems: list[str] = []
    labels = raw.get("labels") or {}
    annotations = raw.get("annotations") or {}
    taints = raw.get("taints") or []
    problems += _label_problems(labels) + _annotation_problems(annotations) + _taint_problems(taints)
    if problems:
        raise WishError([prefix + problem for problem in problems])
    return Wish(
        labels=_as_text(labels),
        annotations=_as_text(annotations),
        taints=tuple(_taint_wish(taint) for taint in taints),
        unschedulable=raw.get("unschedulable"),
    )


def _as_text(values: t.Mapping[str, t.Any]) -> dict[str, str | None]:
    return {key: None if value is None else str(value) for key, value in values.items()}


def _taint_wish(raw: t.Mapping[str, t.Any]) -> TaintWish:
    value = raw.get("value")
    return TaintWish(
        key=raw["key"],
        effect=raw.get("effect"),
        value="" if value is None else str(value),
        present=raw.get("state", "present") != "absent",
    )


def _type_problems(what: str, key: t.Any, value: t.Any) -> list[str]:
    """Integers are taken (templates give them for counts); YAML's true and 1.10 do not say which text is meant."""
    if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)):
        return []
    return [
        f"{what} {key} has the value {value!r} of type {type(value).__name__}; write it in quotes as the text you mean"
    ]


def _label_problems(labels: t.Mapping[str, t.Any]) -> list[str]:
    problems = []
    for key, value in labels.items():
        problems += key_problems("label", key)
        problems += _type_problems("label", key, value) or value_problems("label", key, value)
    return problems


def _annotation_problems(annotations: t.Mapping[str, t.Any]) -> list[str]:
    problems = []
    for key, value in annotations.items():
        problems += key_problems("annotation", key, case_matters=False) + _type_problems("annotation", key, value)
    size = sum(len(str(key).encode()) + len(str(value).encode()) for key, value in annotations.items())
    if size > ANNOTATIONS_MAX_BYTES:
        problems.append(f"annotations take {size} bytes together; allowed are {ANNOTATIONS_MAX_BYTES}")
    return problems


def _taint_problems(taints: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    problems: list[str] = []
    seen: list[TaintWish] = []
    for raw in taints:
        key, effect, value = raw.get("key"), raw.get("effect"), raw.get("value")
        present = raw.get("state", "present") != "absent"
        problems += key_problems("taint", key)
        if effect is None and present:
            problems.append(f"taint {key} has no effect; allowed are {', '.join(EFFECTS)}")
        if effect is not None and effect not in EFFECTS:
            problems.append(f"taint {key} has the effect {effect!r}; allowed are {', '.join(EFFECTS)}")
        problems += _type_problems("taint", key, value) or value_problems("taint", key, value)
        wish = TaintWish(str(key), effect, present=present)
        if any(_same_taint(wish, earlier) for earlier in seen):
            problems.append(f"taint {key} with effect {effect} is wished for twice; name each key and effect once")
        seen.append(wish)
    return problems


def key_problems(what: str, key: t.Any, case_matters: bool = True) -> list[str]:
    """What is wrong with the key of a label, taint or annotation ([] = nothing).

    An annotation's prefix may be in capitals.
    """
    if not isinstance(key, str):
        return [f"{what} key {key!r} is not text; write it in quotes"]
    prefix, slash, name = key.rpartition("/")
    problems = []
    if not _NAME.fullmatch(name) or len(name) > 63:
        problems.append(f"{what} key {key!r} is not allowed: the name after the prefix must be {_NAME_RULE}")
    subdomain = prefix if case_matters else prefix.lower()
    if slash and (not _SUBDOMAIN.fullmatch(subdomain) or len(prefix) > 253):
        problems.append(f"{what} key {key!r} is not allowed: the prefix before '/' must be {_PREFIX_RULE}")
    return problems


def value_problems(what: str, key: t.Any, value: t.Any) -> list[str]:
    """What is wrong with the value of a label or taint ([] = nothing); None means there is none."""
    text = "" if value is None else str(value)
    if text == "" or (_NAME.fullmatch(text) and len(text) <= 63):
        return []
    return [f"{what} {key} has the value {value!r}, which is not allowed: it must be {_VALUE_RULE}"]


def node_name_problems(name: t.Any) -> list[str]:
    """What is wrong with the name of a Node object ([] = nothing)."""
    if isinstance(name, str) and _SUBDOMAIN.fullmatch(name) and len(name) <= 253:
        return []
    return [f"node name {name!r} is not allowed: it must be {_PREFIX_RULE}"]


# --- From a node and a wish to a patch ------------------------------------------------------------------------------


def compute(node: Node, wish: Wish, overwrite: bool = True) -> Patch | None:
    """The smallest merge patch that makes the node satisfy the wish; None when it already does.

    Raises ForeignValue when a value would be replaced by another and ``overwrite`` is false. Removing what a user named
    is not replacing.
    """
    metadata = {}
    for part, wanted in (("labels", wish.labels), ("annotations", wish.annotations)):
        differing = _differing_keys(node["metadata"].get(part) or {}, wanted)
        if differing:
            metadata[part] = differing
    spec = _spec_patch(node.get("spec") or {}, wish)
    if not overwrite:
        _refuse_foreign_values(node, wish)
    patch = {}
    if metadata:
        patch["metadata"] = metadata
    if spec:
        patch["spec"] = spec
    return patch or None


def _differing_keys(current: t.Mapping[str, str], wanted: t.Mapping[str, str | None]) -> dict[str, str | None]:
    return {key: value for key, value in wanted.items() if current.get(key) != value}


def _spec_patch(spec: t.Mapping[str, t.Any], wish: Wish) -> Patch:
    patch: Patch = {}
    current = spec.get("taints") or []
    taints = wanted_taints(current, wish.taints)
    if taints != current:
        patch["taints"] = taints or None
    if wish.unschedulable is not None and wish.unschedulable != bool(spec.get("unschedulable")):
        patch["unschedulable"] = wish.unschedulable
    return patch


def wanted_taints(
    current: t.Sequence[t.Mapping[str, t.Any]], wishes: t.Sequence[TaintWish]
) -> list[t.Mapping[str, t.Any]]:
    """The node's taints with the wishes applied: everybody else's stay as and where they are, new ones come last."""
    taints: list[t.Mapping[str, t.Any]] = []
    for taint in current:
        wish = next((wish for wish in wishes if wish.means(taint)), None)
        if wish is None:
            taints.append(taint)
        elif wish.present:
            taints.append(_with_value(taint, wish.value))
    for wish in wishes:
        if wish.present and not any(wish.means(taint) for taint in current):
            taints.append(_with_value({"key": wish.key, "effect": wish.effect}, wish.value))
    return taints


def _with_value(taint: t.Mapping[str, t.Any], value: str) -> t.Mapping[str, t.Any]:
    if taint.get("value", "") == value:
        return taint
    other_fields = {name: content for name, content in taint.items() if name != "value"}
    return {**other_fields, "value": value} if value else other_fields


def _refuse_foreign_values(node: Node, wish: Wish) -> None:
    foreign = []
    for what, wanted in (("label", wish.labels), ("annotation", wish.annotations)):
        current = node["metadata"].get(what + "s") or {}
        foreign += [
            f"{what} {key} is {current[key]!r}, not {value!r}"
            for key, value in wanted.items()
            if value is not None and key in current and current[key] != value
        ]
    for taint in (node.get("spec") or {}).get("taints") or []:
        for wished in wish.taints:
            if wished.present and wished.means(taint) and taint.get("value", "") != wished.value:
                foreign.append(f"taint {taint_text(taint)} should have the value {wished.value!r}")
    if foreign:
        raise ForeignValue("; ".join(foreign))


def patched(node: Node, patch: Patch | None) -> Node:
    """The node as the server would return it for the patch (RFC 7386), for predictions without a server."""
    return _merged(node, patch) if patch else node


def _merged(target: t.Any, patch: t.Any) -> t.Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


# --- For people -----------------------------------------------------------------------------------------------------


def touched(node: Node, wish: Wish) -> dict[str, t.Any]:
    """What the node carries of the things the wish speaks of; for results and diffs."""
    spec = node.get("spec") or {}
    view: dict[str, t.Any] = {}
    for part, wanted in (("labels", wish.labels), ("annotations", wish.annotations)):
        current = node["metadata"].get(part) or {}
        if wanted:
            view[part] = {key: current[key] for key in sorted(wanted) if key in current}
    if wish.taints:
        view["taints"] = [
            taint_text(taint)
            for taint in spec.get("taints") or []
            if any(wished.means(taint) for wished in wish.taints)
        ]
    if wish.unschedulable is not None:
        view["unschedulable"] = bool(spec.get("unschedulable"))
    return view


def taint_text(taint: t.Mapping[str, t.Any]) -> str:
    """A taint as kubectl writes it: key=value:effect, or key:effect when it has no value."""
    value = taint.get("value", "")
    return f"{taint['key']}={value}:{taint['effect']}" if value else f"{taint['key']}:{taint['effect']}"
