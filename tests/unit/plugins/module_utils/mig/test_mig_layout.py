# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planner must do in situations that happen: each a line of what stands, what is wanted and what is done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mig_notation import USER, carried_out, layout, make_gpu, make_wanted_on, short

from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    IN_USE,
    INFEASIBLE,
    INVALID_PROFILE,
    NOT_SUPPORTED,
    ComputeInstance,
    ComputeProfile,
    GpuInstance,
    LayoutError,
    Mode,
    Operation,
    Placement,
    Wanted,
    WantedInstance,
    inverse,
    line,
    lines,
    plan,
    plan_host,
    result,
)

OFF = Wanted(False)
DCGM = ("nv-hostengine (pid 99)",)

CHANGES = [
    ("the layout is there", "A100-40GB", "1g@0..6", "1g*7", []),
    ("starts do not matter", "A100-40GB", "3g@0 2g@4 1g@6", "3g 2g 1g", []),
    ("4-2-1 on an empty GPU", "A100-40GB", "", "4g 2g 1g", ["C 4g@0", "C 2g@4", "C 1g@6"]),
    ("a 2g instead of two 1g", "A100-40GB", "3g@4 2g@2 1g@0 1g@1", "3g 2g*2", ["D 1g@0", "D 1g@1", "C 2g@0"]),
    ("one more 3g", "A100-40GB", "3g@4", "3g*2", ["C 3g@0"]),
    (
        "a 3g where 1g stand, around one in use",
        "A100-40GB",
        "1g@0..2 1g@3* 1g@4..6",
        "3g 1g*3",
        ["D 1g@2", "D 1g@4", "D 1g@5", "D 1g@6", "C 3g@4"],
    ),
    ("around one in use", "A100-40GB", "1g@6*", "4g 2g 1g", ["C 4g@0", "C 2g@4"]),
    ("a 1g blocks the 4g", "A100-40GB", "1g@0", "4g 1g", ["D 1g@0", "C 4g@0", "C 1g@4"]),
    ("a 3g in the wrong half", "A100-40GB", "3g@0", "4g 3g", ["D 3g@0", "C 3g@4", "C 4g@0"]),
    (
        "only one half will do for a 3g",
        "A100-40GB",
        "1g@6 1g@4 2g@0",
        "3g 2g 1g*2",
        ["D 1g@4", "D 1g@6", "C 3g@4", "C 1g@2", "C 1g@3"],
    ),
    ("one of two 2g goes", "A100-40GB", "2g@0 2g@4", "3g 2g*2", ["D 2g@4", "C 3g@4", "C 2g@2"]),
    (
        "what is in use stays when there is less",
        "A100-40GB",
        "1g@0..5 1g@6*",
        "1g*2",
        ["D 1g@1", "D 1g@2", "D 1g@3", "D 1g@4", "D 1g@5"],
    ),
    (
        "with media engines is another profile",
        "A100-40GB",
        "1g+me@0",
        "1g+me 1g*6",
        [f"C 1g@{start}" for start in range(1, 7)],
    ),
    (
        "double memory needs even starts",
        "H100-80GB",
        "1g@1",
        "1g.20gb*4",
        ["D 1g@1", *(f"C 1g.20gb@{start}" for start in (0, 2, 4, 6))],
    ),
    (
        "double memory beside one in use",
        "H100-80GB",
        "1g@6*",
        "1g.20gb*3 1g",
        [f"C 1g.20gb@{start}" for start in (0, 2, 4)],
    ),
    ("A30", "A30-24GB", "1g@1 1g@2", "2g 1g*2", ["D 1g@2", "C 2g@2", "C 1g@0"]),
    ("twelve slices", "RTX-PRO-6000-96GB", "1g@3 1g@6", "2g 1g*2", ["D 1g@6", "C 2g@6", "C 1g@0"]),
    (
        "all media engines",
        "RTX-PRO-6000-96GB",
        "1g@0",
        "1g+me.all 1g-me*3",
        ["D 1g@0", "C 1g+me.all@0", "C 1g-me@3", "C 1g-me@6", "C 1g-me@9"],
    ),
    ("only its compute instance is missing", "A100-40GB", "3g[]@0", "3g", ["c 3c in 3g@0"]),
    (
        "other compute instances in a GPU instance that stays",
        "A100-40GB",
        "3g@0",
        "3g[1,1,1]",
        ["d 3c in 3g@0", "c 1c in 3g@0", "c 1c in 3g@0", "c 1c in 3g@0"],
    ),
    (
        "a compute instance in use stays",
        "A100-40GB",
        "3g[1*,1,1]@0",
        "3g[1,2]",
        ["d 1c in 3g@0"] * 2 + ["c 2c in 3g@0"],
    ),
    ("the fewest compute instances go", "A100-40GB", "3g[1,1,1]@0 3g@4", "3g", ["D 3g@0"]),
    ("the wish goes where less is lost", "A100-40GB", "3g@0 3g[1,1,1]@4", "3g[1,1,1] 3g", []),
    ("none", "A100-40GB", "3g@0 1g@4", "", ["D 3g@0", "D 1g@4"]),
    ("an explicit start", "A100-40GB", "3g@0", "3g@4", ["D 3g@0", "C 3g@4"]),
    ("two of the same wish, one with a start", "A100-40GB", "1g@2", "1g 1g@2", ["C 1g@0"]),
]


