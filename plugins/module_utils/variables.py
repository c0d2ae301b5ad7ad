# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare the variables of a host with the argument specs of all roles.

Pure. Ansible's own role validation stops a role when that role starts, which is after earlier roles have changed the
host; and it does not notice a misspelt name at all. This looks at everything at once, before the first connection.
"""

from __future__ import annotations

import difflib
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding
from ansible_collections.onprem.gpu.plugins.module_utils.preflight_report import located, shown

SIMILAR_NAMES = 0.8  # difflib ratio from which two variable names count as a slip of the pen
SIMILAR_WORDS = 0.6  # the same for keys and choices, which are shorter
BOOLEAN_WORDS = ("true", "yes", "on", "1", "false", "no", "off", "0")
EXAMPLE_PLACE = "group_vars/gpu_nodes.yml of the inventory"

Spec = t.Mapping[str, t.Any]


class Variable(t.NamedTuple):
    """A variable as the user set it; where is "file:line" or ""; error says why its template has no value."""

    value: t.Any
    where: str = ""
    error: str = ""


def merged_specs(argument_specs: t.Iterable[Spec]) -> dict[str, dict[str, t.Any]]:
    """Return {variable: option spec} over all roles and entry points.

    argument_specs: one mapping per role, the content of its meta/argument_specs.yml. A variable that several entry
    points know keeps the first spec. Entry points other than main take what roles hand each other: never required here.
    """
    merged: dict[str, dict[str, t.Any]] = {}
    for role in argument_specs:
        for entry_point, spec in role.get("argument_specs", {}).items():
            for name, option in spec.get("options", {}).items():
                known = merged.setdefault(name, dict(option, required=False))
                known["required"] |= entry_point == "main" and bool(option.get("required"))
    return merged


def check(
    host: str,
    variables: t.Mapping[str, Variable],
    specs: t.Mapping[str, Spec],
    prefixes: t.Iterable[str],
    exempt: t.Container[str] = (),
) -> list[Finding]:
    """Return located findings for the variables of one host.

    prefixes: beginnings of names that belong to this collection. exempt: names its own plays register.
    """
    found: list[Finding] = []
    for name in sorted(variables):
        variable = variables[name]
        if name in specs:
            problems = _untemplatable(name, variable) or _value_problems(name, variable.value, specs[name])
        else:
            problems = [] if name in exempt else _name_problems(name, variable.value, specs, tuple(prefixes))
        found += [located(problem, host, variable.where) for problem in problems]
    missing = [name for name in sorted(specs) if specs[name].get("required") and name not in variables]
    return found + [located(_missing(name, name), host, EXAMPLE_PLACE) for name in missing]


def _untemplatable(name: str, variable: Variable) -> list[Finding]:
    if not variable.error:
        return []
    return [finding("variable_template", "", f"{name} has no value: {variable.error}", "", name)]


def _name_problems(name: str, value: t.Any, specs: t.Mapping[str, Spec], prefixes: tuple[str, ...]) -> list[Finding]:
    close = difflib.get_close_matches(name, specs, n=1, cutoff=SIMILAR_NAMES)
    hint = f", did you mean {close[0]}?" if close else ""
    if name.startswith(prefixes):
        message = f"variable {name} ({shown(value)}) is unknown{hint}"
        return [finding("variable_unknown", value=shown(value), message=message, allowed="", variable=name)]
    if close:
        message = f"variable {name} ({shown(value)}) is not read by this collection{hint}"
        return [finding("variable_similar", shown(value), message, "", name, severity="warning")]
    return []


def _value_problems(path: str, value: t.Any, spec: Spec) -> list[Finding]:
    """Return the findings for one value and all it contains; path names it, as in gpu_teams[0].name."""
    if value is None:
        return []  # Ansible's way to say "not set"
    problem = _type_problem(value, spec) or _choice_problem(value, spec)
    if problem:
        what, allowed = problem
        text = "(hidden)" if spec.get("no_log") else shown(value)
        return [finding("variable_value", text, f"{path} is {text}, {what}", allowed, path)]
    if spec.get("type") == "list":
        return _element_problems(path, value, spec)
    if spec.get("type") == "dict" and spec.get("options"):
        return _key_problems(path, value, spec["options"])
    return []


def _element_problems(path: str, values: t.Sequence[t.Any], spec: Spec) -> list[Finding]:
    element = {key: spec[key] for key in ("options", "choices", "no_log") if key in spec}
    element["type"] = spec.get("elements", "raw")
    return [
        problem for index, value in enumerate(values) for problem in _value_problems(f"{path}[{index}]", value, element)
    ]


def _key_problems(path: str, values: t.Mapping[str, t.Any], options: t.Mapping[str, Spec]) -> list[Finding]:
    found: list[Finding] = []
    for key in sorted(values, key=str):
        if key in options:
            found += _value_problems(f"{path}.{key}", values[key], options[key])
        else:
            found.append(_unknown_key(path, str(key), options))
    absent = [key for key in sorted(options) if options[key].get("required") and values.get(key) is None]
    return found + [_missing(f"{path}.{key}", path) for key in absent]


def _unknown_key(path: str, key: str, options: t.Mapping[str, Spec]) -> Finding:
    close = difflib.get_close_matches(key, options, n=1, cutoff=SIMILAR_WORDS)
    hint = f", did you mean {close[0]}?" if close else ""
    message = f"{path} has the unknown key '{key}'{hint}"
    return finding("variable_unknown", key, message, ", ".join(sorted(options)), path)


def _missing(path: str, variable: str) -> Finding:
    return finding("variable_missing", "", f"{path} is required and not set", "", variable)


def _type_problem(value: t.Any, spec: Spec) -> tuple[str, str] | None:
    """Return (what is wrong, what is allowed), or None when the value is of the type or converts without loss."""
    wanted = spec.get("type", "str")
    if wanted == "str" and isinstance(value, float):
        return "and YAML drops the last zeros of a number with a point", f'text in quotes, "{value}"'
    is_right, name = _TYPES.get(wanted, (None, ""))
    if is_right is None or is_right(value):
        return None
    return f"which is not {name}", name


def _choice_problem(value: t.Any, spec: Spec) -> tuple[str, str] | None:
    words = [_word(choice) for choice in spec.get("choices", [])]
    if not words or spec.get("type") == "list" or _word(value) in words:
        return None
    close = [word for word in words if word.lower() == _word(value).lower()]
    close = close or difflib.get_close_matches(_word(value), words, n=1, cutoff=SIMILAR_WORDS)
    hint = f", did you mean '{close[0]}'?" if close else ""
    return f"which is not a choice{hint}", ", ".join(words)


def _word(value: t.Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_whole_number(value: t.Any) -> bool:
    if isinstance(value, (bool, float)):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())


def _is_number(value: t.Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


# type: (does the value fit, name for people); a bool is text for choices such as auto|true|false
_TYPES: dict[str, tuple[t.Callable[[t.Any], bool], str]] = {
    "str": (lambda value: isinstance(value, (str, int)), "text"),
    "path": (lambda value: isinstance(value, str), "a path"),
    "int": (_is_whole_number, "a whole number"),
    "float": (_is_number, "a number"),
    "bool": (lambda value: str(value).lower() in BOOLEAN_WORDS, "true or false"),
    "list": (lambda value: isinstance(value, (list, tuple)), "a list"),
    "dict": (lambda value: isinstance(value, dict), "a mapping"),
}
