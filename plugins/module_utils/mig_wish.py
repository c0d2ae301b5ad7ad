# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wanted of the GPUs of one host: a layout by its name, or a layout that stands for itself.

    {"config": {"version": "v1", "mig-configs": {...}}, "selected": "training", "reset": false}
    {"selected": "all-balanced"}                      made from what the GPUs offer, so it needs no config
    {"layout": [{"devices": "all", ...}]}             entries as one of those below mig-configs

The module mig has these as options. A node keeps them as JSON, to have its layout again after a boot:

    saved_wish(text, path) -> Wish      raises SavedWishError, which says how to get a good file
    wish_problems(found)                what is wrong with such data; what config and layout say is judged with the GPUs

A key with null is as if it were not there. Pure.
"""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass

from ansible_collections.onprem.gpu.plugins.module_utils.mig_config import VERSION, Problem

INLINE = "layout"  # the name under which a layout that stands for itself is selected
SOURCE = (
    "Set gpu_mig_layout, and gpu_mig_config where it names a layout of yours, for this host in the inventory and run "
    "the role gpu_mig, which writes this file."
)


@dataclass(frozen=True)
class Wish:
    """A parsed document in mig-parted's language and the name of a layout. reset: GPUs that need it may be reset."""

    document: t.Any
    selected: str
    reset: bool = False


class SavedWishError(Exception):
    """A saved wish that cannot be used: names the file, what is wrong in it, what is allowed and who writes it."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} {what} {SOURCE}")


class _Key(t.NamedTuple):
    allowed: str
    accepts: t.Callable[[t.Any], bool]


KEYS = {
    "config": _Key("a mapping with version and mig-configs, or null", lambda value: isinstance(value, dict)),
    "selected": _Key("the name of a layout, as text", lambda value: isinstance(value, str) and value != ""),
    "layout": _Key("a list of entries as one of those below mig-configs", lambda value: isinstance(value, list)),
    "reset": _Key("true or false, without quotes", lambda value: isinstance(value, bool)),
}


def wish_of(options: t.Mapping[str, t.Any]) -> Wish:
    """Return the wish behind these keys, which may hold more than KEYS."""
    reset = bool(options.get("reset"))
    layout = options.get("layout")
    if layout is None:
        return Wish(options.get("config"), options["selected"], reset)
    return Wish({"version": VERSION, "mig-configs": {INLINE: layout}}, INLINE, reset)


def wish_problems(found: t.Any) -> list[Problem]:
    """Return everything that is wrong with the form of a wish, whatever GPUs there are."""
    if not isinstance(found, dict):
        return [Problem("wish", found, "is not a mapping", f"a mapping with {', '.join(KEYS)}")]
    unknown = [Problem("wish", key, "is not a key here", ", ".join(KEYS)) for key in found if key not in KEYS]
    wrong = [
        Problem(name, found[name], "cannot be used", key.allowed)
        for name, key in KEYS.items()
        if found.get(name) is not None and not key.accepts(found[name])
    ]
    return [*unknown, *wrong, *_choice_problems(found)]


def _choice_problems(found: t.Mapping[str, t.Any]) -> list[Problem]:
    given = [name for name in ("selected", "layout") if found.get(name) is not None]
    if not given:
        return [Problem("wish", found, "wants nothing", "one of selected and layout")]
    if len(given) == 2:
        return [Problem("layout", found["layout"], "is given beside selected", "one of selected and layout")]
    if given == ["layout"] and found.get("config") is not None:
        return [Problem("config", found["config"], "is given beside layout", "config beside selected only")]
    return []


def saved_wish(text: str | None, path: str) -> Wish:
    """Return the wish in a file of this content; None is a file that is not there."""
    if text is None:
        raise SavedWishError(path, "is not there, so nobody knows which layout is wanted.")
    if not text.strip():
        raise SavedWishError(path, f"is empty. Allowed: JSON, a mapping with {', '.join(KEYS)}.")
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise SavedWishError(path, f"is not JSON: {error}.") from error
    problems = wish_problems(found)
    if problems:
        raise SavedWishError(path, f"cannot be used. {' '.join(map(str, problems))}")
    return wish_of(found)


def _once(pairs: list[tuple[str, t.Any]]) -> dict[str, t.Any]:
    """A key that was written twice, by hand at night: nobody would know which one counts."""
    names = [name for name, _value in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the key {twice!r} is there more than once")
    return dict(pairs)
