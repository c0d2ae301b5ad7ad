#!/bin/sh
# Shows a lab host its simulated hardware. Runs as root at each boot, before sysinit.target; a second run changes nothing.
set -eu
silicon=$(dirname "$(readlink -f "$0")")
run=/run/silicon

# bind SOURCE TARGET: show a file or folder at its place in /proc or /sys; later changes show through.
bind() {
    [ -e "$1" ] || return 0
    [ -e "$2" ] || return 0 # a kernel without the feature has no place to show it
    mountpoint -q "$2" 2>/dev/null && [ -e "$run/bound$2" ] && return 0
    mount --bind "$1" "$2"
    mkdir -p "$run/bound$2"
}

# keep_real FILE NAME: remember what the real kernel says, for the simulated file to start from.
keep_real() {
    [ -e "$run/bound$1" ] && return 0
    if [ -e "$1" ]; then cat "$1" >"$silicon/proc/$2.real"; else rm -f "$silicon/proc/$2.real"; fi
    [ -e "$silicon/proc/$2" ] || : >"$silicon/proc/$2"
}

mkdir -p "$run"
bind "$silicon/pci" /sys/bus/pci
bind "$silicon/node" /sys/devices/system/node
bind "$silicon/firmware" /sys/firmware
bind "$silicon/proc/driver" /proc/driver
keep_real /proc/modules modules
bind "$silicon/proc/modules" /proc/modules
keep_real /proc/devices devices
bind "$silicon/proc/devices" /proc/devices

# Modules come and go in /sys/module: a writable layer over the real one.
if [ ! -e "$run/module" ]; then
    mkdir -p "$run/module/upper" "$run/module/work"
    mount -t overlay overlay -o "lowerdir=/sys/module,upperdir=$run/module/upper,workdir=$run/module/work" /sys/module
fi

if [ ! -e "$run/booted" ]; then
    python3 "$silicon/bin/kernel.py" boot
    : >"$run/booted"
fi
