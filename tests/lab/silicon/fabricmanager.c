/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nv-fabricmanager of a simulated host: configures the NVSwitches, or refuses as the real one does: without a driver, with a
 * driver of another version than DRIVER_VERSION, and without NVSwitches.
 */
#define _GNU_SOURCE
#include "daemon.h"
#include "pairs.h"

static void refuse(const char *reason) {
    fprintf(stderr, "%s\n", reason);
    exit(1);
}

static void check_driver(const char *state_path) {
    struct pairs state;
    char version[64] = "", reason[512];
    if (pairs_load(state_path, &state))
        refuse("Failed to read the state of the simulated hardware");
    const char *loaded = pairs_get(&state, "module.nvidia");
    if (loaded)
        sscanf(loaded, "%63s", version);
    pairs_free(&state);
    if (!*version)
        refuse("request to query NVSwitch device information from NVSwitch driver failed with error:Driver not loaded");
    if (strcmp(version, DRIVER_VERSION)) {
        snprintf(reason, sizeof reason,
                 "fabric manager NVIDIA GPU driver interface version %s don't match with driver version %s. Please update with "
                 "matching NVIDIA driver package.",
                 DRIVER_VERSION, version);
        refuse(reason);
    }
}

static void check_switches(void) {
    struct pairs board;
    if (pairs_load("/var/lib/silicon/board", &board))
        refuse("Failed to read the board of the simulated hardware");
    const char *switches = pairs_get(&board, "nvswitches");
    if (!switches || !strcmp(switches, "0"))
        refuse("request to query NVSwitch device information from NVSwitch driver failed with error:WARNING Nothing to do "
               "[NV_WARN_NOTHING_TO_DO]");
    pairs_free(&board);
}

int main(int count, char **arguments) {
    static char key[] = "fabric.manager", version[] = DRIVER_VERSION;
    if (count > 1 && (!strcmp(arguments[1], "--version") || !strcmp(arguments[1], "-v"))) {
        printf("Fabric Manager version is : %s\n", DRIVER_VERSION);
        return 0;
    }
    check_driver("/var/lib/silicon/state");
    check_switches();
    if (open("/dev/nvidia-nvswitchctl", O_PATH | O_CLOEXEC) < 0)
        refuse("Failed to open /dev/nvidia-nvswitchctl");
    if (pairs_change("/var/lib/silicon/state", key, version))
        refuse("Failed to configure all the available GPUs or NVSwitches");
    puts("Successfully configured all the available GPUs and NVSwitches to route NVLink traffic.");
    fflush(stdout);
    go_to_background("nvidia-fabricmanager", "nv-fabricmanager");
    wait_for_end();
    return 0;
}
