/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nvidia-modprobe of a simulated host. Loads the driver or, with -u, unified memory, and with -m mode setting; their device nodes
 * come with the modules. -f FILE makes the node of a MIG capability: its file is there only while the driver is loaded.
 */
#define _GNU_SOURCE
#include "capabilities.h"
#include <sys/wait.h>
#include <unistd.h>

static bool load(const char *module) {
    int status = -1;
    pid_t child = fork();
    if (!child) {
        execl("/sbin/modprobe", "modprobe", module, (char *)NULL);
        _exit(1);
    }
    return child > 0 && waitpid(child, &status, 0) == child && !status;
}

int main(int count, char **arguments) {
    bool unified = false, modeset = false, capability = false, success = true;
    for (int option; (option = getopt(count, arguments, "c:f:lmsu")) != -1;) {
        if (option == '?')
            return 1;
        unified |= option == 'u';
        modeset |= option == 'm';
        if (option == 'f') {
            capability = true;
            success &= make_capability_node(optarg);
        }
    }
    if (unified || !capability)
        success &= load(unified ? "nvidia-uvm" : "nvidia");
    if (modeset)
        success &= load("nvidia-modeset");
    return !success;
}
