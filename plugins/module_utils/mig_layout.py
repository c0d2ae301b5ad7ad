# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what NVML reports of a GPU and a wanted layout to the operations that make it so, or to the reason why not.

    plan(gpu, wanted) -> Plan                 raises LayoutError, and then nothing is to be done
    plan_host(gpus, wanteds) -> HostPlan      all GPUs of a host: one refusal, and no GPU is touched
    inverse(operations, before)               the operations that undo these
    line(operation), result(plan)             the same for people and for Ansible

Of all ways to the layout that leave alone what is in use, the plan is one that destroys the fewest GPU instances, then
the fewest compute instances; of those it keeps the instances with the lowest starts and puts new ones, the largest
first, at the lowest start. Every GPU instance is created at an explicit start, because the driver's own choice cannot
know what comes next. Profiles and placements are those the GPU itself reports; there is no table of models here.

Starts and sizes of GPU instances count memory slices; those of compute instances count compute slices of their GPU
instance. Fields with None are not known; NVML does not tell the compute profiles of a GPU instance before it exists.
"""

from __future__ import annotations

import collections
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.onprem.gpu.plugins.module_utils.mig_names import NameProblem, matching, parsed
from ansible_collections.onprem.gpu.plugins.module_utils.mig_packing import (
    Arrangement,
    Standing,
    Wish,
    cheapest,
    smallest_releases,
)

SET_MODE = "set_mode"
CREATE_GPU_INSTANCE = "create_gpu_instance"
DESTROY_GPU_INSTANCE = "destroy_gpu_instance"
CREATE_COMPUTE_INSTANCE = "create_compute_instance"
DESTROY_COMPUTE_INSTANCE = "destroy_compute_instance"

# reasons of a LayoutError; the executor has more: no_permission, driver, rolled_back, rollback_failed
INVALID_PROFILE = "invalid_profile"
NOT_SUPPORTED = "not_supported"
INFEASIBLE = "infeasible"
IN_USE = "in_use"


# --- what there is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Placement:
    start: int
    size: int


@dataclass(frozen=True)
class ComputeProfile:
    """A compute instance that a GPU instance can hold; known only while one of the profile exists."""

    id: int
    slices: int
    instance_count: int
    placements: tuple[Placement, ...] = ()


@dataclass(frozen=True)
class Profile:
    """A GPU instance profile. id: the number that this GPU uses, never the enumeration it was asked with."""

    id: int
    name: str
    slices: int
    memory_mib: int
    instance_count: int
    placements: tuple[Placement, ...]
    compute_profiles: tuple[ComputeProfile, ...] = ()


@dataclass(frozen=True)
class ComputeInstance:
    id: int
    slices: int
    start: int | None = None
    size: int | None = None
    users: tuple[str, ...] = ()
    uuid: str | None = None
    profile_id: int | None = None


@dataclass(frozen=True)
class GpuInstance:
    """users: those who hold it and no compute instance of it that is known."""

    id: int
    profile_id: int
    placement: Placement
    compute_instances: tuple[ComputeInstance, ...] = ()
    users: tuple[str, ...] = ()

    @property
    def in_use(self) -> bool:
        return bool(self.users) or any(instance.users for instance in self.compute_instances)


@dataclass(frozen=True)
class Mode:
    current: bool
    pending: bool


@dataclass(frozen=True)
class Gpu:
    """users: those who were given the whole GPU and would lose it with a change of its mode.

    device_id, subsystem_id: as mig-parted's files write them, 0x20B010DE.
    """

    index: int
    uuid: str
    pci_address: str
    model: str
    device_id: str
    mig_capable: bool
    mode: Mode
    profiles: tuple[Profile, ...] = ()
    instances: tuple[GpuInstance, ...] = ()
    users: tuple[str, ...] = ()
    subsystem_id: str = ""

    def profile(self, profile_id: int) -> Profile | None:
        return next((profile for profile in self.profiles if profile.id == profile_id), None)

    def profile_name(self, profile_id: int) -> str:
        known = self.profile(profile_id)
        return known.name if known else f"profile {profile_id}"


# --- what is wanted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WantedInstance:
    """compute: slices of each compute instance; () is one that fills the GPU instance. start: None is any."""

    profile_name: str
    compute: tuple[int, ...] = ()
    start: int | None = None


@dataclass(frozen=True)
class Wanted:
    """instances: None leaves those there are, () wants none."""

    enabled: bool
    instances: tuple[WantedInstance, ...] | None = None


# --- what to do -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One call. What does not belong to `op` is None.

    profile, profile_id, start, size, gi_id: the GPU instance; gi_id is None when this plan creates it, and then start
    tells which it is. slices, compute_start, compute_profile_id, ci_id: the compute instance; with compute_start None
    the driver puts it where there is room.
    """

    op: str
    enabled: bool | None = None
    profile: str | None = None
    profile_id: int | None = None
    start: int | None = None
    size: int | None = None
    gi_id: int | None = None
    slices: int | None = None
    compute_start: int | None = None
    compute_profile_id: int | None = None
    ci_id: int | None = None


