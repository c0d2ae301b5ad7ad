# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is, as one JSON object: runs on the host itself, piped into its Python by tests/observe.py.

Written without a look at the collection's own readers, because tests hold those against it. Keys say what they are
about: `file /etc/x`, `package x`, `hold x`, `service x`, `module x`. What differs from run to run on the same host for
reasons of its own (host keys, certificates, caches, logs) is left out.
"""

from __future__ import annotations

import glob
import grp
import hashlib
import json
import os
import pwd
import re
import stat
import subprocess
import sys

FOLDERS = ("/etc",)
FILES = ("/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env", "/var/lib/kubelet/instance-config.yaml")
OWN_REASONS = re.compile(
    r"^/etc/(ssh/ssh_host_|machine-id|ld\.so\.cache|mtab|resolv\.conf|hostname|hosts|shadow-?$|gshadow-?$|passwd-$|group-$"
    r"|\.pwd\.lock|\.updated|kubernetes/kubelet\.conf$|apt/apt\.conf\.d/|ssl/certs/|pki/ca-trust/extracted"
    r"|dnf/plugins/versionlock\.list)"
)


def main():
    state = {}
    for folder in FOLDERS:
        for parent, _folders, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                if not OWN_REASONS.match(path):
                    add_file(state, path)
    for path in (*FILES, *sys.argv[1:]):
        add_file(state, path)
    state.update(packages())
    state.update(services())
    state.update(modules())
    json.dump(state, sys.stdout)


def add_file(state, path):
    if not os.path.lexists(path):
        return
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        content = "link to " + os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    else:
        content = "no regular file"
    state["file " + path] = f"{content} {stat.S_IMODE(status.st_mode):o} {user(status)}:{group(status)}"


def user(status):
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return status.st_uid


def group(status):
    try:
        return grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        return status.st_gid


def packages():
    """`package x` -> full version and state, `hold x` -> held or the locked version."""
    if os.path.exists("/usr/bin/dnf"):
        return rpm_packages()
    found = {}
    for line in output(
        ["dpkg-query", "-W", "-f", "${Package}\\t${Version}\\t${db:Status-Status}\\t${db:Status-Want}\\n"]
    ):
        name, version, status, want = line.split("\t")
        if status != "config-files":
            found["package " + name] = version + ("" if status == "installed" else " " + status)
        if want == "hold":
            found["hold " + name] = "held"
    return found


def rpm_packages():
    found = {}
    for line in output(["rpm", "-qa", "--qf", "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n"]):
        name, version = line.split("\t")
        found["package " + name] = version
    for line in output(["dnf", "-q", "-C", "versionlock", "list"]):
        match = re.match(r"(.+)-(\d+:[^-]+-[^-]+)$", line.strip())
        if match:
            found["hold " + match.group(1)] = match.group(2)
    return found


def services():
    """`service x` -> enabled and active, of every unit file of a service or timer."""
    active = {
        line.split()[0]
        for line in output(["systemctl", "list-units", "--plain", "--no-legend", "--state=active"])
        if line
    }
    found = {}
    for line in output(["systemctl", "list-unit-files", "--plain", "--no-legend", "--type=service,timer,path"]):
        words = line.split()
        if len(words) > 1 and "@." not in words[0]:
            found["service " + words[0]] = words[1] + (" active" if words[0] in active else " inactive")
    return found


def modules():
    """`module x` -> version or loaded, of everything that can be unloaded."""
    found = {}
    for path in glob.glob("/sys/module/*/initstate"):
        folder = os.path.dirname(path)
        version = os.path.join(folder, "version")
        content = "loaded"
        if os.path.exists(version):
            with open(version) as file:
                content = file.read().strip()
        found["module " + os.path.basename(folder)] = content
    return found


def output(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
