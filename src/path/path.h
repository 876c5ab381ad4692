/* How outer datagrams travel (magicsock's job): DERP clients, disco, STUN and netcheck, home region, best path.
 *
 * An engine over two injected things: a dialer for DERP connections and a UDP sender (udp.h implements it for Linux).
 * This room carries sealed WireGuard datagrams and never sees inside them. */
#ifndef TN_PATH_PATH_H
#define TN_PATH_PATH_H

#include "crypto/aead.h"
#include "crypto/keys.h"
#include "util/ip.h"
#include "util/log.h"
#include "util/rng.h"
#include "util/stream.h"
#include <jansson.h>

struct tn_path;
struct tn_path_peer;

/* Where a datagram came from. */
struct tn_path_source {
    struct tn_addrport addr;         /* family 0 when it came over DERP */
    int derp_region;                 /* 0 when it came over UDP */
    struct tn_node_public derp_key;  /* the DERP source */
};

struct tn_path_netinfo {
    int preferred_derp; /* a region we are connected to; 0: none yet */
    int8_t udp, ipv6, os_has_ipv6, mapping_varies; /* 1, 0, -1 unknown */
    bool pcp, pmp, upnp;                           /* a gateway maps a port to us by it */
    struct { char name[24]; double seconds; } latency[64]; /* "1-v4", "1-v6" */
    size_t nlatency;
};
struct tn_path_endpoint {
    struct tn_addrport addr;
    int type; /* tailcfg.EndpointType */
};

struct tn_path_ping_result {
    int err;              /* 0 or TN_E_TIMEDOUT, TN_E_NOENT ... */
    uint64_t latency_us;
    struct tn_addrport addr; /* family 0: by DERP */
    int derp_region;
    const char *derp_code; /* region code or "" */
};

/* From any of these the owner may send, reply and ping, and call nothing else of this header that changes things.
 * tn_path_free only outside of them. */
struct tn_path_callbacks {
    /* A WireGuard datagram. peer: by DERP source key or a trusted address, may be NULL. Writable, dead on return. */
    void (*receive)(void *ctx, struct tn_path_peer *peer, const struct tn_path_source *from, uint8_t *datagram,
                    size_t len, uint64_t now_us);
    /* Changed in a way that matters. */
    void (*netinfo)(void *ctx, const struct tn_path_netinfo *ni, uint64_t now_us);
    void (*endpoints)(void *ctx, const struct tn_path_endpoint *eps, size_t n, uint64_t now_us);
    /* Sends one UDP datagram from the node's socket of that family; failures are losses. NULL: no UDP (relay
     * only). */
    void (*udp_send)(void *ctx, const struct tn_addrport *to, const uint8_t *datagram, size_t len);
    /* Datagrams to the peer take another way from now on, since the one before lost them; may be NULL. */
    void (*rerouted)(void *ctx, struct tn_path_peer *peer, uint64_t now_us);
    /* For health and status; may be NULL. */
    void (*derp_state)(void *ctx, int region, bool connected, const char *text);
    /* WireGuard transport packets of segment bytes each, the last maybe shorter (udp.h), from one place. NULL:
     * receive gets them one by one. */
    void (*receive_run)(void *ctx, const struct tn_path_source *from, uint8_t *run, size_t len, size_t segment,
                        uint64_t now_us);
    /* Like udp_send for a run of them, behind all that were sent before. NULL: udp_send gets them one by one. */
    void (*udp_send_run)(void *ctx, const struct tn_addrport *to, const uint8_t *run, size_t len, size_t segment);
    /* The same for a run that has yet to be sealed. False, or NULL: it is not wanted (udp.h). */
    bool (*udp_seal_run)(void *ctx, const struct tn_addrport *to, const struct tn_aead_run *run, uint64_t now_us);
};

struct tn_path_config {
    struct tn_node_private node_key; /* DERP identity */
    struct tn_disco_private disco_key;
    struct tn_rng rng;
    const struct tn_log *log;
    const struct tn_dialer *dialer;
    struct tn_path_callbacks cb;
    void *ctx;
};

int tn_path_new(const struct tn_path_config *config, struct tn_path **out);
void tn_path_free(struct tn_path *p);
int tn_path_set_node_key(struct tn_path *p, const struct tn_node_private *key, uint64_t now_us); /* reconnects DERP */
/* tailcfg.DERPMap JSON; a malformed map keeps the old one and returns TN_E_MALFORMED. */
int tn_path_set_derp_map(struct tn_path *p, const json_t *map, uint64_t now_us);
/* Local addresses (not loopback) and the UDP ports (0: no socket of that family), for endpoint reports and the
 * families to probe. To be called before tn_path_link_changed, which drops DERP connections whose local address is
 * gone. */
void tn_path_set_local(struct tn_path *p, const struct tn_ip *addrs, size_t n, uint16_t port4, uint16_t port6,
                       uint64_t now_us);
