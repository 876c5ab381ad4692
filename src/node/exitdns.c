/* One lookup is one or two HTTP requests to the exit node's PeerAPI: A first, AAAA when there was no A. Each request is a
 * connection of its own in our stack: lookups are rare and the exit node caches. */
#include "node/exitdns.h"

#include "node/dial.h"
#include "util/buf.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/dns.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOOKUPS_MAX = 256,
    REPLY_MAX = 16 * 1024,         /* head and a DNS message of any honest size */
    HEAD_MAX = 4096,
    TRY_US = 5 * 1000 * 1000,      /* per request: PeerAPI's own limit (ipn/ipnlocal/peerapi.go) */
    QUERY_MAX = 1024,              /* with whatever EDNS has */
    TYPE_A = 1,
    TYPE_AAAA = 28,
    RECORDS_MAX = 256,             /* read at most; more is an attempt to make us walk */
};

struct tn_exitdns_lookup {
    struct tn_list link;
    struct tn_node *node;
    struct tn_tcp *tcp;
    uint8_t query[QUERY_MAX];
    size_t query_len;
    uint16_t type;
    struct tn_buf reply;
    uint64_t deadline_us;
    char *host;    /* NULL: somebody else's question, whose ID is asked_id */
    uint16_t asked_id;
    void (*done)(void *arg, int err, const struct tn_ip *ip);
    void (*answered)(void *arg, int err, const uint8_t *bytes, size_t len);
    void *arg;
};

struct tn_exitdns {
    struct tn_list lookups;
    unsigned count;
};

static void forget(struct tn_exitdns_lookup *l)
{
    tn_list_remove(&l->link);
    l->node->exitdns->count--;
    if (l->tcp) tn_tcp_abort(l->tcp, tn_node_now());
    tn_buf_fini(&l->reply);
    free(l->host);
    free(l);
}

static void finish(struct tn_exitdns_lookup *l, int err, const struct tn_ip *ip)
{
    void (*done)(void *, int, const struct tn_ip *) = l->done;
    void (*answered)(void *, int, const uint8_t *, size_t) = l->answered;
    void *arg = l->arg;
    forget(l);
    if (done) done(arg, err, ip);
    else answered(arg, err, NULL, 0);
}

/* ---- DNS messages ---- */

static int put_name(struct tn_wr *w, const char *host)
{
    size_t total = 1;
    while (*host) {
        size_t label = strcspn(host, ".");
        if (label == 0 || label > 63 || (total += label + 1) > 255) return TN_E_INVAL;
        tn_wr_u8(w, (uint8_t)label);
        tn_wr_bytes(w, host, label);
        host += label;
        if (*host == '.') host++;
    }
    tn_wr_u8(w, 0);
    return 0;
}

static int make_query(struct tn_exitdns_lookup *l)
{
    struct tn_wr w = tn_wr_init(l->query, sizeof l->query);
    tn_wr_be16(&w, 0); /* DoH wants 0, for caches (RFC 8484 section 4.1) */
    tn_wr_be16(&w, TN_DNSMSG_RD);
    tn_wr_be16(&w, 1);
    tn_wr_zero(&w, 6);
    int err = put_name(&w, l->host);
    tn_wr_be16(&w, l->type);
    tn_wr_be16(&w, 1);
    l->query_len = tn_wr_len(&w);
    return err ? err : tn_wr_ok(&w) ? 0 : TN_E_INVAL;
}

static void skip_name(struct tn_rd *r)
{
    for (;;) {
        uint8_t n = tn_rd_u8(r);
        if (!tn_rd_ok(r) || n == 0) return;
        if (n >= 0xc0) { /* a pointer ends the name; where it leads does not matter here */
            tn_rd_take(r, 1);
            return;
        }
        tn_rd_take(r, n);
    }
}

/* The first address record of the wanted type; owner names are the resolver's business (CNAME chains). */
static int find_address(const struct tn_exitdns_lookup *l, const uint8_t *msg, size_t len, struct tn_ip *out)
{
    struct tn_dnsmsg answer, query;
    if (tn_dnsmsg_parse(msg, len, &answer) != 0 || tn_dnsmsg_parse(l->query, l->query_len, &query) != 0) return TN_E_DNS;
    if (!tn_dnsmsg_answers(&answer, &query) || (answer.flags & 15) != 0) return TN_E_DNS;
    struct tn_rd r = tn_rd_init(msg + answer.question_end, len - answer.question_end);
    for (unsigned i = 0; i < answer.answers && i < RECORDS_MAX && tn_rd_ok(&r); i++) {
        skip_name(&r);
        uint16_t type = tn_rd_be16(&r), class = tn_rd_be16(&r);
        tn_rd_be32(&r);
        struct tn_rd data = tn_rd_sub(&r, tn_rd_be16(&r));
        size_t want = l->type == TYPE_A ? 4 : 16;
        if (type != l->type || class != 1 || tn_rd_left(&data) != want) continue;
        *out = tn_ip_from_bytes(data.p, l->type == TYPE_A ? 4 : 6);
        return 0;
    }
    return TN_E_DNS;
}

