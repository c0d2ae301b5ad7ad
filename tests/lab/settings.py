# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every version, address and path of the lab, in one place."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# -- versions ---------------------------------------------------------------------------------------------------------

KUBERNETES_VERSION = "1.37.1"
ETCD_VERSION = "3.6.14"  # pinned by go/etcd/go.mod; named here for the cache key and for people
CONTAINERD_VERSION = "2.4.2"
NVIDIA_TOOLKIT_VERSION = "1.20.1"
HELM_VERSION = "3.22.0"  # kubernetes.core.helm 6.2 fails after every change made by helm 4: `list --all` is gone
KWOK_VERSION = "0.8.0"
PAUSE_IMAGE = "registry.k8s.io/pause:3.10.2"  # the sandbox image in containerd's built-in configuration
DEBIAN_SUITE = "bookworm"
OLDEST_GO = (1, 26)

# -- network ----------------------------------------------------------------------------------------------------------

BRIDGE = "lab0"
BRIDGE_ADDRESS = "10.88.0.1"
HOST_NETWORK = "10.88.0.0/24"
FIRST_HOST_NUMBER = 11  # the first host is 10.88.0.11
POD_NETWORKS = "10.89.0.0/16"  # host number N has 10.89.N.0/24
SERVICE_NETWORK = "10.96.0.0/16"
KUBERNETES_SERVICE_ADDRESS = "10.96.0.1"
API_SERVER_PORT = 6443
API_SERVER = f"https://{BRIDGE_ADDRESS}:{API_SERVER_PORT}"
ETCD_PORT = 2479  # not etcd's own 2379, which another program on the machine may use
ETCD_PEER_PORT = 2480
REPOSITORY_PORT = 8480
REPOSITORY_URL = f"http://{BRIDGE_ADDRESS}:{REPOSITORY_PORT}"
NFT_TABLE = "onprem_gpu_lab"

# Everything the lab makes machine-wide starts with this, so that a lab whose state is lost can still be taken down.
NAME_PREFIX = "lab-"
MARKER = Path("/run/onprem-gpu-lab.json")
LOCK = Path("/run/onprem-gpu-lab.lock")
PROCESS_TAG = "ONPREM_GPU_LAB"  # environment variable of every process the lab starts; its value is the state folder

ADMIN_USER = "ops"

# -- paths ------------------------------------------------------------------------------------------------------------

LAB_SOURCE = Path(__file__).resolve().parent
REPOSITORY = LAB_SOURCE.parent.parent
STATE = REPOSITORY / ".lab"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onprem-gpu-lab"
DEFAULT_FLEET = LAB_SOURCE / "fleets" / "default.yml"

LOGS = STATE / "log"
RUN = STATE / "run"
BIN = STATE / "bin"
HOSTS = STATE / "hosts"
SSH = STATE / "ssh"
SSH_KEY = SSH / "id_ed25519"
SSH_CONFIG = SSH / "config"
KNOWN_HOSTS = SSH / "known_hosts"
CONTROL_PLANE = STATE / "control-plane"
KUBECONFIG = STATE / "kubeconfig"
INVENTORY = STATE / "inventory.yml"
REPOSITORIES = STATE / "repositories"  # a link to what the repository server serves
IMAGES = CACHE / "images"

KERNEL = platform.release()