@pytest.mark.parametrize(
    ("model", "present", "wanted", "expected"), [pytest.param(*case[1:], id=case[0]) for case in CHANGES]
)
def test_changes_and_then_none(model: str, present: str, wanted: str, expected: list[str]) -> None:
    gpu = make_gpu(model, present)
    planned = plan(gpu, make_wanted_on(gpu, wanted))
    assert short(planned) == expected
    after = carried_out(gpu, planned.operations)
    assert plan(after, make_wanted_on(gpu, wanted)).operations == ()


REFUSALS = [
    (
        "both in use block, either would do",
        "A100-40GB",
        "1g@0 1g@1* 1g@2..4 1g@5* 1g@6",
        "3g 1g*2",
        IN_USE,
        ["1g.5gb at slice 1", "1g.5gb at slice 5", "GPU instance 12", USER, "One of these freed is enough"],
    ),
    (
        "one in use blocks",
        "A100-40GB",
        "1g@4 1g@5*",
        "4g 2g 1g",
        IN_USE,
        ["1g.5gb at slice 5", "Free what is at slice 5"],
    ),
    ("more in use than wanted", "A100-40GB", "1g@0* 1g@1*", "1g", IN_USE, ["slice 0; slice 1"]),
    (
        "two must go together",
        "A100-40GB",
        "1g@0* 1g@4*",
        "7g",
        IN_USE,
        ["1g.5gb at slice 0", "1g.5gb at slice 4", "slices 0 and 4"],
    ),
    ("a compute instance in use has other slices", "A100-40GB", "3g@0*", "3g[1,1,1]", IN_USE, ["3g.20gb at slice 0"]),
    ("users of the whole GPU instance", "A100-40GB", "3g[]@0*", "4g", IN_USE, [USER]),
    ("too many slices", "A100-40GB", "", "4g 3g 1g", INFEASIBLE, ["need 9 memory slices, and there are 8"]),
    ("enough slices, no place", "A100-40GB", "", "4g 2g*2 1g", INFEASIBLE, ["need 9"]),
    ("no start for it", "A100-40GB", "", "3g*2 1g", INFEASIBLE, ["9 memory slices"]),
    ("no place for the last", "A100-40GB", "", "2g*3 1g 1g.10gb", INFEASIBLE, ["need 9"]),
    (
        "starts collide",
        "RTX-PRO-6000-96GB",
        "",
        "1g@3 2g@0",
        INFEASIBLE,
        ["do not fit together", "2g.48gb takes 6 from 0"],
    ),
    (
        "media engines once",
        "A100-40GB",
        "",
        "1g+me*2",
        INFEASIBLE,
        ["at most 1", "one media-extension instance per GPU"],
    ),
    ("media engines once, in two profiles", "A30-24GB", "", "1g+me 2g+me", INFEASIBLE, ["one media-extension"]),
    (
        "all media engines are gone",
        "RTX-PRO-6000-96GB",
        "",
        "1g+me.all 1g",
        INFEASIBLE,
        ["1g.24gb cannot stand beside"],
    ),
    ("all media engines twice", "RTX-PRO-6000-96GB", "", "1g+me.all 2g+me.all", INFEASIBLE, ["all media engines"]),
    ("more compute than slices", "A100-40GB", "", "3g[2,2]", INFEASIBLE, ["2c + 2c do not fit into 3g.20gb"]),
    (
        "no such compute instance",
        "A100-40GB",
        "",
        "4g[3]",
        INVALID_PROFILE,
        ["no compute instance of 3 slices", "1c, 2c, 4c"],
    ),
    ("compute instances once", "H100-80GB", "", "3g[1,1,1] 7g[3,3,1] 4g[2,2]", INFEASIBLE, ["memory slices"]),
    (
        "a start that is none",
        "A100-40GB",
        "",
        "2g@1",
        INFEASIBLE,
        ["2g.10gb cannot start at slice 1; its starts are 0, 2, 4"],
    ),
]


