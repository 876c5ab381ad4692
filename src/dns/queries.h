/* What upstreams that speak DNS itself (tcp53.c, udp53.c) have in common: the queries they were asked, and their health.
 *
 * A query is asked, until it gets a verdict; then it waits in `finished` for its callback, which runs at the end of an event
 * (tn_dns_queries_answer), never inside ask. What an upstream knows of a query beside this lies behind it, in the struct that
 * begins with it. */
#ifndef TN_DNS_QUERIES_H
#define TN_DNS_QUERIES_H

#include "dns/upstream.h"
#include "util/list.h"
#include "wire/dns.h"

enum { TN_DNS_QUERY_US = 5 * 1000000, TN_DNS_INFLIGHT_MAX = 4096 }; /* as many as the resolver takes: it sees to fair shares */

struct tn_dns_queries {
    struct tn_list asked, finished; /* asked: oldest first, so nearest deadline first */
    unsigned nasked, count;         /* in asked; in both */
    uint64_t last_ask_us;
    /* health */
    const struct tn_log *log;
    const char *scheme; /* for the log */
    struct tn_addrport addr;
    uint64_t quiet_until_us;
    int health;
    char health_text[160];
};

struct tn_dns_asked {
    struct tn_list link; /* asked, or finished */
    struct tn_dns_queries *of;
    uint64_t deadline_us;
    uint16_t id;         /* on the wire */
    bool finished;       /* it has its verdict */
    int err;             /* the verdict, and the answer with it */
    uint8_t *reply;
    size_t reply_len;
    tn_dns_answer_fn *answer;
    void *arg;
    uint8_t *bytes;      /* the question */
    size_t len;
};

void tn_dns_queries_init(struct tn_dns_queries *qs, const struct tn_dns_config *config, const char *scheme,
                         const struct tn_addrport *addr);
void tn_dns_queries_fini(struct tn_dns_queries *qs); /* they end without callback */

/* A query in a struct of size bytes, else zero, which begins with it. TN_E_MALFORMED, TN_E_LIMIT, TN_E_NOMEM. */
int tn_dns_queries_add(struct tn_dns_queries *qs, size_t size, const uint8_t *bytes, size_t len, uint64_t now_us,
                       tn_dns_answer_fn *answer, void *arg, struct tn_dns_asked **out);
void tn_dns_asked_free(struct tn_dns_asked *q); /* in any state */
void tn_dns_asked_verdict(struct tn_dns_asked *q, int err);
/* This message, which matches, is its answer. */
void tn_dns_asked_give(struct tn_dns_asked *q, const uint8_t *bytes, size_t len);
/* Is it an answer to its question? It repeats that, or is the bare header of a server that could not read it. The ID is another
 * matter. */
bool tn_dns_asked_matches(const struct tn_dns_asked *q, const uint8_t *bytes, size_t len);
/* Runs the callbacks of those that are finished. What they add waits for the next time: no endless loop. */
void tn_dns_queries_answer(struct tn_dns_queries *qs);

static inline struct tn_dns_asked *tn_dns_asked_at(struct tn_list *l) { return TN_CONTAINER(l, struct tn_dns_asked, link); }

/* What the latest answer or failure says of the upstream: 0 and "works", or why not. */
void tn_dns_queries_set_health(struct tn_dns_queries *qs, int err, const char *text);

#endif
