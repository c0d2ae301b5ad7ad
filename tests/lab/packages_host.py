# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a GPU host needs besides its driver, under its vendors' names: Kubernetes, toolkit, containerd, dkms.

The programs inside are the real ones, except dkms: hosts have no compiler, so the lab's ``dkms`` "builds" by installing
the module files that a driver's source folder already holds, and answers ``dkms status`` as the real one does.
"""

from __future__ import annotations

from pathlib import Path

import settings
from package_building import File, Package

DKMS_VERSION = "3.2.2"


def kubernetes(binaries: Path, kind: str) -> list[Package]:
    """kubelet, kubeadm and kubectl as pkgs.k8s.io has them. ``kind`` is deb or rpm."""
    version = f"{settings.KUBERNETES_VERSION}-{'1.1' if kind == 'deb' else '150500.1.1'}"
    environment = "/etc/default/kubelet" if kind == "deb" else "/etc/sysconfig/kubelet"
    needs = ("iptables", "iproute2", "mount", "util-linux") if kind == "deb" else ()
    units = "/usr/lib/systemd/system"
    kubelet = Package(
        "kubelet",
        version,
        files={
            "/usr/bin/kubelet": File(binaries / "kubelet", 0o755),
            f"{units}/kubelet.service": File(_KUBELET_UNIT),
            f"{units}/kubelet.service.d/10-kubeadm.conf": File(_KUBEADM_DROP_IN.format(environment=environment)),
            environment: File("KUBELET_EXTRA_ARGS=\n", configuration=True),
        },
        depends=needs,
        scripts={"after_install": _DAEMON_RELOAD, "after_remove": _DAEMON_RELOAD},
        summary="The Kubernetes node agent",
    )
    tools = [
        Package(name, version, files={f"/usr/bin/{name}": File(binaries / name, 0o755)}, summary=summary)
        for name, summary in (("kubeadm", "Makes and joins clusters"), ("kubectl", "The Kubernetes command line"))
    ]
    return [kubelet, *tools]


def runtime(binaries: Path, kind: str) -> list[Package]:
    """containerd.io, which brings its own runc; here that is this machine's."""
    programs = ("containerd", "containerd-shim-runc-v2", "ctr")
    files = {f"/usr/bin/{name}": File(binaries / name, 0o755) for name in programs}
    files["/usr/bin/runc"] = File(Path("/usr/sbin/runc"), 0o755)
    files["/usr/lib/systemd/system/containerd.service"] = File(_CONTAINERD_UNIT)
    configuration = _CONTAINERD_CONFIGURATION.format(pause=settings.PAUSE_IMAGE)
    files["/etc/containerd/config.toml"] = File(configuration, configuration=True)
    return [
        Package(
            "containerd.io",
            f"{settings.CONTAINERD_VERSION}-1" + ("" if kind == "deb" else ".el9"),
            files=files,
            depends=("libseccomp2",) if kind == "deb" else (),
            provides=("runc",),
            conflicts=("runc",) if kind == "deb" else (),
            replaces=("runc",) if kind == "deb" else (),
            scripts={
                "after_install": f"{_DAEMON_RELOAD}systemctl enable --now containerd.service\n",
                "before_remove": "systemctl disable --now containerd.service\n",
            },
            summary="An open container runtime",
        )
    ]


def toolkit(binaries: Path, kind: str) -> list[Package]:
    """The four packages of NVIDIA's container toolkit, with the real programs."""
    version = f"{settings.NVIDIA_TOOLKIT_VERSION}-1"
    same = "{} (= " + version + ")" if kind == "deb" else "{} = " + version
    base = Package(
        "nvidia-container-toolkit-base",
        version,
        files={
            **{
                f"/usr/bin/{name}": File(binaries / name, 0o755)
                for name in ("nvidia-ctk", "nvidia-container-runtime", "nvidia-cdi-hook")
            },
            "/etc/nvidia-container-runtime/config.toml": File(_RUNTIME_CONFIGURATION, configuration=True),
            "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env": File("", configuration=True),
            "/etc/systemd/system/nvidia-cdi-refresh.service": File(_CDI_REFRESH_SERVICE),
            "/etc/systemd/system/nvidia-cdi-refresh.path": File(_CDI_REFRESH_PATH),
        },
        scripts={
            "after_install": f"{_DAEMON_RELOAD}systemctl enable nvidia-cdi-refresh.service\n"
            "systemctl enable --now nvidia-cdi-refresh.path\n",
            "before_remove": "systemctl disable --now nvidia-cdi-refresh.path nvidia-cdi-refresh.service\n",
        },
        summary="NVIDIA container runtime, nvidia-ctk and CDI refresh",
    )
    library = Package("libnvidia-container1", version, summary="NVIDIA container library")
    tools = Package("libnvidia-container-tools", version, depends=(same.format(library.name),))
    whole = Package(
        "nvidia-container-toolkit",
        version,
        depends=(same.format(base.name), same.format(tools.name)),
        summary="NVIDIA container toolkit",
    )
    return [base, library, tools, whole]