@pytest.mark.parametrize(
    ("model", "present", "wanted", "reason", "texts"), [pytest.param(*case[1:], id=case[0]) for case in REFUSALS]
)
def test_refusals_say_what_to_do(model: str, present: str, wanted: str, reason: str, texts: list[str]) -> None:
    gpu = make_gpu(model, present)
    with pytest.raises(LayoutError) as caught:
        plan(gpu, make_wanted_on(gpu, wanted))
    assert caught.value.reason == reason
    for text in ["GPU 0", gpu.uuid, *texts]:
        assert text in str(caught.value)
    assert bool(caught.value.blockers) == (reason == IN_USE)


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    gpu = make_gpu("A100-80GB", "1g@0")
    with pytest.raises(LayoutError) as caught:
        plan(gpu, Wanted(True, (WantedInstance("1g.5gb"),) * 7))
    assert caught.value.reason == INVALID_PROFILE
    assert "has no profile 1g.5gb. It offers 1g.10gb, 1g.10gb+me, 1g.20gb, 2g.20gb, 3g.40gb" in str(caught.value)


def test_a_name_that_only_rounds_another_way_is_taken_and_noted() -> None:
    planned = plan(make_gpu("GB200-186GB"), Wanted(True, (WantedInstance("1g.24gb"),)))
    assert [each.profile for each in planned.operations] == ["1g.23gb", "1g.23gb"]
    assert planned.notes == ("1g.24gb is what this driver calls 1g.23gb",)


# --- mode -------------------------------------------------------------------------------------------------------------


def test_off_and_wanted_off_changes_nothing() -> None:
    assert short(plan(make_gpu("H100-80GB", on=False), OFF)) == []


@pytest.mark.parametrize("model", ["H100-80GB", "A100-80GB"])
def test_the_mode_comes_first_and_then_the_layout(model: str) -> None:
    gpu = make_gpu(model, on=False)
    planned = plan(gpu, make_wanted_on(gpu, "3g*2"))
    assert short(planned) == ["M+", "C 3g@0", "C 3g@4"]
    assert layout(carried_out(gpu, planned.operations)) == [("3g.40gb", 0, (3,)), ("3g.40gb", 4, (3,))]


def test_a_layout_is_planned_while_the_mode_is_off() -> None:
    gpu = make_gpu("H100-80GB", on=False)
    assert short(plan(gpu, make_wanted_on(gpu, "2g*3 1g"))) == ["M+", "C 2g@0", "C 2g@2", "C 2g@4", "C 1g@6"]


def test_on_without_a_layout_only_sets_the_mode() -> None:
    assert short(plan(make_gpu("A100-40GB", on=False), Wanted(True))) == ["M+"]
    assert short(plan(make_gpu("A100-40GB", "3g@0* 1g@4"), Wanted(True))) == []


@pytest.mark.parametrize("model", ["A100-40GB", "H100-80GB"])
def test_a_gpu_that_was_given_to_somebody_keeps_its_mode(model: str) -> None:
    gpu = make_gpu(model, on=False, users=DCGM)
    with pytest.raises(LayoutError) as caught:
        plan(gpu, make_wanted_on(gpu, "7g"))
    assert caught.value.reason == IN_USE
    assert caught.value.blockers[0].users == DCGM
    assert "has to be idle to enable MIG and is held by nv-hostengine (pid 99). Stop them" in str(caught.value)


def test_a_pending_mode_is_set_again_once_nobody_holds_the_gpu() -> None:
    gpu = make_gpu("A100-40GB", on=False, mode=Mode(False, True))
    assert short(plan(gpu, make_wanted_on(gpu, "7g"))) == ["M+", "C 7g@0"]


def test_a_pending_enable_is_taken_back() -> None:
    gpu = make_gpu("A100-40GB", mode=Mode(False, True), users=DCGM)
    assert short(plan(gpu, OFF)) == ["M-"]


