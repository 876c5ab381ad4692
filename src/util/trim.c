#include "util/trim.h"

#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { LINES_MAX = 200000 }; /* 25 lines a mapping */

struct mapping {
    uintptr_t start, end;
    bool code; /* readable, executable, private, of a file */
    unsigned long resident_kb;
};

/* "55d0-55d8 r-xp 00001000 08:01 1234  /path" */
static bool parse_header(const char *line, struct mapping *m)
{
    unsigned long start, end, inode;
    char perms[5];
    if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu", &start, &end, perms, &inode) != 4) return false;
    *m = (struct mapping){.start = start, .end = end, .code = strcmp(perms, "r-xp") == 0 && inode != 0};
    return true;
}

/* A mapping is let go when its line of private pages has been seen to say none. */
static size_t consider(struct mapping *m, const char *line)
{
    unsigned long kb;
    if (parse_header(line, m) || !m->code) return 0;
    if (sscanf(line, "Rss: %lu kB", &kb) == 1) m->resident_kb = kb;
    if (sscanf(line, "Anonymous: %lu kB", &kb) != 1) return 0;
    m->code = false;
    if (kb != 0 || madvise((void *)m->start, m->end - m->start, MADV_DONTNEED) != 0) return 0;
    return m->resident_kb * 1024;
}

size_t tn_trim_memory(void)
{
    size_t dropped = 0;
    struct mapping m = {0};
    char line[512];
#ifdef __GLIBC__
    malloc_trim(0);
#endif
    FILE *f = fopen("/proc/self/smaps", "re");
    if (!f) return 0;
    for (int i = 0; i < LINES_MAX && fgets(line, sizeof line, f); i++) dropped += consider(&m, line);
    fclose(f);
    return dropped;
}