@dataclass(frozen=True)
class Plan:
    """What has to be done on one GPU, in this order; kept: the GPU instances that stay."""

    gpu: Gpu
    wanted: Wanted
    operations: tuple[Operation, ...] = ()
    kept: tuple[GpuInstance, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.operations)


@dataclass(frozen=True)
class Blocker:
    """An instance in use; without gi_id the whole GPU. enough: it is one of the fewest that have to be freed."""

    users: tuple[str, ...]
    gi_id: int | None = None
    profile: str | None = None
    start: int | None = None
    ci_ids: tuple[int, ...] = ()
    enough: bool = True


class LayoutError(Exception):
    """Why a layout cannot be had; `reason` for programs, the text for people, `blockers` for whoever can free them."""

    def __init__(self, reason: str, message: str, blockers: tuple[Blocker, ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.blockers = blockers


@dataclass(frozen=True)
class Refusal:
    gpu: Gpu
    error: LayoutError


@dataclass(frozen=True)
class HostPlan:
    """plans: of the GPUs that something is wanted of; none at all when one of them is refused."""

    plans: tuple[Plan, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def changed(self) -> bool:
        return any(plan.changed for plan in self.plans)

    @property
    def message(self) -> str:
        return " ".join(refusal.error.message for refusal in self.refusals)


# --- plans ------------------------------------------------------------------------------------------------------------


def plan_host(gpus: t.Sequence[Gpu], wanteds: t.Sequence[Wanted | None]) -> HostPlan:
    """Plan all GPUs; wanteds has one entry for each, None leaves that GPU alone."""
    plans, refusals = [], []
    for gpu, wanted in zip(gpus, wanteds):
        if wanted is None:
            continue
        try:
            plans.append(plan(gpu, wanted))
        except LayoutError as error:
            refusals.append(Refusal(gpu, error))
    return HostPlan((), tuple(refusals)) if refusals else HostPlan(tuple(plans))


def plan(gpu: Gpu, wanted: Wanted) -> Plan:
    """Return how this GPU gets what is wanted; raise LayoutError when it cannot without harm."""
    if not wanted.enabled:
        return _plan_off(gpu, wanted)
    if not gpu.mig_capable:
        raise LayoutError(NOT_SUPPORTED, f"{named(gpu)} cannot be partitioned: it has no MIG mode.")
    wishes = _resolved(gpu, wanted.instances or ())
    if not gpu.mode.current:
        return _plan_on(gpu, wanted, wishes)
    # a change to off that is pending is taken back, which needs no idle GPU
    mode = () if gpu.mode.pending else (_set_mode(True),)
    if wanted.instances is None:
        return Plan(gpu, wanted, mode, gpu.instances)
    return _plan_layout(gpu, wanted, wishes, mode)


def refusal_when_empty(gpu: Gpu, instances: t.Sequence[WantedInstance]) -> LayoutError | None:
    """Return why this GPU could not have these instances even if nothing stood on it."""
    try:
        _arranged(gpu, (), _resolved(gpu, instances))
    except LayoutError as error:
        return error
    return None


def slices_of(gpu: Gpu) -> int:
    """How many memory slices the GPU's placements span."""
    return max((place.start + place.size for profile in gpu.profiles for place in profile.placements), default=0)


def named(gpu: Gpu) -> str:
    """The GPU as messages name it."""
    return f"GPU {gpu.index} ({gpu.model}, {gpu.uuid})"


def _plan_off(gpu: Gpu, wanted: Wanted) -> Plan:
    if wanted.instances:
        raise LayoutError(INFEASIBLE, f"{named(gpu)}: there are no instances while MIG is off.")
    if not gpu.mig_capable or gpu.mode == Mode(False, False):
        return Plan(gpu, wanted)
    if not gpu.mode.current:
        return Plan(gpu, wanted, (_set_mode(False),), notes=("a pending change of mode is taken back",))
    _refuse_to_disturb(gpu, [instance for instance in gpu.instances if instance.in_use], "MIG can be turned off")
    instances = sorted(gpu.instances, key=_start)
    destroyed = tuple(operation for instance in instances for operation in _destroyed(gpu, instance))
    return _with_mode_change(gpu, wanted, destroyed, ())


def _plan_on(gpu: Gpu, wanted: Wanted, wishes: t.Sequence[_Wish]) -> Plan:
    created = _created(wishes, _arranged(gpu, (), wishes))
    planned = _with_mode_change(gpu, wanted, (), created)
    return replace(planned, notes=(*_name_notes(wishes), *planned.notes))


def _with_mode_change(gpu: Gpu, wanted: Wanted, before: tuple[Operation, ...], after: tuple[Operation, ...]) -> Plan:
    """A mode that is pending is set once more: whoever kept it from becoming active may be gone."""
    if gpu.users:
        change = "enable" if wanted.enabled else "disable"
        text = f"{named(gpu)} has to be idle to {change} MIG and is held by {_listed(gpu.users)}."
        raise LayoutError(IN_USE, f"{text} Stop them and run again.", (Blocker(gpu.users),))
    return Plan(gpu, wanted, (*before, _set_mode(wanted.enabled), *after))


def _plan_layout(gpu: Gpu, wanted: Wanted, wishes: t.Sequence[_Wish], mode: tuple[Operation, ...]) -> Plan:
    """All that goes is destroyed before anything is created, so that every step finds its room."""
    arrangement = _arranged(gpu, gpu.instances, wishes)
    serves = {start: wishes[number] for start, number in zip(arrangement.kept, arrangement.kept_for)}
    destroyed: list[Operation] = []
    created: list[Operation] = []
    kept = []
    for instance in sorted(gpu.instances, key=_start):
        wish = serves.get(_start(instance))
        if wish is None:
            destroyed += _destroyed(gpu, instance)
            continue
        change = _change(wish.profile, instance, wish.compute) or _ComputeChange()
        destroyed += _destroyed_inside(gpu, instance, change.destroyed)
        created += _created_inside(gpu, instance, change.created)
        kept.append(instance)
    created += _created(wishes, arrangement)
    return Plan(gpu, wanted, (*mode, *destroyed, *created), tuple(kept), notes=_name_notes(wishes))


# --- wishes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wish:
    """Wanted instances that are alike, `count` of them; compute: slices, the largest first."""

    profile: Profile
    compute: tuple[int, ...]
    start: int | None
    count: int
    notes: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[Placement, ...]:
        return tuple(place for place in self.profile.placements if self.start in (None, place.start))

    @property
    def size(self) -> int:
        return max((place.size for place in self.profile.placements), default=0)


def _resolved(gpu: Gpu, instances: t.Sequence[WantedInstance]) -> list[_Wish]:
    """Wishes in the order in which new instances are placed: the largest first, then by name."""
    counts: collections.Counter[tuple[Profile, tuple[int, ...], int | None]] = collections.Counter()
    names: dict[str, Profile] = {}
    for wanted in instances:
        if wanted.profile_name not in names:
            names[wanted.profile_name] = _profile_of(gpu, wanted.profile_name)
        profile = names[wanted.profile_name]
        compute = _resolved_compute(gpu, profile, wanted.compute)
        counts[(profile, compute, wanted.start)] += 1
    notes = {
        profile.id: (f"{text} is what this driver calls {profile.name}",)
        for text, profile in names.items()
        if text != profile.name
    }
    wishes = [
        _Wish(profile, compute, start, count, notes.get(profile.id, ()))
        for (profile, compute, start), count in counts.items()
    ]
    wishes.sort(key=lambda wish: (-wish.size, wish.profile.name, len(wish.compute), wish.compute, wish.start or 0))
    _refuse_too_many(gpu, wishes)
    return wishes


def _name_notes(wishes: t.Sequence[_Wish]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for wish in wishes for note in wish.notes))


def _profile_of(gpu: Gpu, name: str) -> Profile:
    offered = [profile.name for profile in gpu.profiles]
    try:
        found = matching(parsed(name), offered)
    except NameProblem as problem:
        raise LayoutError(INVALID_PROFILE, f"{named(gpu)}: {name} {problem}. {_offer(gpu)}") from problem
    if found is None:
        raise LayoutError(INVALID_PROFILE, f"{named(gpu)} has no profile {name}. {_offer(gpu)}")
    return next(profile for profile in gpu.profiles if profile.name == found)


def _offer(gpu: Gpu) -> str:
    if not gpu.profiles:
        return "It reports no profiles at all."
    return f"It offers {', '.join(profile.name for profile in gpu.profiles)}."


def _resolved_compute(gpu: Gpu, profile: Profile, compute: t.Sequence[int]) -> tuple[int, ...]:
    slices = tuple(sorted(compute, reverse=True)) or (profile.slices,)
    if sum(slices) > profile.slices or min(slices) < 1:
        wanted = " + ".join(f"{count}c" for count in slices)
        raise LayoutError(
            INFEASIBLE,
            f"{named(gpu)}: {wanted} do not fit into {profile.name}, which has {profile.slices} compute slices.",
        )
    known: collections.Counter[int] = collections.Counter()
    for offered in profile.compute_profiles:
        known[offered.slices] = max(known[offered.slices], offered.instance_count)
    for count in slices:
        if known and count not in known:
            offer = ", ".join(f"{each}c" for each in sorted(known))
            text = f"{named(gpu)} has no compute instance of {count} slices in {profile.name}. It offers {offer}."
            raise LayoutError(INVALID_PROFILE, text)
        if known and slices.count(count) > known[count]:
            text = f"{slices.count(count)} x {count}c.{profile.name} are wanted, and {known[count]} can be had in one."
            raise LayoutError(INFEASIBLE, f"{named(gpu)}: {text}")
    return slices


def _refuse_too_many(gpu: Gpu, wishes: t.Sequence[_Wish]) -> None:
    counts: collections.Counter[Profile] = collections.Counter()
    for wish in wishes:
        counts[wish.profile] += wish.count
        if not wish.places:
            starts = ", ".join(str(place.start) for place in wish.profile.placements) or "none"
            raise LayoutError(
                INFEASIBLE,
                f"{named(gpu)}: {wish.profile.name} cannot start at slice {wish.start}; its starts are {starts}.",
            )
    for profile, count in counts.items():
        if count > profile.instance_count:
            raise LayoutError(INFEASIBLE, f"{named(gpu)}: {_too_many(profile, count)}")
    _refuse_engines(gpu, counts)


def _too_many(profile: Profile, count: int) -> str:
    why = " There is one media-extension instance per GPU." if _has(profile, "+me") else ""
    return f"{count} x {profile.name} are wanted, and at most {profile.instance_count} can be had.{why}"


def _refuse_engines(gpu: Gpu, counts: t.Mapping[Profile, int]) -> None:
    """Media engines are shared out once: +me takes what there is for one instance, +me.all everything."""
    all_engines = [profile.name for profile in counts if _has(profile, "+me.all")]
    others = [profile.name for profile in counts if not _has(profile, "-me") and profile.name not in all_engines]
    if all_engines and (others or sum(counts[profile] for profile in counts if profile.name in all_engines) > 1):
        beside = others[0] if others else all_engines[-1]
        text = (
            f"{all_engines[0]} takes all media engines, so {beside} cannot stand beside it; only profiles with -me can."
        )
        raise LayoutError(INFEASIBLE, f"{named(gpu)}: {text}")
    extended = {profile: count for profile, count in counts.items() if _has(profile, "+me")}
    most = max((profile.instance_count for profile in extended), default=0)
    if sum(extended.values()) > most:
        names = " and ".join(profile.name for profile in extended)
        text = f"{names} cannot stand side by side: there is one media-extension instance per GPU."
        raise LayoutError(INFEASIBLE, f"{named(gpu)}: {text}")


def _has(profile: Profile, suffix: str) -> bool:
    try:
        name = parsed(profile.name)
    except NameProblem:
        return False
    return name.suffix[:1] == suffix[0] and suffix[1:] in name.suffix[1:].split(",")


# --- search -----------------------------------------------------------------------------------------------------------


def _arranged(gpu: Gpu, instances: t.Sequence[GpuInstance], wishes: t.Sequence[_Wish]) -> Arrangement:
    """Return the best arrangement; raise LayoutError when there is none or when it needs what is in use."""
    standing = [
        Standing(_start(instance), instance.placement.size, len(instance.compute_instances), instance.in_use)
        for instance in instances
    ]
    pieces = [_as_piece(gpu, instances, wish) for wish in wishes]
    found = cheapest(standing, pieces)
    if found is None:
        raise LayoutError(INFEASIBLE, f"{named(gpu)}: {_does_not_fit(gpu, wishes)}")
    if found.disturbed:
        _refuse_blocked(gpu, instances, smallest_releases(standing, pieces))
    return found


def _as_piece(gpu: Gpu, instances: t.Sequence[GpuInstance], wish: _Wish) -> Wish:
    keeps = {}
    for instance in instances:
        serves = instance.profile_id == wish.profile.id and wish.start in (None, _start(instance))
        change = _change(wish.profile, instance, wish.compute) if serves else None
        if change:
            keeps[_start(instance)] = len(change.destroyed)
    return Wish(wish.count, tuple((place.start, place.size) for place in wish.places), keeps)


def _does_not_fit(gpu: Gpu, wishes: t.Sequence[_Wish]) -> str:
    names = ", ".join(f"{wish.count} x {wish.profile.name}" for wish in wishes)
    needed = sum(wish.count * min(place.size for place in wish.places) for wish in wishes)
    length = slices_of(gpu)
    if needed > length:
        return f"{names} need {needed} memory slices, and there are {length}."
    starts = "; ".join(
        f"{wish.profile.name} takes {wish.size} from {', '.join(str(place.start) for place in wish.places)}"
        for wish in wishes
    )
    return f"{names} do not fit together. Memory slices: {starts}."


def _refuse_blocked(gpu: Gpu, instances: t.Sequence[GpuInstance], releases: t.Sequence[tuple[int, ...]]) -> t.NoReturn:
    by_start = {_start(instance): instance for instance in instances}
    blocking = [by_start[start] for start in sorted({start for release in releases for start in release})]
    stand = "stands" if len(blocking) == 1 else "stand"
    text = f"{named(gpu)}: the layout fits on the empty GPU, but {_in_use(gpu, blocking)} {stand} in its way."
    blockers = tuple(_blocker(gpu, each, _start(each) in releases[0]) for each in blocking)
    raise LayoutError(IN_USE, f"{text} {_what_to_free(releases)}", blockers)


def _what_to_free(releases: t.Sequence[tuple[int, ...]]) -> str:
    at = [f"slice{'s' if len(release) > 1 else ''} {' and '.join(map(str, release))}" for release in releases]
    if len(at) == 1:
        return f"Free what is at {at[0]} and run again."
    return f"One of these freed is enough: {'; '.join(at)}." if len(at) < 8 else f"For example free {at[0]}."


def _refuse_to_disturb(gpu: Gpu, busy: t.Sequence[GpuInstance], before: str) -> None:
    if busy:
        text = f"{named(gpu)}: {_in_use(gpu, busy)} must be freed before {before}."
        raise LayoutError(IN_USE, text, tuple(_blocker(gpu, instance) for instance in busy))


def _in_use(gpu: Gpu, instances: t.Sequence[GpuInstance]) -> str:
    return " and ".join(
        f"{gpu.profile_name(instance.profile_id)} at slice {_start(instance)} (GPU instance {instance.id}, "
        f"used by {_listed(users_of(instance))})"
        for instance in instances
    )


def _blocker(gpu: Gpu, instance: GpuInstance, enough: bool = True) -> Blocker:
    return Blocker(
        users=users_of(instance),
        gi_id=instance.id,
        profile=gpu.profile_name(instance.profile_id),
        start=_start(instance),
        ci_ids=tuple(each.id for each in instance.compute_instances if each.users),
        enough=enough,
    )


def users_of(instance: GpuInstance) -> tuple[str, ...]:
    """Everybody who uses a GPU instance or one of its compute instances."""
    users = [*instance.users, *(user for each in instance.compute_instances for user in each.users)]
    return tuple(dict.fromkeys(users))


def _listed(users: t.Sequence[str]) -> str:
    return ", ".join(users)


def _start(instance: GpuInstance) -> int:
    return instance.placement.start


# --- compute instances ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ComputeChange:
    """created: (slices, start) each; start None where it is not known what starts there are."""

    destroyed: tuple[ComputeInstance, ...] = ()
    created: tuple[tuple[int, int | None], ...] = ()


def _change(profile: Profile, instance: GpuInstance, wanted: tuple[int, ...]) -> _ComputeChange | None:
    """What must change inside a GPU instance that stays; None when a compute instance in use would have to go."""
    present = instance.compute_instances
    if sorted(each.slices for each in present) == sorted(wanted):
        return _ComputeChange()
    if any(each.start is None for each in present):
        return _change_by_count(instance, wanted)
    standing = [Standing(each.start or 0, each.size or each.slices, 0, _busy(instance, each)) for each in present]
    counts = collections.Counter(wanted)
    sizes = sorted(counts, reverse=True)
    keeps = {slices: {each.start or 0: 0 for each in present if each.slices == slices} for slices in sizes}
    places = {slices: _compute_places(profile, slices) for slices in sizes}
    found = cheapest(standing, [Wish(counts[slices], places[slices], keeps[slices]) for slices in sizes])
    if found is None or found.disturbed:
        return None
    explicit = {offered.slices for offered in profile.compute_profiles if offered.placements}
    return _ComputeChange(
        tuple(each for each in present if each.start not in found.kept),
        tuple((sizes[wish], start if sizes[wish] in explicit else None) for wish, start, _size in found.new),
    )


def _compute_places(profile: Profile, slices: int) -> tuple[tuple[int, int], ...]:
    """Where a compute instance may stand: what the GPU says, else anywhere inside the GPU instance."""
    known = [place for offered in profile.compute_profiles if offered.slices == slices for place in offered.placements]
    if known:
        return tuple(sorted({(place.start, place.size) for place in known}))
    return tuple((start, slices) for start in range(profile.slices - slices + 1))


def _change_by_count(instance: GpuInstance, wanted: tuple[int, ...]) -> _ComputeChange | None:
    """The same where NVML did not say which slices the compute instances have."""
    left = collections.Counter(wanted)
    destroyed = []
    for each in sorted(instance.compute_instances, key=lambda each: (not _busy(instance, each), each.id)):
        if left[each.slices]:
            left[each.slices] -= 1
        elif _busy(instance, each):
            return None
        else:
            destroyed.append(each)
    return _ComputeChange(tuple(destroyed), tuple((slices, None) for slices in sorted(left.elements(), reverse=True)))


def _busy(instance: GpuInstance, compute_instance: ComputeInstance) -> bool:
    """Users of the GPU instance may be users of any of its compute instances."""
    return bool(compute_instance.users or instance.users)


# --- operations -------------------------------------------------------------------------------------------------------


def _set_mode(enabled: bool) -> Operation:
    return Operation(SET_MODE, enabled=enabled)


def _destroyed(gpu: Gpu, instance: GpuInstance) -> tuple[Operation, ...]:
    inside = _destroyed_inside(gpu, instance, instance.compute_instances)
    return (*inside, _on(gpu, instance, DESTROY_GPU_INSTANCE))


def _destroyed_inside(
    gpu: Gpu, instance: GpuInstance, compute_instances: t.Sequence[ComputeInstance]
) -> tuple[Operation, ...]:
    return tuple(
        _on(
            gpu,
            instance,
            DESTROY_COMPUTE_INSTANCE,
            slices=each.slices,
            compute_start=each.start,
            compute_profile_id=each.profile_id,
            ci_id=each.id,
        )
        for each in sorted(compute_instances, key=lambda each: each.id)
    )


def _created_inside(
    gpu: Gpu, instance: GpuInstance, created: t.Sequence[tuple[int, int | None]]
) -> tuple[Operation, ...]:
    return tuple(
        _on(gpu, instance, CREATE_COMPUTE_INSTANCE, slices=slices, compute_start=start) for slices, start in created
    )


def _created(wishes: t.Sequence[_Wish], arrangement: Arrangement) -> tuple[Operation, ...]:
    return tuple(
        operation
        for number, start, size in arrangement.new
        for operation in _created_instance(wishes[number], Placement(start, size))
    )


def _created_instance(wish: _Wish, placement: Placement) -> tuple[Operation, ...]:
    profile = wish.profile
    change = _change(profile, GpuInstance(-1, profile.id, placement), wish.compute) or _ComputeChange()
    place: dict[str, t.Any] = {"profile": profile.name, "profile_id": profile.id, **asdict(placement)}
    return (
        Operation(CREATE_GPU_INSTANCE, **place),
        *(
            Operation(CREATE_COMPUTE_INSTANCE, **place, slices=slices, compute_start=start)
            for slices, start in change.created
        ),
    )


def _on(gpu: Gpu, instance: GpuInstance, op: str, **more: t.Any) -> Operation:
    return Operation(
        op,
        profile=gpu.profile_name(instance.profile_id),
        profile_id=instance.profile_id,
        start=instance.placement.start,
        size=instance.placement.size,
        gi_id=instance.id,
        **more,
    )


def inverse(operations: t.Sequence[Operation], before: Gpu) -> tuple[Operation, ...]:
    """Return what undoes the operations that were done, the last one first.

    Give operations that created something with the gi_id and ci_id they got. What is created again gets new ids and
    UUIDs, so gi_id is None where the GPU instance itself is created again.
    """
    gone = {operation.gi_id for operation in operations if operation.op == DESTROY_GPU_INSTANCE}
    undone = (_undone(operation, before, gone) for operation in reversed(operations))
    return tuple(operation for operation in undone if operation)


def _undone(operation: Operation, before: Gpu, gone: t.Collection[int | None]) -> Operation | None:
    inverse_of = replace(operation, op=INVERSES[operation.op])
    if operation.op == SET_MODE:
        # a pending change that was taken back cannot be made pending again
        return None if before.mode.current == operation.enabled else replace(inverse_of, enabled=before.mode.current)
    if operation.op == DESTROY_COMPUTE_INSTANCE:
        inverse_of = replace(inverse_of, ci_id=None)
    is_destroyed = operation.op in (DESTROY_GPU_INSTANCE, DESTROY_COMPUTE_INSTANCE) and operation.gi_id in gone
    return replace(inverse_of, gi_id=None) if is_destroyed else inverse_of


def foreseen(planned: Plan) -> Gpu:
    """The GPU as it will be when the plan is carried out; what is made has the id -1."""
    gpu = planned.gpu
    places = {_start(instance): instance for instance in gpu.instances}
    mode = gpu.mode.current
    for operation in planned.operations:
        start = operation.start or 0
        if operation.op == SET_MODE:
            mode = bool(operation.enabled)
        elif operation.op == CREATE_GPU_INSTANCE:
            places[start] = GpuInstance(-1, operation.profile_id or 0, Placement(start, operation.size or 1))
        elif operation.op == DESTROY_GPU_INSTANCE:
            del places[start]
        else:
            places[start] = replace(places[start], compute_instances=_computes_after(places[start], operation))
    return replace(gpu, mode=Mode(mode, mode), instances=tuple(places[start] for start in sorted(places)))


def _computes_after(instance: GpuInstance, operation: Operation) -> tuple[ComputeInstance, ...]:
    present = instance.compute_instances
    if operation.op == DESTROY_COMPUTE_INSTANCE:
        return tuple(each for each in present if each.id != operation.ci_id)
    return (*present, ComputeInstance(-1, operation.slices or 1, operation.compute_start))


INVERSES = {
    SET_MODE: SET_MODE,
    CREATE_GPU_INSTANCE: DESTROY_GPU_INSTANCE,
    DESTROY_GPU_INSTANCE: CREATE_GPU_INSTANCE,
    CREATE_COMPUTE_INSTANCE: DESTROY_COMPUTE_INSTANCE,
    DESTROY_COMPUTE_INSTANCE: CREATE_COMPUTE_INSTANCE,
}


# --- for people and for Ansible ---------------------------------------------------------------------------------------


def line(operation: Operation) -> str:
    """One operation as a line of a plan: "create 3g.20gb at slices 4-7"."""
    if operation.op == SET_MODE:
        return f"{'enable' if operation.enabled else 'disable'} MIG mode"
    verb = operation.op.partition("_")[0]
    number = "" if operation.gi_id is None else f" (GPU instance {operation.gi_id})"
    place = Placement(operation.start or 0, operation.size or 1)
    where = f"{operation.profile} at {slices_in_words(place)}{number}"
    if operation.op in (CREATE_GPU_INSTANCE, DESTROY_GPU_INSTANCE):
        return f"{verb} {where}"
    number = "" if operation.ci_id is None else f" {operation.ci_id}"
    return f"{verb} compute instance{number} ({operation.slices}c) in {where}"


def slices_in_words(place: Placement) -> str:
    """The memory slices of an instance: "slice 3" or "slices 4-7"."""
    return f"slice {place.start}" if place.size == 1 else f"slices {place.start}-{place.start + place.size - 1}"


def lines(planned: Plan) -> list[str]:
    """All operations of a plan, each naming its GPU."""
    return [f"GPU {planned.gpu.index}: {line(operation)}" for operation in planned.operations]


def result(planned: Plan) -> dict[str, t.Any]:
    """The plan as plain data; what is not known is left out."""
    gpu = planned.gpu
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "pci_address": gpu.pci_address,
        "model": gpu.model,
        "mode": {
            "current": int(gpu.mode.current),
            "pending": int(gpu.mode.pending),
            "wanted": int(planned.wanted.enabled),
        },
        "changed": planned.changed,
        "kept": [_kept(gpu, instance) for instance in planned.kept],
        "plan": [as_dict(operation) for operation in planned.operations],
        "notes": list(planned.notes),
    }


def as_dict(operation: Operation) -> dict[str, t.Any]:
    return {key: value for key, value in asdict(operation).items() if value is not None}


def error_result(error: LayoutError) -> dict[str, t.Any]:
    """A refusal as plain data."""
    return {
        "reason": error.reason,
        "message": error.message,
        "blockers": [
            {**asdict(blocker), "users": list(blocker.users), "ci_ids": list(blocker.ci_ids)}
            for blocker in error.blockers
        ],
    }


def _kept(gpu: Gpu, instance: GpuInstance) -> dict[str, t.Any]:
    return {
        "profile": gpu.profile_name(instance.profile_id),
        "start": instance.placement.start,
        "size": instance.placement.size,
        "gi_id": instance.id,
    }
