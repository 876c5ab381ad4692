#include "control/mapframe.h"
#include "control/cjson.h"
#include "util/cursor.h"
#include "util/err.h"

#include <zstd.h>

enum { SIZE_LEN = 4 };

void tn_mapframe_init(struct tn_mapframe *f) { tn_buf_init(&f->buf, SIZE_LEN + TN_MAPFRAME_WIRE_MAX); }
void tn_mapframe_fini(struct tn_mapframe *f) { tn_buf_fini(&f->buf); }

/* How many bytes the message needs that begins with what is buffered. */
static int needed(const struct tn_mapframe *f, size_t *need)
{
    *need = SIZE_LEN;
    if (tn_buf_len(&f->buf) < SIZE_LEN) return 0;
    uint32_t size = tn_get_le32(tn_buf_data(&f->buf));
    if (size > TN_MAPFRAME_WIRE_MAX) return TN_E_TOOBIG;
    *need += size;
    return 0;
}

int tn_mapframe_input(struct tn_mapframe *f, const uint8_t *bytes, size_t len, tn_mapframe_message *fn, void *arg)
{
    for (;;) {
        size_t need;
        int err = needed(f, &need);
        if (err) return err;
        size_t have = tn_buf_len(&f->buf);
        if (have == need && have >= SIZE_LEN) {
            err = fn(arg, tn_buf_data(&f->buf) + SIZE_LEN, have - SIZE_LEN);
            tn_buf_fini(&f->buf);
            if (err) return err;
            continue;
        }
        size_t take = need - have < len ? need - have : len;
        if (take == 0) return 0;
        err = tn_buf_append(&f->buf, bytes, take);
        if (err) return err;
        bytes += take;
        len -= take;
    }
}

struct inflate {
    ZSTD_DCtx *z;
    ZSTD_inBuffer in;
    size_t hint; /* what zstd said last: 0 at the end of a frame */
    size_t total;
    bool too_big;
};

/* Gives the next decompressed bytes to the parser: the tn_cjson_read of a compressed message. */
static size_t read_inflated(void *arg, void *out, size_t cap)
{
    struct inflate *i = arg;
    ZSTD_outBuffer to = {out, cap, 0};
    while (to.pos == 0) {
        size_t before = i->in.pos;
        bool at_end = i->in.pos == i->in.size;
        if (at_end && i->hint == 0) return 0;
        i->hint = ZSTD_decompressStream(i->z, &to, &i->in);
        if (ZSTD_isError(i->hint)) return (size_t)-1;
        if (to.pos == 0 && i->in.pos == before && i->hint != 0) return (size_t)-1; /* cut off in the middle */
    }
    i->total += to.pos;
    i->too_big = i->total > TN_MAPFRAME_JSON_MAX;
    return i->too_big ? (size_t)-1 : to.pos;
}

int tn_mapframe_decode(const uint8_t *payload, size_t len, bool compressed, json_t **out)
{
    if (!compressed) return tn_cjson_parse(payload, len, TN_MAPFRAME_COST_MAX, out);
    struct inflate i = {.z = ZSTD_createDCtx(), .in = {payload, len, 0}};
    if (!i.z) return TN_E_NOMEM;
    ZSTD_DCtx_setParameter(i.z, ZSTD_d_windowLogMax, TN_MAPFRAME_WINDOW_LOG);
    int err = tn_cjson_load(read_inflated, &i, TN_MAPFRAME_COST_MAX, out);
    ZSTD_freeDCtx(i.z);
    return i.too_big ? TN_E_TOOBIG : err;
}
