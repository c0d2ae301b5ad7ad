# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose lock it is, and what becomes of the Lease."""

from __future__ import annotations

import datetime

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_lease import (
    ANNOUNCED_SECONDS,
    EXPIRED,
    FREE,
    HELD,
    MINE,
    UNCLEAR,
    announcing,
    arrived,
    due,
    format_time,
    judge,
    lease_of,
    lock_of,
    parse_time,
    released,
    renewed,
    taken,
)

NOW = datetime.datetime(2026, 11, 26, 12, 0, tzinfo=datetime.UTC)
PREFIX = "onprem.gpu"


def after(seconds):
    return NOW + datetime.timedelta(seconds=seconds)


def lease(holder="run-b/ops@host", renewed_ago=0.0, duration=900, **more):
    spec = {
        "holderIdentity": holder,
        "renewTime": format_time(after(-renewed_ago)),
        "leaseDurationSeconds": duration,
        "leaseTransitions": 7,
        **more,
    }
    metadata = {"name": "l", "namespace": "n", "resourceVersion": "5"}
    return {"metadata": metadata, "spec": {name: value for name, value in spec.items() if value is not None}}


def lock(**options):
    return lock_of(lease(**options), PREFIX)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (None, FREE),
        (lock(holder=""), FREE),
        (lock(holder="", renewTime=None), FREE),
        (lock(holder="run-a"), MINE),
        (lock(holder="run-a/somebody else@elsewhere", renewed_ago=10**6), MINE),
        (lock(holder="run-ab"), HELD),
        (lock(renewed_ago=914), HELD),
        (lock(renewed_ago=916), EXPIRED),
        (lock(renewed_ago=-86400), HELD),  # clocks differ; not a reason to take a lock
        (lock(renewTime=None), UNCLEAR),
        (lock(duration=None), UNCLEAR),
        (lock(renewTime="yesterday"), UNCLEAR),
    ],
)
def test_whose_lock_it_is(found, verdict):
    assert judge(found, "run-a", NOW) == verdict


def test_a_new_lock_starts_with_the_first_token():
    new = taken(None, "run-a/me", 900, NOW)
    assert (new.transitions, new.acquired, new.renewed, new.seconds) == (0, NOW, NOW, 900)
    assert taken(None, "run-a/me", 900, NOW, first_token=5).transitions == 5


def test_a_lock_that_changes_hands_forgets_what_the_run_before_had_announced():
    held = announcing(lock(), 900, NOW, ["gpu-1", "gpu-2"], ())
    other = taken(held, "run-a/me", 60, NOW)
    again = taken(held, "run-b/me", 60, NOW, seen=["gpu-2"])
    assert (other.transitions, other.announced, other.started) == (8, {}, 0)
    assert (again.transitions, list(again.announced), again.started) == (8, ["gpu-1"], 2)


def test_renewal_is_due_after_a_third_or_for_another_duration():
    held = lock(holder="run-a", renewed_ago=300)
    assert not due(held, 900, NOW)
    assert due(held, 900, after(1))
    assert due(held, 600, NOW)


def test_announcements_end_with_their_claim_or_their_time():
    held = announcing(lock(), 900, NOW, ["gpu-1", "gpu-2"], ())
    held = announcing(held, 900, after(60), ["gpu-3"], seen=["gpu-1"])
    assert list(held.still_announced(after(60))) == ["gpu-2", "gpu-3"]
    assert list(held.still_announced(after(ANNOUNCED_SECONDS))) == ["gpu-3"]
    assert held.started == 3
    assert list(arrived(held, 900, after(61), ["gpu-3"]).announced) == ["gpu-2"]


def test_what_is_announced_again_is_not_counted_again():
    held = announcing(lock(), 900, NOW, ["gpu-1"], ())
    assert announcing(held, 900, after(10), ["gpu-1"], ()).started == 1


def test_a_released_lock_keeps_its_count_and_nothing_else():
    free = released(announcing(lock(), 900, NOW, ["gpu-1"], ()), NOW)
    assert (free.holder, free.seconds, free.transitions, free.announced, free.started) == ("", 1, 7, {}, 0)
    assert judge(free, "run-a", NOW) == FREE


def test_the_lease_carries_version_and_strangers_fields_and_six_decimals():
    found = lease(preferredHolder="x")
    found["metadata"]["annotations"] = {"theirs": "1"}
    found["metadata"]["managedFields"] = [{"manager": "x"}]
    sent = lease_of(announcing(lock_of(found, PREFIX), 900, NOW, ["gpu-1"], ()), "l", "n", PREFIX)
    assert sent["metadata"]["resourceVersion"] == "5"
    assert "managedFields" not in sent["metadata"]
    assert sent["metadata"]["annotations"]["theirs"] == "1"
    assert sent["spec"]["preferredHolder"] == "x"
    assert sent["spec"]["renewTime"] == "2026-11-26T12:00:00.000000Z"
    assert lock_of(sent, PREFIX).announced == {"gpu-1": "2026-11-26T12:00:00.000000Z"}
    bare = lease_of(released(lock_of(sent, PREFIX), NOW), "l", "n", PREFIX)
    assert bare["metadata"]["annotations"] == {"theirs": "1"}


@pytest.mark.parametrize("change", [lambda own: renewed(own, 60, after(5)), lambda own: released(own, after(5))])
def test_what_is_written_is_what_is_read(change):
    changed = change(lock(holder="run-a/me", acquireTime=format_time(NOW)))
    assert lock_of(lease_of(changed, "l", "n", PREFIX), PREFIX) == changed


@pytest.mark.parametrize("notes", ["", "[]", "7", "{", '{"a": null}'])
def test_notes_that_somebody_changed_do_no_harm(notes):
    found = lease()
    found["metadata"]["annotations"] = {"onprem.gpu/maint-announced": notes, "onprem.gpu/maint-started": "many"}
    held = lock_of(found, PREFIX)
    assert (held.started, held.still_announced(NOW)) == (0, {})


@pytest.mark.parametrize("text", [None, "", "soon", "2026-11-26T12:00:00"])
def test_what_is_no_time_is_none(text):
    assert parse_time(text) is None
