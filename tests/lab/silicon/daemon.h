/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the driver's daemons have in common: a run folder with a socket and a pid file, going to the background when ready.
 */
#ifndef SILICON_DAEMON_H
#define SILICON_DAEMON_H

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Become a daemon that owns /run/NAME/socket and /run/NAME/NAME.pid; returns in the daemon, the caller's process ends. */
static void go_to_background(const char *folder, const char *pid_name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char pid_file[128];
    snprintf(address.sun_path, sizeof address.sun_path, "/run/%s/socket", folder);
    snprintf(pid_file, sizeof pid_file, "/run/%s", folder);
    mkdir(pid_file, 0755);
    snprintf(pid_file, sizeof pid_file, "/run/%s/%s.pid", folder, pid_name);
    unlink(address.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) {
        perror(address.sun_path);
        exit(1);
    }
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        exit(1);
    }
    if (child > 0) {
        FILE *file = fopen(pid_file, "we");
        if (file) {
            fprintf(file, "%d\n", child);
            fclose(file);
        }
        exit(0);
    }
    setsid();
}

/* Wait until somebody ends the daemon. */
static void wait_for_end(void) {
    sigset_t ends;
    int signal_number;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    sigwait(&ends, &signal_number);
}

#endif