def test_a_pending_disable_is_taken_back_and_the_layout_kept() -> None:
    gpu = make_gpu("A100-40GB", "3g@0*", mode=Mode(True, False), users=DCGM)
    assert short(plan(gpu, make_wanted_on(gpu, "3g"))) == ["M+"]


def test_off_destroys_all_and_then_sets_the_mode() -> None:
    gpu = make_gpu("A100-40GB", "3g@4 3g@0")
    planned = plan(gpu, OFF)
    assert short(planned) == ["D 3g@0", "D 3g@4", "M-"]
    assert carried_out(gpu, planned.operations).mode == Mode(False, False)


def test_off_is_refused_while_an_instance_is_in_use() -> None:
    with pytest.raises(LayoutError) as caught:
        plan(make_gpu("H100-80GB", "3g@0* 3g@4"), OFF)
    assert caught.value.reason == IN_USE
    [blocker] = caught.value.blockers
    assert (blocker.gi_id, blocker.profile, blocker.start, blocker.ci_ids) == (7, "3g.40gb", 0, (0,))
    assert blocker.users == (USER,)


def test_a_gpu_without_mig_stays_as_it_is_and_cannot_be_partitioned() -> None:
    gpu = make_gpu("T4", on=False)
    assert plan(gpu, OFF).operations == ()
    with pytest.raises(LayoutError) as caught:
        plan(gpu, Wanted(True))
    assert caught.value.reason == NOT_SUPPORTED


def test_instances_and_off_contradict_each_other() -> None:
    with pytest.raises(LayoutError):
        plan(make_gpu("H100-80GB"), Wanted(False, (WantedInstance("1g.10gb"),)))


# --- hosts ------------------------------------------------------------------------------------------------------------


def test_one_refusal_and_no_gpu_is_touched() -> None:
    gpus = [make_gpu("A100-40GB", "1g@0"), make_gpu("A100-40GB", "1g@5*", index=1), make_gpu("A30-24GB", index=2)]
    wanted = [Wanted(True, (WantedInstance("7g.40gb"),)) for _ in gpus]
    planned = plan_host(gpus, wanted)
    assert planned.plans == () and not planned.changed
    assert [refusal.gpu.index for refusal in planned.refusals] == [1, 2]
    assert "GPU 1" in planned.message and "GPU 2" in planned.message


def test_a_gpu_that_nothing_is_wanted_of_has_no_plan() -> None:
    planned = plan_host([make_gpu("A100-40GB", "1g@0*"), make_gpu("A100-40GB", index=1)], [None, Wanted(True, ())])
    assert [each.gpu.index for each in planned.plans] == [1]
    assert not planned.changed and not planned.refusals


# --- compute instances whose places are known, and unknown ------------------------------------------------------------


def test_compute_instances_get_a_start_where_the_gpu_tells_the_starts() -> None:
    gpu = make_gpu("A100-40GB", "3g[1,1,1*]@0")
    told = (
        ComputeProfile(0, 1, 3, tuple(Placement(start, 1) for start in range(3))),
        ComputeProfile(1, 2, 1, (Placement(0, 2),)),
    )
    profiles = tuple(replace(each, compute_profiles=told) if each.slices == 3 else each for each in gpu.profiles)
    gpu = make_gpu("A100-40GB", "3g[1,1,1*]@0", profiles=profiles)
    created = plan(gpu, make_wanted_on(gpu, "3g[2,1]")).operations[-1]
    assert (created.slices, created.compute_start) == (2, 0)
    # with one in use at 0 there is no place for two slices, although two are free
    gpu = make_gpu("A100-40GB", "3g[1*,1,1]@0", profiles=profiles)
    with pytest.raises(LayoutError) as caught:
        plan(gpu, make_wanted_on(gpu, "3g[2,1]"))
    assert caught.value.reason == IN_USE


def test_compute_instances_without_known_starts_are_counted() -> None:
    parts = tuple(ComputeInstance(number, 1, users=("x",) if number == 1 else ()) for number in range(3))
    gpu = make_gpu("A100-40GB", instances=(GpuInstance(2, 9, Placement(0, 4), parts),))
    planned = plan(gpu, make_wanted_on(gpu, "3g[1,2]"))
    assert [(each.op, each.ci_id) for each in planned.operations] == [
        ("destroy_compute_instance", 0),
        ("destroy_compute_instance", 2),
        ("create_compute_instance", None),
    ]


# --- undoing ----------------------------------------------------------------------------------------------------------


