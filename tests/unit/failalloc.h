/* Allocation failure sweeps: include this before the .c files under test. From then on malloc, calloc, realloc and
 * strdup in them count down failalloc_left and fail once at zero; negative: never.
 *
 *   for (long n = 0; failalloc_run(n, fn, arg); n++) ;     runs fn until it no longer meets its failure
 */
#ifndef TEST_FAILALLOC_H
#define TEST_FAILALLOC_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long failalloc_left = -1;

static inline bool failalloc_now(void) { return failalloc_left >= 0 && failalloc_left-- == 0; }
static inline void *failalloc_malloc(size_t n) { return failalloc_now() ? NULL : malloc(n); }
static inline void *failalloc_calloc(size_t n, size_t m) { return failalloc_now() ? NULL : calloc(n, m); }
static inline void *failalloc_realloc(void *p, size_t n) { return failalloc_now() ? NULL : realloc(p, n); }
static inline char *failalloc_strdup(const char *s) { return failalloc_now() ? NULL : strdup(s); }

/* Runs fn with its n-th allocation failing; false when it made fewer. */
static inline bool failalloc_run(long n, void (*fn)(void *arg), void *arg)
{
    failalloc_left = n;
    fn(arg);
    bool met = failalloc_left < 0;
    failalloc_left = -1;
    return met;
}

#define malloc failalloc_malloc
#define calloc failalloc_calloc
#define realloc failalloc_realloc
#undef strdup
#define strdup failalloc_strdup

#endif
