#include "control/mapframe.h"
#include "control/mapsplit.h"
#include "control/netnode.h"
#include "util/cursor.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>
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

static size_t read_plain(void *arg, void *out, size_t cap)
{
    ZSTD_inBuffer *in = arg;
    size_t n = in->size - in->pos < cap ? in->size - in->pos : cap;
    if (n) memcpy(out, (const uint8_t *)in->src + in->pos, n);
    in->pos += n;
    return n;
}

/* One peer of the message. */
static int take_node(void *ctx, enum tn_mapsplit_list list, const char *text, size_t len)
{
    struct tn_netmap_message *m = ctx;
    struct tn_netnode_entry *e;
    json_t *json;
    int err = tn_cjson_parse(text, len, TN_MAPFRAME_NODE_COST_MAX, &json);
    if (err) return err;
    err = tn_netnode_parse(json, &e);
    json_decref(json);
    return err ? err : tn_netmap_nodes_add(list == TN_MAPSPLIT_PEERS ? &m->peers : &m->changed, e);
}

static int decode(tn_cjson_read *read, void *arg, struct tn_netmap_message *out)
{
    struct tn_mapsplit *s = malloc(sizeof *s);
    *out = (struct tn_netmap_message){0};
    if (!s) return TN_E_NOMEM;
    tn_mapsplit_init(s, read, arg);
    s->node = take_node;
    s->ctx = out;
    int err = tn_cjson_load(tn_mapsplit_read, s, TN_MAPFRAME_COST_MAX, &out->rest);
    if (s->err) err = s->err;
    tn_mapsplit_fini(s);
    free(s);
    return err;
}

int tn_mapframe_decode(const uint8_t *payload, size_t len, bool compressed, struct tn_netmap_message *out)
{
    struct inflate i = {.in = {payload, len, 0}};
    int err;
    if (compressed) {
        i.z = ZSTD_createDCtx();
        if (!i.z) return TN_E_NOMEM;
        ZSTD_DCtx_setParameter(i.z, ZSTD_d_windowLogMax, TN_MAPFRAME_WINDOW_LOG);
        err = decode(read_inflated, &i, out);
        ZSTD_freeDCtx(i.z);
    } else {
        err = decode(read_plain, &i.in, out);
    }
    if (i.too_big) err = TN_E_TOOBIG;
    if (err) tn_netmap_message_fini(out);
    return err;
}