/* The port that a gateway maps to us, by one of the protocols; family 0: none any more. */
struct tn_path_portmap {
    struct tn_addrport outside;
    bool pcp, pmp, upnp;
};
void tn_path_set_portmap(struct tn_path *p, const struct tn_path_portmap *pm, uint64_t now_us);
void tn_path_start(struct tn_path *p, uint64_t now_us); /* netcheck, then the home region */
void tn_path_link_changed(struct tn_path *p, uint64_t now_us);
/* Tell whether control is reachable: the home region does not move while it is not. */
void tn_path_set_control_up(struct tn_path *p, bool up);

int tn_path_peer_add(struct tn_path *p, const struct tn_node_public *key, void *arg, struct tn_path_peer **out);
void tn_path_peer_remove(struct tn_path *p, struct tn_path_peer *peer);
int tn_path_peer_update(struct tn_path *p, struct tn_path_peer *peer, const struct tn_disco_public *disco,
                        int home_derp, const struct tn_addrport *endpoints, size_t n, uint64_t now_us);
void *tn_path_peer_arg(const struct tn_path_peer *peer);

/* Sends an outer datagram by the best path known. Losses are silent. */
void tn_path_send(struct tn_path *p, struct tn_path_peer *peer, const uint8_t *datagram, size_t len, uint64_t now_us);
/* A run of them: segment bytes each, the last maybe shorter. */
void tn_path_send_run(struct tn_path *p, struct tn_path_peer *peer, const uint8_t *run, size_t len, size_t segment,
                      uint64_t now_us);
/* Gives it to who seals and sends, if it goes by UDP alone and that wants it; else false. */
bool tn_path_send_unsealed(struct tn_path *p, struct tn_path_peer *peer, const struct tn_aead_run *run, uint64_t now_us);
/* The system said that a datagram can't be sent there (a negative errno): a path that leads there is given up, unless
 * it is only a loss. May be called from udp_send. */
void tn_path_udp_failed(struct tn_path *p, const struct tn_addrport *to, int err, uint64_t now_us);
/* Sends back to where something came from (cookie replies). */
void tn_path_reply(struct tn_path *p, const struct tn_path_source *to, const uint8_t *datagram, size_t len,
                   uint64_t now_us);
/* Disco ping by the way data takes, and by every other while no direct one is trusted. On 0, done is called once
 * later: with the first answer, TN_E_TIMEDOUT after 5 s, or TN_E_CANCELED when the peer goes or gets another disco key;
 * never after tn_path_free. A negative return sent nothing and done is not called: TN_E_NOENT (no disco key known),
 * TN_E_HOSTUNREACH (no way), TN_E_LIMIT (64 under way). */
int tn_path_ping(struct tn_path *p, struct tn_path_peer *peer,
                 void (*done)(void *arg, const struct tn_path_ping_result *r),
                 void *arg, uint64_t now_us);

/* A UDP datagram that arrived: STUN, disco or WireGuard. */
void tn_path_udp_input(struct tn_path *p, const struct tn_addrport *from, uint8_t *datagram, size_t len,
                       uint64_t now_us);
/* A run of datagrams from one address (udp.h); segment > 0 unless len is 0. */
void tn_path_udp_input_run(struct tn_path *p, const struct tn_addrport *from, uint8_t *run, size_t len, size_t segment,
                           uint64_t now_us);
void tn_path_timeout(struct tn_path *p, uint64_t now_us);
uint64_t tn_path_next_deadline(const struct tn_path *p);

/* What the last look at the network found. */
struct tn_path_report {
    bool udp, ipv4, ipv6, os_has_ipv6;
    int8_t mapping_varies;              /* by destination: 1, 0, -1 unknown */
    struct tn_addrport global4, global6; /* as a STUN server saw us; family 0: unknown */
    struct tn_path_portmap portmap;
    int home;                           /* region, 0: none */
    struct tn_path_region_latency {
        int region;
        const char *code;
        uint32_t v4_us, v6_us;          /* 0: no answer */
    } *regions;                         /* those that answered */
    size_t nregions;
};
/* Looks at the network afresh, at every region. On 0, done is called once with what was found (borrowed; dead on return;
 * without UDP maybe before this returns), or with NULL by tn_path_free. TN_E_NOTCONN (no DERP map yet), TN_E_LIMIT (16
 * wait already), TN_E_NOMEM. */
int tn_path_netcheck(struct tn_path *p, void (*done)(void *arg, const struct tn_path_report *r, uint64_t now_us),
                     void *arg, uint64_t now_us);

struct tn_path_peer_status {
    bool active;               /* something was sent to it in the last 45 s */
    struct tn_addrport direct; /* the address that has lately answered; family 0: relayed */
    int derp_region;           /* the region our datagrams to it go through; 0 none */
    const char *derp_code;     /* "" if none */
};
void tn_path_peer_status(const struct tn_path *p, const struct tn_path_peer *peer, uint64_t now_us,
                         struct tn_path_peer_status *out);
int tn_path_home_derp(const struct tn_path *p);               /* 0: none */
bool tn_path_home_connected(const struct tn_path *p);
const char *tn_path_region_code(const struct tn_path *p, int region); /* "" unknown */

#endif
