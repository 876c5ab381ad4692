#include "node/ping.h"

#include "node/peerapi_server.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/tsmp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PENDING_MAX = 256,            /* asked by local users and control; more at once is a loop gone wild */
    TIMEOUT_US = 5 * 1000 * 1000, /* as disco's */
};

struct ping {
    struct tn_list link;
    struct tn_node *node;
    enum tn_ping_kind kind;
    struct tn_npeer *peer;
    uint8_t token[8]; /* TSMP data; ICMP: id and seq in the first four */
    uint64_t sent_us;
    void (*done)(void *arg, const struct tn_ping_answer *a);
    void *arg;
};

struct tn_pings {
    struct tn_list pending; /* oldest first */
    unsigned count;
};

static void finish(struct ping *p, const struct tn_ping_answer *a)
{
    struct tn_pings *all = p->node->pings;
    void (*done)(void *, const struct tn_ping_answer *) = p->done;
    void *arg = p->arg;
    tn_list_remove(&p->link);
    all->count--;
    free(p);
    done(arg, a);
}

static void describe_path(struct tn_node *n, const struct tn_npeer *peer, struct tn_ping_answer *a)
{
    struct tn_path_peer_status ps;
    if (!peer->path) return;
    tn_path_peer_status(n->path, peer->path, tn_node_now(), &ps);
    if (ps.direct.ip.family) tn_addrport_format(&ps.direct, a->endpoint);
    else a->derp_region = ps.derp_region;
    if (!ps.direct.ip.family) snprintf(a->derp_code, sizeof a->derp_code, "%s", ps.derp_code);
}

/* ---- disco ---- */

static void disco_done(void *arg, const struct tn_path_ping_result *r)
{
    struct ping *p = arg;
    struct tn_ping_answer a = {.err = r->err, .latency_us = r->latency_us, .derp_region = r->derp_region};
    if (r->addr.ip.family) tn_addrport_format(&r->addr, a.endpoint);
    if (r->derp_code) snprintf(a.derp_code, sizeof a.derp_code, "%s", r->derp_code);
    finish(p, &a);
}

/* ---- TSMP ---- */

static int send_tsmp(struct tn_node *n, const struct tn_ip *src, const struct tn_ip *dst, const struct tn_tsmp *m,
                     uint64_t now_us)
{
    uint8_t packet[40 + TN_TSMP_MAX], body[TN_TSMP_MAX];
    size_t len = tn_tsmp_put(body, m);
    size_t hdr = tn_ip_header_put(packet, src, dst, TN_IPPROTO_TSMP, len, 64, 0);
    memcpy(packet + hdr, body, len);
    return tn_node_send_ip(n, packet, hdr + len, now_us);
}

static int own_address(const struct tn_node *n, int family, struct tn_ip *out)
{
    for (size_t i = 0; i < n->nown; i++) {
        if (n->own[i].family != family) continue;
        *out = n->own[i];
        return 0;
    }
    return TN_E_NOTCONN;
}

static void got_pong(struct tn_node *n, struct tn_npeer *peer, const struct tn_tsmp *m, uint64_t now_us)
{
    TN_LIST_EACH(link, &n->pings->pending) {
        struct ping *p = TN_CONTAINER(link, struct ping, link);
        if (p->kind != TN_PING_TSMP || p->peer != peer || memcmp(p->token, m->ping.data, sizeof p->token) != 0) continue;
        struct tn_ping_answer a = {.latency_us = now_us - p->sent_us, .peerapi_port = m->ping.peerapi_port};
        describe_path(n, peer, &a);
        finish(p, &a);
        return;
    }
}

void tn_pings_tsmp(struct tn_node *n, struct tn_npeer *peer, const struct tn_ippkt *k, uint64_t now_us)
{
    struct tn_tsmp m;
    if (tn_tsmp_parse(k->l4, k->l4_len, &m) != 0) return;
    if (m.type == TN_TSMP_PING) {
        struct tn_tsmp pong = {.type = TN_TSMP_PONG};
        memcpy(pong.ping.data, m.ping.data, sizeof pong.ping.data);
        uint16_t port4, port6;
        tn_peerapi_server_ports(n, &port4, &port6);
        pong.ping.peerapi_port = k->dst.family == 4 ? port4 : port6;
        (void)send_tsmp(n, &k->dst, &k->src, &pong, now_us);
    } else if (m.type == TN_TSMP_PONG) {
        got_pong(n, peer, &m, now_us);
    }
}

/* ---- ICMP ---- */

static void got_echo(void *arg, const struct tn_ip *from, uint16_t id, uint16_t seq, uint64_t now_us)
{
    struct tn_node *n = arg;
    TN_LIST_EACH(link, &n->pings->pending) {
        struct ping *p = TN_CONTAINER(link, struct ping, link);
        if (p->kind != TN_PING_ICMP || tn_get_be16(p->token) != id || tn_get_be16(p->token + 2) != seq) continue;
        if (tn_node_peer_by_addr(n, from) != p->peer) continue;
        struct tn_ping_answer a = {.latency_us = now_us - p->sent_us};
        describe_path(n, p->peer, &a);
        finish(p, &a);
        return;
    }
}

