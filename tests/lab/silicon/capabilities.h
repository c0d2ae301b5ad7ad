/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Device nodes of MIG capabilities, as nvidia-modprobe and nvidia-smi make them: /dev/nvidia-caps/nvidia-cap<minor> for a file
 * below /proc/driver/nvidia/capabilities, with the mode that the file says. Nobody removes them: minors are dealt out for good.
 * Tests set $SILICON and $SILICON_DEV (instead of /proc and /dev); their nodes are plain files.
 */
#ifndef SILICON_CAPABILITIES_H
#define SILICON_CAPABILITIES_H

#include <errno.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define CAPS_MAJOR 507 /* as in kernel.py */

/* Make the node of one capability file. Returns false when there is no such file, or the caller may not make nodes. */
static bool make_capability_node(const char *file) {
    const char *devices = getenv("SILICON_DEV");
    unsigned minor_number, mode, modify;
    char path[300];
    FILE *stream = fopen(file, "re");
    bool is_capability = stream && fscanf(stream, "DeviceFileMinor: %u DeviceFileMode: %u DeviceFileModify: %u",
                                          &minor_number, &mode, &modify) == 3;
    if (stream)
        fclose(stream);
    if (!is_capability || !modify)
        return is_capability;
    int length = snprintf(path, sizeof path, "%s/nvidia-caps", devices ? devices : "/dev");
    mkdir(path, 0755);
    snprintf(path + length, sizeof path - (size_t)length, "/nvidia-cap%u", minor_number);
    if (mknod(path, (devices ? S_IFREG : S_IFCHR) | mode, makedev(CAPS_MAJOR, minor_number)) && errno != EEXIST)
        return false;
    return !chmod(path, mode);
}

static int visit_capability(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status, (void)place;
    if (kind == FTW_F)
        make_capability_node(path);
    return 0;
}

/* Make the nodes of all capabilities there are: config, monitor, every instance. */
static void make_capability_nodes(void) {
    const char *silicon = getenv("SILICON");
    char folder[300];
    snprintf(folder, sizeof folder, "%s/proc/driver/nvidia/capabilities", silicon ? silicon : "");
    nftw(folder, visit_capability, 8, FTW_PHYS);
}

#endif
