/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Files of "key=value" lines up to a line "end": the board and the state of a simulated host (kernel.py has the same in Python).
 */
#ifndef SILICON_PAIRS_H
#define SILICON_PAIRS_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAIRS_FORMAT "1"

struct pairs {
    char *text; /* owns every key and value that was read */
    char **keys, **values;
    size_t count;
};

static void pairs_free(struct pairs *pairs) {
    free(pairs->text);
    free(pairs->keys);
    free(pairs->values);
    memset(pairs, 0, sizeof *pairs);
}

static const char *pairs_get(const struct pairs *pairs, const char *key) {
    for (size_t i = 0; i < pairs->count; i++)
        if (!strcmp(pairs->keys[i], key))
            return pairs->values[i];
    return NULL;
}

/* Set or, with a NULL value, remove. The strings must outlive the pairs. */
static int pairs_set(struct pairs *pairs, char *key, char *value) {
    for (size_t i = 0; i < pairs->count; i++) {
        if (strcmp(pairs->keys[i], key))
            continue;
        if (value) {
            pairs->values[i] = value;
        } else {
            pairs->count--;
            memmove(&pairs->keys[i], &pairs->keys[i + 1], (pairs->count - i) * sizeof *pairs->keys);
            memmove(&pairs->values[i], &pairs->values[i + 1], (pairs->count - i) * sizeof *pairs->values);
        }
        return 0;
    }
    if (!value)
        return 0;
    char **keys = realloc(pairs->keys, (pairs->count + 1) * sizeof *keys);
    if (keys)
        pairs->keys = keys;
    char **values = realloc(pairs->values, (pairs->count + 1) * sizeof *values);
    if (values)
        pairs->values = values;
    if (!keys || !values)
        return -1;
    pairs->keys[pairs->count] = key;
    pairs->values[pairs->count++] = value;
    return 0;
}

/* Read an open file; the caller holds its lock. Returns 0, or -1 with errno. */
static int pairs_read(int file, struct pairs *pairs) {
    struct stat status;
    memset(pairs, 0, sizeof *pairs);
    if (fstat(file, &status) || !(pairs->text = calloc(1, (size_t)status.st_size + 1)))
        return -1;
    ssize_t length = pread(file, pairs->text, (size_t)status.st_size, 0);
    if (length < 0) {
        pairs_free(pairs);
        return -1;
    }
    char *rest = NULL;
    for (char *line = strtok_r(pairs->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *equals = strchr(line, '=');
        if (!strcmp(line, "end"))
            break;
        if (!equals)
            continue;
        *equals = '\0';
        if (pairs_set(pairs, line, equals + 1)) {
            pairs_free(pairs);
            return -1;
        }
    }
    const char *format = pairs_get(pairs, "format");
    if (!format || strcmp(format, PAIRS_FORMAT)) {
        pairs_free(pairs);
        errno = EPROTO;
        return -1;
    }
    return 0;
}

/* Read a file under a shared lock. Returns 0, or -1 with errno. */
static int pairs_load(const char *path, struct pairs *pairs) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    int result = flock(file, LOCK_SH) ? -1 : pairs_read(file, pairs);
    close(file);
    return result;
}

/* Change one key of a file under an exclusive lock; the file stays the same inode. Returns 0, or -1 with errno. */
static int pairs_change(const char *path, char *key, char *value) {
    struct pairs pairs;
    char *content = NULL;
    size_t length = 0;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return -1;
    if (flock(file, LOCK_EX) || pairs_read(file, &pairs)) {
        close(file);
        return -1;
    }
    int result = pairs_set(&pairs, key, value);
    FILE *memory = result ? NULL : open_memstream(&content, &length);
    if (memory) {
        for (size_t i = 0; i < pairs.count; i++)
            fprintf(memory, "%s=%s\n", pairs.keys[i], pairs.values[i]);
        fputs("end\n", memory);
        result = fclose(memory);
    } else {
        result = -1;
    }
    /* One write puts the new end before whatever is left of a longer old content. */
    if (!result && (pwrite(file, content, length, 0) != (ssize_t)length || ftruncate(file, (off_t)length)))
        result = -1;
    free(content);
    pairs_free(&pairs);
    close(file);
    return result;
}

#endif
