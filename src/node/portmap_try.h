/* One attempt to have a gateway map a UDP port of ours, on a thread of its own: the libraries block. */
#ifndef TN_NODE_PORTMAP_TRY_H
#define TN_NODE_PORTMAP_TRY_H

#include "util/ip.h"
#include "util/rng.h"
#include "wire/pcp.h"

enum tn_portmap_kind { TN_PORTMAP_NONE, TN_PORTMAP_PCP, TN_PORTMAP_PMP, TN_PORTMAP_UPNP };

struct tn_portmap_question {
    struct tn_ip gateway, local;             /* IPv4 */
    uint16_t port, wanted;                   /* ours; the outside one we had, 0: any */
    uint8_t nonce[TN_PCP_NONCE_LEN];
    uint32_t mark;                           /* of the node's own sockets; 0: none */
    bool tunneled;                           /* without it, even the gateway is reached through the tunnel */
    enum tn_portmap_kind first;              /* what worked the last time: asked alone, the others after it */
};
struct tn_portmap_answer {
    enum tn_portmap_kind kind;               /* NONE: no gateway helped */
    struct tn_addrport outside;
    uint32_t lifetime_s;
};

struct tn_portmap_try;

/* 0, or TN_E_NOMEM, TN_E_MFILE, TN_E_AGAIN (no thread to be had). */
int tn_portmap_try_start(const struct tn_portmap_question *q, struct tn_portmap_try **out);
int tn_portmap_try_fd(const struct tn_portmap_try *t); /* readable when the answer is there; owned by the attempt */
bool tn_portmap_try_answer(const struct tn_portmap_try *t, struct tn_portmap_answer *out); /* false: not there yet */
/* Never blocks: a thread still at it frees the rest when it is done. */
void tn_portmap_try_free(struct tn_portmap_try *t);

/* Tells the gateway that a PCP or NAT-PMP mapping is no longer needed: one datagram, without waiting. */
void tn_portmap_release(const struct tn_portmap_question *q, const struct tn_portmap_answer *a);

#endif
