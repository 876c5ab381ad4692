/* The budget of TCP buffers (stack/pool.h) is an eighth of what the process may use: 256 MB on a machine of 2 GB, where one
 * fast long flow takes 50 MB, and little enough that a container is not ended by its limit because many peers are slow. */
#include "node/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
    PATH_LEN = 1024,
    LINE = 1024,
    SHARE = 8,
    LEAST = 8 * 1024 * 1024, /* below that one long flow fills it */
};
#define MOST ((size_t)1 << 30)
#define UNKNOWN ((size_t)256 * 1024 * 1024)

static FILE *open_at(const char *root, const char *path)
{
    char full[PATH_LEN];
    int n = snprintf(full, sizeof full, "%s/%s", root, path);
    return n > 0 && (size_t)n < sizeof full ? fopen(full, "re") : NULL;
}

static void lower(uint64_t *limit, uint64_t to)
{
    if (to && (!*limit || to < *limit)) *limit = to;
}

/* A file with one number; "max", which version 2 has for no limit, is none. */
static void lower_by_file(const char *root, const char *path, uint64_t *limit)
{
    FILE *f = open_at(root, path);
    uint64_t bytes;
    if (!f) return;
    if (fscanf(f, "%" SCNu64, &bytes) == 1) lower(limit, bytes);
    fclose(f);
}

static void lower_by_machine(const char *root, uint64_t *limit)
{
    FILE *f = open_at(root, "proc/meminfo");
    uint64_t kb;
    char line[LINE];
    if (!f) return;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemTotal: %" SCNu64 " kB", &kb) == 1 && kb <= UINT64_MAX / 1024) lower(limit, kb * 1024);
    fclose(f);
}

/* The group and all above it; what of its path does not exist here, as in a container that sees only its own part of the
 * hierarchy, limits nothing. */
static void lower_by_group(const char *root, const char *mount, const char *file, char *group, uint64_t *limit)
{
    for (;;) {
        char path[PATH_LEN];
        int n = snprintf(path, sizeof path, "%s%s/%s", mount, group, file);
        if (n > 0 && (size_t)n < sizeof path) lower_by_file(root, path, limit);
        char *slash = strrchr(group, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

/* Is this word in a list with commas? */
static bool lists(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, len) == 0 && (at[len] == ',' || at[len] == '\0')) return true;
    }
    return false;
}

/* Lines of NUMBER:CONTROLLERS:PATH; version 2 is the one without controllers. */
static void lower_by_groups(const char *root, uint64_t *limit)
{
    FILE *f = open_at(root, "proc/self/cgroup");
    char line[LINE];
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        controllers++;
        *group++ = '\0';
        if (strstr(group, "/..")) *group = '\0'; /* outside of what we see */
        char again[LINE];
        memcpy(again, group, strlen(group) + 1);
        if (*controllers == '\0') {
            lower_by_group(root, "sys/fs/cgroup", "memory.max", group, limit);
            lower_by_group(root, "sys/fs/cgroup", "memory.high", again, limit);
        } else if (lists(controllers, "memory")) {
            lower_by_group(root, "sys/fs/cgroup/memory", "memory.limit_in_bytes", group, limit);
        }
    }
    fclose(f);
}

uint64_t tn_memory_limit(const char *root)
{
    uint64_t limit = 0;
    lower_by_machine(root, &limit);
    lower_by_groups(root, &limit);
    return limit;
}

size_t tn_memory_tcp_budget(uint64_t limit)
{
    if (!limit) return UNKNOWN;
    uint64_t share = limit / SHARE;
    return share < LEAST ? LEAST : share > MOST ? MOST : (size_t)share;
}
