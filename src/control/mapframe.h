/* The framing of a map stream's body: u32 little-endian size, then that many bytes, each a zstd frame (or several)
 * of one JSON message. Incremental; caps on the wire size, on the decompressed size and on what the JSON costs in
 * memory. */
#ifndef TN_CONTROL_MAPFRAME_H
#define TN_CONTROL_MAPFRAME_H

#include "control/netmap_merge.h"
#include "util/buf.h"
#include <stdbool.h>
#include <stdint.h>

/* The largest netmaps known (tens of thousands of peers) are about 50 MiB of JSON, a tenth of that on the wire. */
enum {
    TN_MAPFRAME_WIRE_MAX = 64 << 20,
    TN_MAPFRAME_JSON_MAX = 256 << 20,
    TN_MAPFRAME_COST_MAX = 128 << 20, /* the parsed message without its peers, as cjson.h estimates it */
    TN_MAPFRAME_NODE_COST_MAX = 16 << 20, /* one peer, parsed; freed before the next */
    TN_MAPFRAME_WINDOW_LOG = 25,      /* zstd back reference window: Go encoders use up to 2^25 */
};

struct tn_mapframe {
    struct tn_buf buf; /* size and payload of the message that is still incomplete */
};

/* A whole message, borrowed. Non-zero stops the input with that value. */
typedef int tn_mapframe_message(void *arg, const uint8_t *payload, size_t len);

void tn_mapframe_init(struct tn_mapframe *f);
void tn_mapframe_fini(struct tn_mapframe *f);
/* 0, TN_E_TOOBIG for a message over the cap (told from its size, before it is buffered), TN_E_NOMEM, or fn's. */
int tn_mapframe_input(struct tn_mapframe *f, const uint8_t *bytes, size_t len, tn_mapframe_message *fn, void *arg);

/* Decompresses while it parses, so that the text never exists as a whole, and parses each peer alone (mapsplit.h).
 * *out is owned by the caller, on success. TN_E_MALFORMED, TN_E_TOOBIG, TN_E_LIMIT (peers), TN_E_NOMEM. */
int tn_mapframe_decode(const uint8_t *payload, size_t len, bool compressed, struct tn_netmap_message *out);

#endif
