#include "util/trim.h"

#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LINES_MAX = 200000 /* 25 lines a mapping */, PAGES_AT_ONCE = 512 };
/* Of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGE_PRESENT (1ull << 63)
#define PAGE_SWAPPED (1ull << 62)
#define PAGE_OF_FILE (1ull << 61) /* or shared; clear: private */

struct mapping {
    uintptr_t start, end;
    bool code; /* readable, executable, private, of a file */
    unsigned long resident_kb;
};

/* What comes after one that does not is the rest of a long path, which may look like anything. */
static bool ends_line(const char *line) { return strchr(line, '\n') != NULL; }

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
    bool whole = true;
    for (int i = 0; i < LINES_MAX && fgets(line, sizeof line, f); i++) {
        if (whole) dropped += consider(&m, line);
        whole = ends_line(line);
    }
    fclose(f);
    return dropped;
}

/* ---- one mapping: of a large process smaps takes long, and maps does not ---- */

static bool find_code(uintptr_t inside, struct mapping *m)
{
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");
    bool found = false, whole = true;
    if (!f) return false;
    for (int i = 0; !found && i < LINES_MAX && fgets(line, sizeof line, f); i++) {
        found = whole && parse_header(line, m) && m->start <= inside && inside < m->end;
        whole = ends_line(line);
    }
    fclose(f);
    return found && m->code;
}

/* Counts resident pages; false when there is a private one among them. */
static bool count_pages(const uint64_t *entry, size_t n, size_t *resident)
{
    for (size_t i = 0; i < n; i++) {
        bool there = entry[i] & PAGE_PRESENT;
        if ((there || entry[i] & PAGE_SWAPPED) && !(entry[i] & PAGE_OF_FILE)) return false;
        *resident += there;
    }
    return true;
}

/* Resident pages of a mapping that has no private ones; else, or if that can't be told, 0. */
static size_t clean_pages(const struct mapping *m, size_t page)
{
    uint64_t entry[PAGES_AT_ONCE];
    size_t resident = 0, at = m->start / page, left = (m->end - m->start) / page;
    FILE *f = fopen("/proc/self/pagemap", "re");
    bool clean = f && fseeko(f, (off_t)(at * sizeof *entry), SEEK_SET) == 0;
    while (clean && left) {
        size_t n = left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE;
        clean = fread(entry, sizeof *entry, n, f) == n && count_pages(entry, n, &resident);
        left -= n;
    }
    if (f) fclose(f);
    return clean ? resident : 0;
}

size_t tn_trim_code(const void *inside)
{
    struct mapping m;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t pages = find_code((uintptr_t)inside, &m) ? clean_pages(&m, page) : 0;
    if (pages == 0 || madvise((void *)m.start, m.end - m.start, MADV_DONTNEED) != 0) return 0;
    return pages * page;
}