/* ---- asking ---- */

static int send_ping(struct ping *p, const struct tn_ip *ip, uint64_t now_us)
{
    struct tn_node *n = p->node;
    struct tn_ip src;
    struct tn_tsmp m = {.type = TN_TSMP_PING};
    if (p->kind == TN_PING_DISCO) return tn_path_ping(n->path, p->peer->path, disco_done, p, now_us);
    if (p->kind == TN_PING_ICMP) return tn_stack_ping(n->stack, ip, tn_get_be16(p->token), tn_get_be16(p->token + 2), now_us);
    memcpy(m.ping.data, p->token, sizeof p->token);
    int err = own_address(n, ip->family, &src);
    return err ? err : send_tsmp(n, &src, ip, &m, now_us);
}

int tn_pings_ask(struct tn_node *n, enum tn_ping_kind kind, const struct tn_ip *ip, size_t size,
                 void (*done)(void *arg, const struct tn_ping_answer *a), void *arg)
{
    struct tn_npeer *peer = tn_node_peer_by_addr(n, ip);
    if (!peer || !peer->wg || !peer->path) return TN_E_NOENT;
    if (n->pings->count >= PENDING_MAX) return TN_E_LIMIT;
    struct ping *p = calloc(1, sizeof *p);
    if (!p) return TN_E_NOMEM;
    *p = (struct ping){.node = n, .kind = kind, .peer = peer, .sent_us = tn_node_now(), .done = done, .arg = arg};
    tn_rng_fill(&n->rng, p->token, sizeof p->token);
    tn_list_push_back(&n->pings->pending, &p->link);
    n->pings->count++;
    int err = send_ping(p, ip, p->sent_us);
    if (!err) return 0;
    tn_list_remove(&p->link);
    n->pings->count--;
    free(p);
    return err;
}

/* Disco pings end by path's own clock; the others by ours. */
static struct ping *oldest_timed(const struct tn_node *n)
{
    TN_LIST_EACH(link, &n->pings->pending) {
        struct ping *p = TN_CONTAINER(link, struct ping, link);
        if (p->kind != TN_PING_DISCO) return p;
    }
    return NULL;
}

void tn_pings_timeout(struct tn_node *n, uint64_t now_us)
{
    struct tn_ping_answer late = {.err = TN_E_TIMEDOUT};
    for (struct ping *p; (p = oldest_timed(n)) && p->sent_us + TIMEOUT_US <= now_us;) finish(p, &late);
}

uint64_t tn_pings_next_deadline(const struct tn_node *n)
{
    const struct ping *p = oldest_timed(n);
    return p ? p->sent_us + TIMEOUT_US : TN_NEVER;
}

void tn_pings_peer_gone(struct tn_node *n, struct tn_npeer *peer)
{
    struct tn_ping_answer gone = {.err = TN_E_NOENT};
    TN_LIST_EACH(link, &n->pings->pending) {
        struct ping *p = TN_CONTAINER(link, struct ping, link);
        if (p->peer == peer && p->kind != TN_PING_DISCO) finish(p, &gone); /* path answers for disco itself */
    }
}

/* ---- for control ---- */

struct control_ping {
    struct tn_node *node;
    uint64_t token;
    const char *type;
};

static void control_done(void *arg, const struct tn_ping_answer *a)
{
    struct control_ping *c = arg;
    tn_control_ping_result(c->node->control, c->token, c->type, a->err, (double)a->latency_us / 1e6, a->endpoint,
                           a->derp_region);
    free(c);
}

void tn_pings_for_control(struct tn_node *n, const char *types, const struct tn_ip *ip, uint64_t token)
{
    static const char *const names[] = {"disco", "TSMP", "ICMP"};
    for (int kind = 0; kind < 3; kind++) {
        if (!strstr(types, names[kind])) continue;
        struct control_ping *c = calloc(1, sizeof *c);
        if (!c) return;
        *c = (struct control_ping){.node = n, .token = token, .type = names[kind]};
        int err = tn_pings_ask(n, (enum tn_ping_kind)kind, ip, 0, control_done, c);
        if (!err) return;
        free(c);
        tn_control_ping_result(n->control, token, names[kind], err, 0, "", 0);
        return;
    }
}

int tn_pings_new(struct tn_node *n)
{
    n->pings = calloc(1, sizeof *n->pings);
    if (!n->pings) return TN_E_NOMEM;
    tn_list_init(&n->pings->pending);
    tn_stack_on_echo_reply(n->stack, got_echo, n);
    return 0;
}

void tn_pings_free(struct tn_node *n)
{
    struct tn_ping_answer canceled = {.err = TN_E_CANCELED};
    if (!n->pings) return;
    while (!tn_list_empty(&n->pings->pending)) finish(TN_CONTAINER(n->pings->pending.next, struct ping, link), &canceled);
    free(n->pings);
    n->pings = NULL;
}
