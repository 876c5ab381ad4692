#include "util/secret.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Lives on pages of its own, so that MADV_DONTDUMP covers nothing else. */
struct tn_secret {
    size_t mapped, len;
    char bytes[];
};

void tn_wipe(void *mem, size_t len)
{
    if (len) explicit_bzero(mem, len);
}

struct tn_secret *tn_secret_new(const void *bytes, size_t len)
{
    if (len > TN_SECRET_MAX) return NULL;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = (sizeof(struct tn_secret) + len + 1 + page - 1) / page * page;
    struct tn_secret *s = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) return NULL;
    (void)madvise(s, mapped, MADV_DONTDUMP);
    s->mapped = mapped;
    s->len = len;
    if (len) memcpy(s->bytes, bytes, len);
    return s;
}

void tn_secret_free(struct tn_secret *s)
{
    if (!s) return;
    size_t mapped = s->mapped;
    tn_wipe(s, mapped);
    munmap(s, mapped);
}

size_t tn_secret_len(const struct tn_secret *s) { return s ? s->len : 0; }
const char *tn_secret_bytes(const struct tn_secret *s) { return s ? s->bytes : ""; }

bool tn_secret_eq(const struct tn_secret *a, const struct tn_secret *b)
{
    if (!a || !b) return a == b;
    if (a->len != b->len) return false;
    uint8_t diff = 0;
    for (size_t i = 0; i < a->len; i++) diff |= (uint8_t)(a->bytes[i] ^ b->bytes[i]);
    return diff == 0;
}
