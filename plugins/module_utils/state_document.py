# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a state document may say. Checks documents strictly and fills in what they leave out.

A misspelt key must never read as "nothing wanted", so every unknown one is named, with the place and what is allowed.
Pure.
"""

from __future__ import annotations

import re
import typing as t

DISRUPTIONS = ("none", "gpu", "kubelet", "runtime", "reboot")  # from harmless to hardest


class DocumentError(Exception):
    """One or more mistakes in the documents; each says where it is, what was found and what is allowed."""

    def __init__(self, problems: t.Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Rule(t.NamedTuple):
    """What one key of an item holds: `allowed` describes what `accepts` checks; required when it has no default."""

    allowed: str
    accepts: t.Callable[[t.Any], bool]
    default: t.Any = None
    required: bool = False


Item = dict[str, t.Any]
Document = dict[str, t.Any]
Documents = dict[str, Document]


def _shown(value: t.Any) -> str:
    """A value for an error message, short; null and booleans as YAML writes them."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 80 else text[:77] + "..."


def _one_of(*values: t.Any) -> Rule:
    return Rule("one of " + ", ".join(_shown(value) for value in values), lambda value: value in values, values[0])


def _is_text(value: t.Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_path(value: t.Any) -> bool:
    return _is_text(value) and value.startswith("/") and "\0" not in value


def _is_list_of(accepts: t.Callable[[t.Any], bool]) -> t.Callable[[t.Any], bool]:
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def _is_true_or_false(value: t.Any) -> bool:
    return isinstance(value, bool)


def _is_unit(value: t.Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9:_.\\@-]+", value) is not None and "@." not in value


def _is_digest(value: t.Any) -> bool:
    return value is None or (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None)


def _is_mode(value: t.Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}|[0-7]{4}", value) is not None


NAME = Rule("a text that is not empty", _is_text, required=True)
PATH = Rule("an absolute path", _is_path, required=True)
PATHS = Rule("a list of absolute paths", _is_list_of(_is_path), ())
MODE = Rule('four octal digits in quotes, such as "0644"', _is_mode, "0644")
OWNER = Rule("the name or number of a user or group, as text", _is_text, "root")
VERSION = Rule(
    'a version in quotes, such as "580.159.03", or null for any', lambda value: value is None or _is_text(value)
)
TRUE_OR_FALSE = Rule("true, false, or null to leave it alone", lambda value: value is None or _is_true_or_false(value))
DISRUPTS = _one_of(*DISRUPTIONS)

RULES: dict[str, dict[str, Rule]] = {
    "packages": {
        "name": NAME,
        "version": VERSION,
        "hold": TRUE_OR_FALSE,
        "state": _one_of("present", "absent"),
        "disrupts": DISRUPTS,
    },
    "files": {
        "path": PATH,
        "content": Rule("text", lambda value: isinstance(value, str), ""),
        "sha256": Rule("64 hexadecimal digits, or null where content is given", _is_digest),
        "src": Rule("a path on the controller, or null", lambda value: value is None or _is_text(value)),
        "mode": MODE,
        "owner": OWNER,
        "group": OWNER,
        "state": _one_of("present", "absent"),
        "first": Rule("true or false", _is_true_or_false, False),
        "disrupts": DISRUPTS,
    },
    "generated": {
        "path": PATH,
        "argv": Rule(
            "a list of texts, the program first",
            lambda value: _is_list_of(_is_text)(value) and value != [],
            required=True,
        ),
        "mode": MODE,
        "owner": OWNER,
        "group": OWNER,
        "disrupts": DISRUPTS,
    },
    "modules": {
        "name": Rule(
            "the name of a kernel module",
            lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]+", value) is not None,
            required=True,
        ),
        "version": VERSION,
        "state": _one_of("loaded", "absent"),
        "disrupts": DISRUPTS,
    },
    "services": {
        "name": Rule("the name of one systemd unit, no pattern and no template", _is_unit, required=True),
        "enabled": TRUE_OR_FALSE,
        "state": Rule(
            "started, stopped, or null to leave it alone", lambda value: value in ("started", "stopped", None)
        ),
        "masked": TRUE_OR_FALSE,
        "restarts_on": PATHS,
        "disrupts": DISRUPTS,
    },
    "checkpoints": {
        "path": PATH,
        "key": NAME,
        "value": Rule(
            "text, a number, true or false", lambda value: isinstance(value, (str, int, float)), required=True
        ),
        "service": Rule("the name of one systemd unit, no pattern and no template", _is_unit, required=True),
        "disrupts": DISRUPTS,
    },
}
# Sections that are one item and no list.
SINGLE_RULES: dict[str, dict[str, Rule]] = {
    "initramfs": {"newer_than": PATHS, "disrupts": DISRUPTS},
    "mig": {
        "selected": Rule("the name of a layout, as text", _is_text, required=True),
        "config": Rule(
            "a mapping with version and mig-configs, or null", lambda value: value is None or isinstance(value, dict)
        ),
        "reset": Rule("true or false", _is_true_or_false, False),
        "disrupts": DISRUPTS,
    },
}
SECTIONS = (*RULES, *SINGLE_RULES)


