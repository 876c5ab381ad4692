#include "control/early.h"
#include "util/cursor.h"
#include "util/err.h"

#include <string.h>

static const uint8_t magic[5] = {0xff, 0xff, 0xff, 'T', 'S'};

/* Nine bytes are here: a payload to skip, or HTTP/2 that began with them. */
static int decide(struct tn_early *e, tn_early_rest *rest, void *arg)
{
    e->done = true;
    if (memcmp(e->head, magic, sizeof magic) != 0) return rest(arg, e->head, sizeof e->head);
    e->skip = tn_get_be32(e->head + sizeof magic);
    return e->skip > TN_EARLY_MAX ? TN_E_TOOBIG : 0;
}

int tn_early_input(struct tn_early *e, const uint8_t *bytes, size_t len, tn_early_rest *rest, void *arg)
{
    while (!e->done && len > 0) {
        e->head[e->have++] = *bytes++;
        len--;
        int err = e->have == TN_EARLY_HEADER ? decide(e, rest, arg) : 0;
        if (err) return err;
    }
    size_t drop = e->skip < len ? e->skip : len;
    e->skip -= (uint32_t)drop;
    return len == drop ? 0 : rest(arg, bytes + drop, len - drop);
}

void tn_early_header(uint8_t out[TN_EARLY_HEADER], uint32_t len)
{
    memcpy(out, magic, sizeof magic);
    tn_put_be32(out + sizeof magic, len);
}
