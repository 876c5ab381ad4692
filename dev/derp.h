/* The DERP server as an engine: who is connected under which key, and whose packets go to whom.
 *
 * Behaviour of derp/derpserver/derpserver.go, v1.102.5: ServerKey first; ClientInfo must open with the client's key;
 * then ServerInfo. SendPacket becomes RecvPacket at the destination's queue of 32, disco packets in a queue of their
 * own, the oldest dropped when full. When a key has several connections, the newest gets the traffic, or whichever
 * was heard last. PeerGone "disconnected" goes to everybody who had packets from a key that left; "not here"
 * answers disco packets to unknown keys, at most 3 at once and one a second. Mesh frames are refused: there is one
 * server. */
#ifndef TN_DEV_DERP_H
#define TN_DEV_DERP_H

#include "crypto/keys.h"
#include "dev/timer.h"
#include "util/rng.h"

enum {
    TN_DEV_DERP_QUEUE = 32,          /* packets per client and kind */
    TN_DEV_DERP_KEEP_ALIVE = 60,     /* seconds */
    TN_DEV_DERP_GREET_TIME = 10,     /* seconds from the connection's start to a good ClientInfo */
    TN_DEV_DERP_SOURCES_MAX = 1024,  /* keys per client whose leaving it is told */
    TN_DEV_DERP_CONTROL_MAX = 64,    /* PeerGone and Pong frames queued */
};

struct tn_dev_derp;
struct tn_dev_derp_client;

struct tn_dev_derp_config {
    struct tn_node_private key; /* copied, wiped on free */
    struct tn_rng rng;
    /* Who may connect. NULL: anybody with a well-formed greeting. */
    bool (*admit)(void *ctx, const struct tn_node_public *key);
    void *ctx;
    void (*wake)(void *conn);   /* the client has frames to send */
    void (*expire)(void *conn); /* no greeting in time: close it */
};

struct tn_dev_derp_frame { /* header included; freed by who took it */
    struct tn_dev_derp_frame *next;
    size_t len;
    uint8_t bytes[];
};

int tn_dev_derp_new(const struct tn_dev_derp_config *config, struct tn_dev_derp **out);
void tn_dev_derp_free(struct tn_dev_derp *d); /* after all clients */

/* A connection whose HTTP part is over; the ServerKey frame waits at once. */
int tn_dev_derp_client_new(struct tn_dev_derp *d, void *conn, struct tn_dev_now now, struct tn_dev_derp_client **out);
void tn_dev_derp_client_free(struct tn_dev_derp_client *c);
/* 0, or why the connection has to be closed: TN_E_PROTO, TN_E_TOOBIG, TN_E_CRYPTO, TN_E_POLICY (not admitted),
 * TN_E_NOMEM. */
int tn_dev_derp_input(struct tn_dev_derp_client *c, const void *bytes, size_t len, struct tn_dev_now now);
struct tn_dev_derp_frame *tn_dev_derp_take(struct tn_dev_derp_client *c); /* NULL: nothing to send */

size_t tn_dev_derp_clients(const struct tn_dev_derp *d); /* greeted */
void tn_dev_derp_timeout(struct tn_dev_derp *d, struct tn_dev_now now);
uint64_t tn_dev_derp_next_deadline(const struct tn_dev_derp *d);

#endif