def checked_documents(documents: t.Any) -> Documents:
    """The documents with every list and key present; raises DocumentError with all mistakes at once."""
    if not isinstance(documents, dict):
        raise DocumentError([f"documents is {_shown(documents)}; it must be a dictionary from names to documents."])
    problems: list[str] = []
    checked = {str(name): _document(f"documents.{name}", found, problems) for name, found in documents.items()}
    if problems:
        raise DocumentError(problems)
    return checked


def item_name(section: str, item: Item) -> str:
    """What names an item within its section: its path, or its name."""
    return str(item["path"] if "path" in RULES[section] else item["name"])


def _document(place: str, found: t.Any, problems: list[str]) -> Document:
    if not isinstance(found, dict):
        problems.append(f"{place} is {_shown(found)}; it must be a dictionary with the keys {', '.join(SECTIONS)}.")
        return {}
    problems.extend(_unknown_keys(place, found, SECTIONS))
    document: Document = {section: _section(place, section, found.get(section), problems) for section in RULES}
    for section, rules in SINGLE_RULES.items():
        document[section] = _single(f"{place}.{section}", rules, found.get(section), problems)
    return document


def _section(place: str, section: str, found: t.Any, problems: list[str]) -> list[Item]:
    if found is None:
        return []
    if not isinstance(found, list):
        problems.append(f"{place}.{section} is {_shown(found)}; it must be a list.")
        return []
    before = len(problems)
    items = [_item(f"{place}.{section}[{number}]", RULES[section], item, problems) for number, item in enumerate(found)]
    if len(problems) == before:
        problems.extend(_duplicates(f"{place}.{section}", [item_name(section, item) for item in items]))
    return items


def _single(place: str, rules: t.Mapping[str, Rule], found: t.Any, problems: list[str]) -> Item | None:
    return None if found is None else _item(place, rules, found, problems)


def _item(place: str, rules: t.Mapping[str, Rule], found: t.Any, problems: list[str]) -> Item:
    if not isinstance(found, dict):
        problems.append(f"{place} is {_shown(found)}; it must be a dictionary with the keys {', '.join(rules)}.")
        return {}
    problems.extend(_unknown_keys(place, found, rules))
    problems.extend(_wrong_values(place, rules, found))
    return {key: _value(rule, found.get(key, rule.default)) for key, rule in rules.items()}


def _wrong_values(place: str, rules: t.Mapping[str, Rule], found: Item) -> list[str]:
    missing = [
        f"{place}.{key} is missing; it must be {rule.allowed}."
        for key, rule in rules.items()
        if rule.required and key not in found
    ]
    wrong = [
        f"{place}.{key} is {_shown(found[key])}; it must be {rule.allowed}."
        for key, rule in rules.items()
        if key in found and not rule.accepts(found[key])
    ]
    return missing + wrong


def _unknown_keys(place: str, found: t.Mapping[t.Any, t.Any], known: t.Iterable[str]) -> list[str]:
    names = list(known)
    return [
        f"{place}.{key} is not known here; the known keys are {', '.join(names)}." for key in found if key not in names
    ]


def _duplicates(place: str, names: t.Sequence[str]) -> list[str]:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return [f"{place} names {name} more than once; every item must be named once." for name in twice]


def _value(rule: Rule, value: t.Any) -> t.Any:
    if rule is MODE and isinstance(value, str):
        return value.zfill(4)
    return list(value) if isinstance(value, (list, tuple)) else value
