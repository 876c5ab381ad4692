/* The control client (ts2021): key fetch, Noise, HTTP/2, register, map poll, lite updates, pings and c2n.
 *
 * An engine: connections come from the injected dialer, time is passed in, results go to callbacks. Knows nothing
 * of how packets move and nothing of egress. PROTOCOL: control/controlclient/{direct,auto,map}.go,
 * control/controlhttp. */
#ifndef TN_CONTROL_CONTROL_H
#define TN_CONTROL_CONTROL_H

#include "control/netmap.h"
#include "util/buf.h"
#include "util/log.h"
#include "util/rng.h"
#include "util/secret.h"
#include "util/stream.h"

enum { TN_CAPVER = 119 }; /* one number for Noise, /key, register and map; raise with what PROTOCOL 2.6 asks */

enum tn_control_state {
    TN_CONTROL_STOPPED,
    TN_CONTROL_CONNECTING,      /* reaching the server, or registering */
    TN_CONTROL_NEEDS_LOGIN,     /* no usable key and no auth key: waiting at an auth URL, or for tn_control_login */
    TN_CONTROL_NEEDS_APPROVAL,  /* registered, Node.MachineAuthorized is still false */
    TN_CONTROL_RUNNING,         /* a netmap with ourselves in it has arrived; stays through lost connections */
    TN_CONTROL_FAILED,          /* the server said no for good (Error in a register response): see error text */
};

/* What survives a restart; the node stores it. node is set from the first attempt to register on, since that
 * attempt may use up an auth key. */
struct tn_control_identity {
    struct tn_machine_private machine;
    struct tn_node_private node;     /* zero: never tried to register */
    /* zero but during a rotation: then it is the key still in use, node the one to come */
    struct tn_node_private old_node;
};
/* The key that the data plane runs on (WireGuard, DERP): a rotation counts when the server has taken the new key. */
static inline const struct tn_node_private *tn_control_identity_key(const struct tn_control_identity *id)
{
    return tn_key_is_zero(id->old_node.b) ? &id->node : &id->old_node;
}

/* What we tell of ourselves. Strings and arrays are copied by tn_control_set_host. */
struct tn_control_host {
    const char *hostname, *os_version, *machine, *ipn_version, *backend_log_id, *app; /* app may be NULL */
    const struct tn_prefix *routable_ips;
    size_t nroutable_ips;
    const char *const *request_tags;
    size_t nrequest_tags;
    uint16_t peerapi4, peerapi6; /* 0: not served */
    bool peerapi_dns_proxy, userspace, shields_up;
    const char *exit_node_id; /* StableID in use, or NULL */
};
/* tailcfg.NetInfo; only changes that matter are sent. */
struct tn_control_netinfo {
    int preferred_derp; /* 0: none yet */
    int8_t mapping_varies_by_dest, working_ipv6, os_has_ipv6, working_udp, upnp, pmp, pcp; /* 1, 0, -1 unknown */
    struct { char name[24]; double seconds; } latency[64]; /* "1-v4" */
    size_t nlatency;
};
struct tn_control_endpoint {
    struct tn_addrport addr;
    int type; /* tailcfg.EndpointType: 0 unknown, 1 local, 2 STUN, 3 portmapped, 4 STUN4LocalPort, 5 explicit */
};

struct tn_control_callbacks {
    /* Callbacks may call back into the client (but not free it). state: also when only the text changed; text is
     * an error or a hint, never NULL. auth_url: to be shown to a person; also for other pages the server wants
     * seen. */
    void (*state)(void *ctx, enum tn_control_state state, const char *text);
    void (*auth_url)(void *ctx, const char *url);
    /* Keys changed and must be on disk before they are used: returns 0 or a code, which fails the login. Called
     * before a new key is sent, again when it has become the one in use (or was given up), and with zero keys
     * after a logout. */
    int (*save)(void *ctx, const struct tn_control_identity *id);
    /* Per peer, as deltas come: new or changed (one callback after the whole response), gone (readable in the call). */
    void (*peer)(void *ctx, const struct tn_netnode *peer, uint64_t now_us);
    void (*peer_gone)(void *ctx, const struct tn_netnode *peer, uint64_t now_us);
    /* After all of one response was merged: bits of enum tn_netmap_change. */
    void (*netmap)(void *ctx, const struct tn_netmap *m, unsigned changes, uint64_t now_us);
    /* PingRequest with Types (disco, TSMP, ICMP, peerapi): the node pings and answers with tn_control_ping_result.
     * May be NULL. */
    void (*ping)(void *ctx, const char *types, const struct tn_ip *ip, uint64_t token);
    /* c2n beyond /echo: raw HTTP request in, full HTTP response appended to out; return false for "not handled"
     * (400). */
    bool (*c2n)(void *ctx, const char *method, const char *path, const void *body, size_t len, struct tn_buf *out);
    int64_t (*wallclock)(void *ctx); /* Unix seconds */
};

struct tn_control_config {
    const char *server_url; /* http:// or https:// */
    struct tn_control_identity identity; /* machine key must be set */
    const struct tn_secret *auth_key;    /* borrowed for the client's life; NULL: interactive */
    bool ephemeral;
    struct tn_disco_public disco;
    struct tn_rng rng;
    const struct tn_log *log;
    const struct tn_dialer *dialer;
    struct tn_control_callbacks cb;
    void *ctx;
};

struct tn_control;

/* TN_E_INVAL for a URL that is none. */
int tn_control_new(const struct tn_control_config *config, struct tn_control **out);
void tn_control_free(struct tn_control *c); /* closes its streams at once; not from a callback */
int tn_control_set_host(struct tn_control *c, const struct tn_control_host *host, uint64_t now_us);
void tn_control_set_netinfo(struct tn_control *c, const struct tn_control_netinfo *ni, uint64_t now_us);
void tn_control_set_endpoints(struct tn_control *c, const struct tn_control_endpoint *eps, size_t n, uint64_t now_us);
void tn_control_start(struct tn_control *c, uint64_t now_us);
/* Start (or force) an interactive login: a fresh auth URL will come. With a key in use this is a renewal: the old
 * key works until a person has finished, and on if it fails. */
void tn_control_login(struct tn_control *c, uint64_t now_us);
/* Registers with Expiry in the past; done(ctx, err) once answered or after 5 s, from inside the client (free it
 * later). The identity's node key is dropped and saved whatever the answer; the netmap is empty then. */
void tn_control_logout(struct tn_control *c, void (*done)(void *ctx, int err), void *ctx, uint64_t now_us);
/* The network changed or came back: drop the connection and try now. */
void tn_control_reconnect(struct tn_control *c, uint64_t now_us);
void tn_control_ping_result(struct tn_control *c, uint64_t token, const char *type, int err_or_0, double latency_s,
                            const char *endpoint, int derp_region);
const struct tn_netmap *tn_control_netmap(const struct tn_control *c);
enum tn_control_state tn_control_state(const struct tn_control *c);
const char *tn_control_auth_url(const struct tn_control *c); /* NULL: none pending */
bool tn_control_connected(const struct tn_control *c);       /* a map poll is being answered right now */
void tn_control_timeout(struct tn_control *c, uint64_t now_us);
uint64_t tn_control_next_deadline(const struct tn_control *c);

#endif
