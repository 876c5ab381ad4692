/* The connection to one DERP region: dials its nodes in order, upgrades, keeps the connection up by reconnecting with
 * backoff until it is freed. Bytes come and go through a struct tn_stream; all times are arguments. */
#ifndef TN_PATH_DERP_CLIENT_H
#define TN_PATH_DERP_CLIENT_H

#include "crypto/keys.h"
#include "path/derpmap.h"
#include "util/log.h"
#include "util/rng.h"

/* Datagrams waiting while the stream is not ready; the oldest is dropped (Go's depth). */
enum { TN_DERP_QUEUE_MAX = 32 };

struct tn_derp_client;

struct tn_derp_client_callbacks {
    /* One or more datagrams in a row from one peer, of segment bytes each, the last maybe shorter. May send on any client,
     * but not free or reconnect this one. The bytes are writable and dead on return. */
    void (*packets)(void *ctx, struct tn_derp_client *c, const struct tn_node_public *from, uint8_t *run, size_t len,
                    size_t segment, uint64_t now_us);
    void (*gone)(void *ctx, struct tn_derp_client *c, const struct tn_node_public *peer, uint8_t reason);
    /* Came up (err 0), or was lost or could not be made (err). text: the server's or our word on it, "" if none. */
    void (*state)(void *ctx, struct tn_derp_client *c, int err, const char *text, uint64_t now_us);
    void (*health)(void *ctx, struct tn_derp_client *c, const char *text); /* "" clears */
};

struct tn_derp_client_config {
    const struct tn_node_private *key; /* borrowed, as are the next four; they outlive the client */
    const struct tn_node_public *public_key;
    const struct tn_dialer *dialer;
    const struct tn_rng *rng;
    const struct tn_log *log;
    const struct tn_derp_client_callbacks *cb;
    void *ctx;
};

int tn_derp_client_new(const struct tn_derp_client_config *config, const struct tn_derp_region *region,
                       struct tn_derp_client **out);
void tn_derp_client_free(struct tn_derp_client *c);
/* The region's definition moved in memory but is the same. */
void tn_derp_client_set_region(struct tn_derp_client *c, const struct tn_derp_region *region);
const struct tn_derp_region *tn_derp_client_region(const struct tn_derp_client *c);

/* The first connect begins at the next timeout, as does each reconnect. */
void tn_derp_client_timeout(struct tn_derp_client *c, uint64_t now_us);
uint64_t tn_derp_client_next_deadline(const struct tn_derp_client *c);
/* Drops the connection and connects anew at once. */
void tn_derp_client_reconnect(struct tn_derp_client *c, uint64_t now_us);
/* Whether the connection still works, for a changed link: it is replaced when the local address is not among
 * addrs, else pinged and replaced when no answer comes within 3 s. */
void tn_derp_client_check(struct tn_derp_client *c, const struct tn_ip *addrs, size_t naddrs, uint64_t now_us);

void tn_derp_client_set_home(struct tn_derp_client *c, bool home); /* NotePreferred now and after each reconnect */
void tn_derp_client_set_prefer6(struct tn_derp_client *c, bool prefer6);
/* Queues while connecting or while the stream has a backlog; over the server's rate the datagram is dropped. */
void tn_derp_client_send(struct tn_derp_client *c, const struct tn_node_public *to, const uint8_t *packet, size_t len,
                         uint64_t now_us);

bool tn_derp_client_up(const struct tn_derp_client *c);
uint64_t tn_derp_client_generation(const struct tn_derp_client *c); /* another value for each connection */
uint64_t tn_derp_client_heard_us(const struct tn_derp_client *c);   /* the last frame; 0: never */
unsigned tn_derp_client_failures(const struct tn_derp_client *c);   /* connects failed since it was last up */
/* The node the connection leads to and its address; false when not connected. */
bool tn_derp_client_remote(struct tn_derp_client *c, const struct tn_derp_node **node, struct tn_addrport *addr);

#endif