/* ---- HTTP to the exit node ---- */

static int start_try(struct tn_exitdns_lookup *l, uint16_t type);

static void pass_on(struct tn_exitdns_lookup *l, uint8_t *body, size_t len)
{
    struct tn_dnsmsg answer, query;
    void (*answered)(void *, int, const uint8_t *, size_t) = l->answered;
    void *arg = l->arg;
    if (tn_dnsmsg_parse(body, len, &answer) != 0 || tn_dnsmsg_parse(l->query, l->query_len, &query) != 0 ||
        !tn_dnsmsg_answers(&answer, &query)) {
        finish(l, TN_E_DNS, NULL);
        return;
    }
    tn_put_be16(body, l->asked_id);
    struct tn_buf reply = l->reply; /* outlives the lookup */
    tn_buf_init(&l->reply, REPLY_MAX);
    forget(l);
    answered(arg, 0, body, len);
    tn_buf_fini(&reply);
}

static void judge(struct tn_exitdns_lookup *l, uint8_t *body, size_t len)
{
    struct tn_ip ip;
    if (l->answered) {
        pass_on(l, body, len);
        return;
    }
    int err = find_address(l, body, len, &ip);
    if (!err) {
        finish(l, 0, &ip);
        return;
    }
    if (l->type == TYPE_A) err = start_try(l, TYPE_AAAA);
    if (err) finish(l, err, NULL);
}

/* Looks whether the response is complete. */
static void examine(struct tn_exitdns_lookup *l, bool ended)
{
    struct tn_http1_head head;
    long n = tn_http1_parse_response(tn_buf_data(&l->reply), tn_buf_len(&l->reply), HEAD_MAX, &head);
    if (n == 0 && !ended) return;
    int64_t want = n > 0 ? tn_http1_content_length(&head) : -1;
    if (n <= 0 || head.status != 200 || want < 0 || want > TN_DNSMSG_MAX) {
        finish(l, TN_E_DNS, NULL);
        return;
    }
    size_t have = tn_buf_len(&l->reply) - (size_t)n;
    if (have < (size_t)want && !ended) return;
    if (have < (size_t)want) finish(l, TN_E_DNS, NULL);
    else judge(l, tn_buf_data(&l->reply) + n, (size_t)want);
}

static void flow_open(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct tn_exitdns_lookup *l = arg;
    char head[256], host[TN_ADDRPORT_STRLEN];
    struct tn_addrport to = tn_tcp_remote(c);
    int len = snprintf(head, sizeof head,
                       "POST /dns-query HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
                       "Content-Type: application/dns-message\r\nAccept: application/dns-message\r\nContent-Length: %zu\r\n\r\n",
                       tn_addrport_format(&to, host), l->query_len);
    bool sent = tn_tcp_write(c, head, (size_t)len, now_us) == len &&
                tn_tcp_write(c, l->query, l->query_len, now_us) == (long)l->query_len;
    if (!sent) finish(l, TN_E_NOSPC, NULL);
}

static void flow_readable(void *arg, struct tn_tcp *c, uint64_t now_us)
{
    struct tn_exitdns_lookup *l = arg;
    struct iovec iov[4];
    for (int n; (n = tn_tcp_peek(c, iov, 4)) > 0;) {
        size_t taken = 0;
        for (int i = 0; i < n; i++) {
            if (tn_buf_append(&l->reply, iov[i].iov_base, iov[i].iov_len) != 0) {
                finish(l, TN_E_TOOBIG, NULL);
                return;
            }
            taken += iov[i].iov_len;
        }
        tn_tcp_consume(c, taken, now_us);
    }
    examine(l, tn_tcp_eof(c));
}

static void flow_closed(void *arg, int err, uint64_t now_us)
{
    struct tn_exitdns_lookup *l = arg;
    l->tcp = NULL;
    finish(l, err ? err : TN_E_DNS, NULL);
}

static const struct tn_tcp_events flow_events = {
    .on_open = flow_open, .on_readable = flow_readable, .on_close = flow_closed};