def with_ids(operations: list[Operation] | tuple[Operation, ...]) -> list[Operation]:
    """As an executor reports them: what was created has an id."""
    return [
        replace(each, gi_id=100 + (each.start or 0)) if each.gi_id is None and each.start is not None else each
        for each in operations
    ]


@pytest.mark.parametrize("done", range(9))
def test_whatever_was_done_can_be_undone(done: int) -> None:
    gpu = make_gpu("A100-40GB", "3g[1,1,1]@0 3g@4")
    operations = with_ids(plan(gpu, make_wanted_on(gpu, "4g 2g 1g")).operations[:done])
    halfway = carried_out(gpu, operations)
    assert layout(carried_out(halfway, inverse(operations, gpu))) == layout(gpu)


def test_undoing_creates_again_at_the_same_place_with_the_same_compute_instances() -> None:
    gpu = make_gpu("A100-40GB", "3g@0 3g@4")
    operations = plan(gpu, make_wanted_on(gpu, "4g 2g 1g")).operations
    undone = inverse(with_ids(operations[:6]), gpu)
    assert [line(each) for each in undone] == [
        "destroy compute instance (4c) in 4g.20gb at slices 0-3 (GPU instance 100)",
        "destroy 4g.20gb at slices 0-3 (GPU instance 100)",
        "create 3g.20gb at slices 4-7",
        "create compute instance (3c) in 3g.20gb at slices 4-7",
        "create 3g.20gb at slices 0-3",
        "create compute instance (3c) in 3g.20gb at slices 0-3",
    ]


def test_a_lost_compute_instance_comes_back_in_the_gpu_instance_that_stayed() -> None:
    gpu = make_gpu("A100-40GB", "1g@0")
    destroyed = plan(gpu, make_wanted_on(gpu, "2g*3")).operations[:1]
    [undone] = inverse(destroyed, gpu)
    assert (undone.op, undone.gi_id, undone.slices, undone.compute_start) == ("create_compute_instance", 7, 1, 0)


def test_the_mode_is_put_back_last() -> None:
    gpu = make_gpu("H100-80GB", on=False)
    operations = with_ids(plan(gpu, make_wanted_on(gpu, "3g")).operations)
    undone = inverse(operations, gpu)
    assert undone[-1] == Operation("set_mode", enabled=False)
    assert carried_out(carried_out(gpu, operations), undone).mode == Mode(False, False)


def test_a_pending_change_that_was_taken_back_is_not_undone() -> None:
    gpu = make_gpu("A100-40GB", "3g@0", mode=Mode(True, False))
    assert inverse(plan(gpu, make_wanted_on(gpu, "3g")).operations, gpu) == ()


# --- for people and for Ansible ---------------------------------------------------------------------------------------


def test_plans_read_as_lines() -> None:
    gpu = make_gpu("A100-40GB", "1g@0")
    assert lines(plan(gpu, make_wanted_on(gpu, "3g*2"))) == [
        "GPU 0: destroy compute instance 0 (1c) in 1g.5gb at slice 0 (GPU instance 7)",
        "GPU 0: destroy 1g.5gb at slice 0 (GPU instance 7)",
        "GPU 0: create 3g.20gb at slices 0-3",
        "GPU 0: create compute instance (3c) in 3g.20gb at slices 0-3",
        "GPU 0: create 3g.20gb at slices 4-7",
        "GPU 0: create compute instance (3c) in 3g.20gb at slices 4-7",
    ]
    assert line(Operation("set_mode", enabled=True)) == "enable MIG mode"


def test_results_are_plain_data() -> None:
    gpu = make_gpu("A100-40GB", "3g@4 1g@0")
    planned = result(plan(gpu, make_wanted_on(gpu, "3g 2g")))
    assert planned["mode"] == {"current": 1, "pending": 1, "wanted": 1}
    assert planned["kept"] == [{"profile": "3g.20gb", "start": 4, "size": 4, "gi_id": 11}]
    assert planned["plan"][1:] == [
        {"op": "destroy_gpu_instance", "profile": "1g.5gb", "profile_id": 19, "start": 0, "size": 1, "gi_id": 7},
        {"op": "create_gpu_instance", "profile": "2g.10gb", "profile_id": 14, "start": 0, "size": 2},
        {"op": "create_compute_instance", "profile": "2g.10gb", "profile_id": 14, "start": 0, "size": 2, "slices": 2},
    ]
    assert planned["changed"]
