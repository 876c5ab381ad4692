/* The dev control server behind Noise and HTTP/2: /machine/register, /machine/map and their small relatives.
 *
 * An engine: requests and time come in, replies go out through reply.h, saving is a hook. Strict by intention:
 * capability versions below TN_DEV_CAPVER_MIN, missing fields, unknown or foreign node keys are refused as the real
 * servers refuse them. Facts: tailcfg/tailcfg.go, control/controlclient/{direct,map}.go and
 * tstest/integration/testcontrol of tailscale.com v1.102.5; juanfont/headscale hscontrol/{auth,noise}.go. */
#ifndef TN_DEV_CTL_H
#define TN_DEV_CTL_H

#include "dev/maps.h"
#include "dev/reply.h"
#include "dev/timer.h"
#include "util/log.h"
#include "util/rng.h"
#include "util/secret.h"

enum {
    TN_DEV_CAPVER_MIN = 113,          /* headscale's floor in 2026; ours is 119 */
    TN_DEV_BODY_MAX = 1 << 20,        /* request bodies; the real server's limit */
    TN_DEV_PENDING_MAX = 256,         /* logins waiting for a visit */
    TN_DEV_WAITERS_MAX = 8,           /* followup polls held per login */
    TN_DEV_STREAM_BACKLOG = 256 * 1024, /* bytes a slow client may leave unread before deltas wait for it */
};

struct tn_dev_ctl;

struct tn_dev_ctl_config {
    struct tn_dev_registry *registry;        /* borrowed */
    const struct tn_dev_tailnet *tailnet;    /* borrowed */
    const char *base_url;                    /* copied */
    const struct tn_secret *auth_key;        /* borrowed */
    unsigned ephemeral_s;
    struct tn_rng rng;
    const struct tn_log *log;
    int (*save)(void *ctx); /* writes the registry now; 0 or a code */
    void *ctx;
};

struct tn_dev_request {
    struct tn_machine_public machine; /* who speaks, by Noise */
    const char *method, *path;        /* path with its query */
    const uint8_t *body;
    size_t len;
};

int tn_dev_ctl_new(const struct tn_dev_ctl_config *config, struct tn_dev_now now, struct tn_dev_ctl **out);
/* Every reply must be gone before. */
void tn_dev_ctl_free(struct tn_dev_ctl *c);
void tn_dev_ctl_request(struct tn_dev_ctl *c, const struct tn_dev_request *req, struct tn_dev_reply *reply,
                        struct tn_dev_now now);
/* A person visits a login URL's path. 0 with the node's name, TN_E_NOENT for an unknown or used token, or why the
 * login failed. */
int tn_dev_ctl_visit(struct tn_dev_ctl *c, const char *path, char name[TN_DEV_LABEL_MAX + 1], struct tn_dev_now now);
/* Is this key a node that may use our DERP server? */
bool tn_dev_ctl_admits(const struct tn_dev_ctl *c, const struct tn_node_public *key, struct tn_dev_now now);
void tn_dev_ctl_timeout(struct tn_dev_ctl *c, struct tn_dev_now now);
uint64_t tn_dev_ctl_next_deadline(const struct tn_dev_ctl *c);
/* Is something not on disk yet? Cleared by a successful save. */
bool tn_dev_ctl_dirty(const struct tn_dev_ctl *c);

/* Something in the registry that nodes hear of has changed: deltas go out soon. */
void tn_dev_changed(struct tn_dev_ctl *c, struct tn_dev_now now);

/* A request to a node through its map stream (PingRequest of type c2n): raw is a whole HTTP/1.1 request. The reply
 * gets 200 and the node's raw HTTP response, 404 when the node has no stream, 504 after 30 s. */
void tn_dev_ctl_c2n(struct tn_dev_ctl *c, struct tn_dev_node *n, const void *raw, size_t len,
                    struct tn_dev_reply *reply, struct tn_dev_now now);
/* Asks the node to answer over Noise (the HEAD ping that headscale relies on), or with types ("disco", "TSMP",
 * "ICMP", "peerapi") and ip to ping another; the reply gets 200 and the PingResponse, which is empty for the HEAD
 * ping. */
void tn_dev_ctl_ping(struct tn_dev_ctl *c, struct tn_dev_node *n, const char *types, const char *ip,
                     struct tn_dev_reply *reply, struct tn_dev_now now);
/* Ends a node's key now, as an administrator would. */
void tn_dev_ctl_expire(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now);
void tn_dev_ctl_remove(struct tn_dev_ctl *c, struct tn_dev_node *n, struct tn_dev_now now);

#endif
