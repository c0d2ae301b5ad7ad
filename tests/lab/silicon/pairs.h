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
    char **keys, **values; /* copies of their own */
    size_t count;
};

static void pairs_free(struct pairs *pairs) {
    for (size_t i = 0; i < pairs->count; i++) {
        free(pairs->keys[i]);
        free(pairs->values[i]);
    }
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

static int pairs_add(struct pairs *pairs, const char *key, const char *value) {
    char **keys = realloc(pairs->keys, (pairs->count + 1) * sizeof *keys);
    if (keys)
        pairs->keys = keys;
    char **values = realloc(pairs->values, (pairs->count + 1) * sizeof *values);
    if (values)
        pairs->values = values;
    char *own_key = strdup(key), *own_value = strdup(value);
    if (!keys || !values || !own_key || !own_value) {
        free(own_key);
        free(own_value);
        return -1;
    }
    pairs->keys[pairs->count] = own_key;
    pairs->values[pairs->count++] = own_value;
    return 0;
}

/* Set or, with a NULL value, remove. Returns 0, or -1 without memory. */
static int pairs_set(struct pairs *pairs, const char *key, const char *value) {
    for (size_t i = 0; i < pairs->count; i++) {
        if (strcmp(pairs->keys[i], key))
            continue;
        char *own = value ? strdup(value) : NULL;
        if (value && !own)
            return -1;
        free(pairs->values[i]);
        pairs->values[i] = own;
        if (!value) {
            free(pairs->keys[i]);
            pairs->count--;
            memmove(&pairs->keys[i], &pairs->keys[i + 1], (pairs->count - i) * sizeof *pairs->keys);
            memmove(&pairs->values[i], &pairs->values[i + 1], (pairs->count - i) * sizeof *pairs->values);
        }
        return 0;
    }
    return value ? pairs_add(pairs, key, value) : 0;
}

/* Read an open file; the caller holds its lock. Returns 0, or -1 with errno. */
static int pairs_read(int file, struct pairs *pairs) {
    struct stat status;
    char *text, *rest = NULL;
    memset(pairs, 0, sizeof *pairs);
    if (fstat(file, &status) || !(text = calloc(1, (size_t)status.st_size + 1)))
        return -1;
    int result = pread(file, text, (size_t)status.st_size, 0) < 0 ? -1 : 0;
    for (char *line = strtok_r(text, "\n", &rest); line && !result; line = strtok_r(NULL, "\n", &rest)) {
        char *equals = strchr(line, '=');
        if (!strcmp(line, "end"))
            break;
        if (!equals)
            continue;
        *equals = '\0';
        result = pairs_add(pairs, line, equals + 1);
    }
    free(text);
    const char *format = pairs_get(pairs, "format");
    if (!result && (!format || strcmp(format, PAIRS_FORMAT))) {
        errno = EPROTO;
        result = -1;
    }
    if (result)
        pairs_free(pairs);
    return result;
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

/* Read a file to change it. Returns a descriptor that holds the exclusive lock until it is closed, or -1 with errno. */
static int pairs_open(const char *path, struct pairs *pairs) {
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file >= 0 && (flock(file, LOCK_EX) || pairs_read(file, pairs))) {
        close(file);
        return -1;
    }
    return file;
}

/* Write what has become of the pairs; the file stays the same inode. Returns 0, or -1 with errno. */
static int pairs_write(int file, const struct pairs *pairs) {
    char *content = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&content, &length);
    if (!memory)
        return -1;
    for (size_t i = 0; i < pairs->count; i++)
        fprintf(memory, "%s=%s\n", pairs->keys[i], pairs->values[i]);
    fputs("end\n", memory);
    int result = fclose(memory);
    /* One write puts the new end before whatever is left of a longer old content. */
    if (!result && (pwrite(file, content, length, 0) != (ssize_t)length || ftruncate(file, (off_t)length)))
        result = -1;
    free(content);
    return result;
}

/* Change one key of a file under an exclusive lock. Returns 0, or -1 with errno. */
static int pairs_change(const char *path, const char *key, const char *value) {
    struct pairs pairs;
    int file = pairs_open(path, &pairs);
    if (file < 0)
        return -1;
    int result = pairs_set(&pairs, key, value) ? -1 : pairs_write(file, &pairs);
    pairs_free(&pairs);
    close(file);
    return result;
}

#endif
