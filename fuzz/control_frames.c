/* The body of a map stream: framing, zstd, bounded JSON. The first byte is the size of the pieces; its top bit takes
 * the payloads as plain JSON. */
#include "control/mapframe.h"

struct state {
    bool compressed;
    unsigned messages;
};

static int on_message(void *arg, const uint8_t *payload, size_t len)
{
    struct state *s = arg;
    struct tn_netmap_message m;
    if (tn_mapframe_decode(payload, len, s->compressed, &m) == 0) tn_netmap_message_fini(&m);
    return ++s->messages > 16 ? -1 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tn_mapframe f;
    if (size < 1) return 0;
    struct state s = {.compressed = !(data[0] & 0x80)};
    size_t piece = 1 + (data[0] & 0x7f);
    tn_mapframe_init(&f);
    for (size_t at = 1; at < size; at += piece)
        if (tn_mapframe_input(&f, data + at, size - at < piece ? size - at : piece, on_message, &s) != 0) break;
    tn_mapframe_fini(&f);
    return 0;
}