def dkms(kind: str) -> list[Package]:
    """dkms in the version that drivers need, as Debian's backports and EPEL have it."""
    return [
        Package(
            "dkms",
            f"{DKMS_VERSION}-1" + ("~bpo12+1" if kind == "deb" else ".el9"),
            files={"/usr/sbin/dkms": File(_DKMS, 0o755)},
            depends=("kmod",) if kind == "deb" else (),
            summary="Dynamic kernel module support",
            architecture_independent=True,
        )
    ]


_DAEMON_RELOAD = "systemctl daemon-reload || true\n"

_KUBELET_UNIT = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""

_KUBEADM_DROP_IN = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \\
  --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-{environment}
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""

_CONTAINERD_UNIT = """\
[Unit]
Description=containerd container runtime
Documentation=https://containerd.io
After=network.target

[Service]
ExecStart=/usr/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""

# Lab hosts may not write oom_score_adj, see README.md.
_CONTAINERD_CONFIGURATION = """\
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
"""

_RUNTIME_CONFIGURATION = """\
disable-require = false

[nvidia-container-cli]
  environment = []
  ldconfig = "@/sbin/ldconfig"
  load-kmods = true

[nvidia-container-runtime]
  log-level = "info"
  mode = "auto"
  runtimes = ["runc", "crun"]

  [nvidia-container-runtime.modes]

    [nvidia-container-runtime.modes.cdi]
      annotation-prefixes = ["cdi.k8s.io/"]
      default-kind = "nvidia.com/gpu"
      spec-dirs = ["/etc/cdi", "/var/run/cdi"]

[nvidia-ctk]
  path = "nvidia-ctk"
"""

_CDI_REFRESH_SERVICE = """\
[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=|/usr/bin/nvidia-smi
ConditionPathExists=|/usr/sbin/nvidia-smi

[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecCondition=/usr/bin/grep -qE '/nvidia.ko' /lib/modules/%v/modules.dep
ExecStart=/usr/bin/nvidia-ctk cdi generate

[Install]
WantedBy=multi-user.target
"""

_CDI_REFRESH_PATH = """\
[Unit]
Description=Trigger CDI refresh on driver installation or removal

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/lib/modules/%v/modules.dep.bin
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""

_DKMS = """\
#!/bin/sh
# dkms [status|add|build|install|autoinstall|remove] [-m NAME] [-v VERSION] [-k KERNEL] [--all]
# Builds nothing: installs the module files that /usr/src/NAME-VERSION already holds.
set -e
action=${1:-status}
[ $# -eq 0 ] || shift
kernel=$(uname -r) name= version= all=
while [ $# -gt 0 ]; do
    case $1 in
        -m) name=$2; shift ;;
        -v) version=$2; shift ;;
        -k) kernel=$2; shift ;;
        --all) all=1 ;;
        */*) name=${1%%/*} version=${1#*/} ;;
        *) ;;
    esac
    shift
done
tree=/var/lib/dkms
target() { echo "/lib/modules/$1/updates/dkms"; }

install_one() { # NAME VERSION KERNEL
    source="/usr/src/$1-$2"
    [ -d "$source" ] || { echo "Error! Could not find module source directory $source" >&2; exit 2; }
    [ -d "/lib/modules/$3" ] || { echo "Error! Your kernel headers for kernel $3 cannot be found" >&2; exit 21; }
    mkdir -p "$tree/$1/$2/$3" "$(target "$3")"
    for module in "$source"/*.ko; do
        basename "$module"
        cp "$module" "$(target "$3")/"
    done > "$tree/$1/$2/$3/modules.new"
    mv "$tree/$1/$2/$3/modules.new" "$tree/$1/$2/$3/modules"
    depmod "$3"
}

remove_one() { # NAME VERSION KERNEL
    [ -f "$tree/$1/$2/$3/modules" ] || return 0
    while read -r module; do rm -f "$(target "$3")/$module"; done < "$tree/$1/$2/$3/modules"
    rm -rf "${tree:?}/$1/$2/$3"
    depmod "$3" || true
}

case $action in
    status)
        for installed in "$tree"/*/*/*/modules; do
            [ -f "$installed" ] || continue
            path=${installed#"$tree"/}
            module=${path%%/*} rest=${path#*/}
            [ -z "$name" ] || [ "$name" = "$module" ] || continue
            kernel_of=${rest#*/}
            echo "$module/${rest%%/*}, ${kernel_of%/modules}, $(uname -m): installed"
        done ;;
    add | build) mkdir -p "$tree/$name/$version" ;;
    install) install_one "$name" "$version" "$kernel" ;;
    autoinstall)
        for known in "$tree"/*/*; do
            [ -d "$known" ] || continue
            path=${known#"$tree"/}
            [ ! -d "/usr/src/${path%%/*}-${path#*/}" ] || install_one "${path%%/*}" "${path#*/}" "$kernel"
        done ;;
    remove)
        for known in "$tree/$name/$version"/*; do
            [ -d "$known" ] || continue
            if [ -n "$all" ] || [ "${known##*/}" = "$kernel" ]; then remove_one "$name" "$version" "${known##*/}"; fi
        done
        rmdir "$tree/$name/$version" 2>/dev/null || true
        rmdir "$tree/$name" 2>/dev/null || true ;;
    *) echo "Error! Unknown action specified: $action" >&2; exit 3 ;;
esac
"""
