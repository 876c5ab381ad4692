/* All DERP connections of a node and the policy of magicsock/derp.go: the home region is always connected, others
 * are dialed to send and closed after 60 s without sending, and a peer is reached where it was last heard when its
 * own home is not connected. */
#ifndef TN_PATH_DERP_SET_H
#define TN_PATH_DERP_SET_H

#include "path/derp_client.h"

struct tn_derp_set;

/* A connection on which a peer was heard. Zero: none. Stale once that connection is gone. */
struct tn_derp_route {
    int region;
    uint64_t generation;
};

struct tn_derp_set_callbacks {
    /* A run, as of derp_client.h. May send, nothing else. */
    void (*packets)(void *ctx, struct tn_derp_route route, const struct tn_node_public *from, uint8_t *run, size_t len,
                    size_t segment, uint64_t now_us);
    void (*gone)(void *ctx, int region, const struct tn_node_public *peer);
    void (*state)(void *ctx, int region, int err, const char *text, uint64_t now_us); /* err 0: up */
    void (*health)(void *ctx, int region, const char *text);
};

struct tn_derp_set_config {
    const struct tn_node_private *key; /* borrowed as in derp_client.h */
    const struct tn_node_public *public_key;
    const struct tn_dialer *dialer;
    const struct tn_rng *rng;
    const struct tn_log *log;
    const struct tn_derp_set_callbacks *cb;
    void *ctx;
};

int tn_derp_set_new(const struct tn_derp_set_config *config, struct tn_derp_set **out);
void tn_derp_set_free(struct tn_derp_set *s);
/* Borrows map until the next call; the map before must live until this returns. Connections of regions that
 * changed or vanished are closed; the home, if it is one of them, is connected anew (or is 0 when gone). */
void tn_derp_set_map(struct tn_derp_set *s, const struct tn_derp_map *map, uint64_t now_us);
/* After the keys behind the config changed: every connection starts over. */
void tn_derp_set_rekeyed(struct tn_derp_set *s, uint64_t now_us);
void tn_derp_set_home(struct tn_derp_set *s, int region, uint64_t now_us); /* 0: none */
/* A region besides the home that stays connected: the one peers are still told to find us at. 0: none. */
void tn_derp_set_pin(struct tn_derp_set *s, int region);
int tn_derp_set_home_region(const struct tn_derp_set *s);
void tn_derp_set_prefer6(struct tn_derp_set *s, bool prefer6);
void tn_derp_set_check(struct tn_derp_set *s, const struct tn_ip *addrs, size_t naddrs, uint64_t now_us);

/* Which region a datagram to a peer would take: its home if connected, else where it was heard, else its home,
 * else our own; 0 when there is none. */
int tn_derp_set_choose(const struct tn_derp_set *s, int peer_home, struct tn_derp_route route);
/* Sends through a region, dialing it if need be. Unknown regions lose the datagram. */
void tn_derp_set_send(struct tn_derp_set *s, int region, const struct tn_node_public *to, const uint8_t *packet,
                      size_t len, uint64_t now_us);

bool tn_derp_set_up(const struct tn_derp_set *s, int region);
uint64_t tn_derp_set_heard_us(const struct tn_derp_set *s, int region); /* 0: never, or not connected */
unsigned tn_derp_set_failures(const struct tn_derp_set *s, int region);
struct tn_derp_client *tn_derp_set_client(const struct tn_derp_set *s, int region);

void tn_derp_set_timeout(struct tn_derp_set *s, uint64_t now_us);
uint64_t tn_derp_set_next_deadline(const struct tn_derp_set *s);

#endif