/* The exit node's PeerAPI address, IPv4 first. */
static int service_of(struct tn_node *n, struct tn_addrport *out)
{
    struct tn_npeer *p = n->exit_peer ? tn_node_peer_by_id(n, n->exit_peer) : NULL;
    const struct tn_netnode *node = p ? tn_node_netnode(n, p) : NULL;
    for (int family = 4; node && family <= 6; family += 2) {
        uint16_t port = family == 4 ? node->peerapi4 : node->peerapi6;
        for (size_t i = 0; port && i < node->naddresses; i++) {
            if (node->addresses[i].ip.family != family) continue;
            *out = (struct tn_addrport){.ip = node->addresses[i].ip, .port = port};
            return 0;
        }
    }
    return TN_E_NOENT;
}

static int start_try(struct tn_exitdns_lookup *l, uint16_t type)
{
    struct tn_addrport to;
    if (l->tcp) tn_tcp_abort(l->tcp, tn_node_now());
    l->tcp = NULL;
    l->type = type;
    tn_buf_fini(&l->reply);
    int err = l->host ? make_query(l) : 0;
    if (!err) err = service_of(l->node, &to);
    if (!err) err = tn_node_connect(l->node, &to, &flow_events, l, &l->tcp);
    l->deadline_us = tn_node_now() + TRY_US;
    return err;
}

int tn_exitdns_resolve(struct tn_node *n, const char *host, void (*done)(void *arg, int err, const struct tn_ip *ip), void *arg,
                       struct tn_exitdns_lookup **out)
{
    if (n->exitdns->count >= LOOKUPS_MAX) return TN_E_LIMIT;
    struct tn_exitdns_lookup *l = calloc(1, sizeof *l);
    if (!l) return TN_E_NOMEM;
    *l = (struct tn_exitdns_lookup){.node = n, .done = done, .arg = arg, .host = strdup(host)};
    tn_buf_init(&l->reply, REPLY_MAX);
    tn_list_push_back(&n->exitdns->lookups, &l->link);
    n->exitdns->count++;
    int err = l->host ? start_try(l, TYPE_A) : TN_E_NOMEM;
    if (err) forget(l);
    else *out = l;
    return err;
}

int tn_exitdns_ask(struct tn_node *n, const uint8_t *query, size_t len,
                   void (*done)(void *arg, int err, const uint8_t *bytes, size_t len), void *arg, struct tn_exitdns_lookup **out)
{
    if (n->exitdns->count >= LOOKUPS_MAX) return TN_E_LIMIT;
    if (len > QUERY_MAX || len < TN_DNSMSG_HEADER) return TN_E_TOOBIG;
    struct tn_exitdns_lookup *l = calloc(1, sizeof *l);
    if (!l) return TN_E_NOMEM;
    *l = (struct tn_exitdns_lookup){.node = n, .answered = done, .arg = arg, .query_len = len, .asked_id = tn_get_be16(query)};
    memcpy(l->query, query, len);
    tn_put_be16(l->query, 0); /* for caches, as above */
    tn_buf_init(&l->reply, REPLY_MAX);
    tn_list_push_back(&n->exitdns->lookups, &l->link);
    n->exitdns->count++;
    int err = start_try(l, 0);
    if (err) forget(l);
    else *out = l;
    return err;
}

void tn_exitdns_cancel(struct tn_exitdns_lookup *l) { forget(l); }

void tn_exitdns_timeout(struct tn_node *n, uint64_t now_us)
{
    TN_LIST_EACH(link, &n->exitdns->lookups) {
        struct tn_exitdns_lookup *l = TN_CONTAINER(link, struct tn_exitdns_lookup, link);
        if (l->deadline_us <= now_us) finish(l, TN_E_TIMEDOUT, NULL);
    }
}

uint64_t tn_exitdns_next_deadline(const struct tn_node *n)
{
    uint64_t next = TN_NEVER;
    TN_LIST_EACH(link, &n->exitdns->lookups) {
        const struct tn_exitdns_lookup *l = TN_CONTAINER(link, struct tn_exitdns_lookup, link);
        if (l->deadline_us < next) next = l->deadline_us;
    }
    return next;
}

int tn_exitdns_new(struct tn_node *n)
{
    n->exitdns = calloc(1, sizeof *n->exitdns);
    if (!n->exitdns) return TN_E_NOMEM;
    tn_list_init(&n->exitdns->lookups);
    return 0;
}

void tn_exitdns_free(struct tn_node *n)
{
    if (!n->exitdns) return;
    TN_LIST_EACH(link, &n->exitdns->lookups)
        finish(TN_CONTAINER(link, struct tn_exitdns_lookup, link), TN_E_CANCELED, NULL);
    free(n->exitdns);
    n->exitdns = NULL;
}
