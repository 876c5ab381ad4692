#include "dns/queries.h"
#include "util/cursor.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUIET_US = 60 * 1000000 }; /* peers cause the questions: one log line a minute is all they get */

void tn_dns_queries_init(struct tn_dns_queries *qs, const struct tn_dns_config *config, const char *scheme,
                         const struct tn_addrport *addr)
{
    *qs = (struct tn_dns_queries){.log = config->log, .scheme = scheme, .addr = *addr};
    tn_list_init(&qs->asked);
    tn_list_init(&qs->finished);
}

void tn_dns_queries_fini(struct tn_dns_queries *qs)
{
    TN_LIST_EACH(l, &qs->asked) tn_dns_asked_free(tn_dns_asked_at(l));
    TN_LIST_EACH(l, &qs->finished) tn_dns_asked_free(tn_dns_asked_at(l));
}

int tn_dns_queries_add(struct tn_dns_queries *qs, size_t size, const uint8_t *bytes, size_t len, uint64_t now_us,
                       tn_dns_answer_fn *answer, void *arg, struct tn_dns_asked **out)
{
    if (len < TN_DNSMSG_HEADER || len > TN_DNSMSG_MAX) return TN_E_MALFORMED;
    if (qs->count >= TN_DNS_INFLIGHT_MAX) return TN_E_LIMIT;
    struct tn_dns_asked *q = calloc(1, size + len);
    if (!q) return TN_E_NOMEM;
    q->of = qs;
    q->deadline_us = now_us + TN_DNS_QUERY_US;
    q->answer = answer;
    q->arg = arg;
    q->bytes = (uint8_t *)q + size;
    q->len = len;
    memcpy(q->bytes, bytes, len);
    tn_list_push_back(&qs->asked, &q->link);
    qs->nasked++;
    qs->count++;
    qs->last_ask_us = now_us;
    *out = q;
    return 0;
}

void tn_dns_asked_free(struct tn_dns_asked *q)
{
    tn_list_remove(&q->link);
    if (!q->finished) q->of->nasked--;
    q->of->count--;
    free(q->reply);
    free(q);
}

void tn_dns_asked_verdict(struct tn_dns_asked *q, int err)
{
    tn_list_remove(&q->link);
    tn_list_push_back(&q->of->finished, &q->link);
    q->of->nasked--;
    q->finished = true;
    q->err = err;
}

/* FORMERR or NOTIMP, and nothing behind the header. */
static bool is_bare(const uint8_t *bytes, size_t len)
{
    static const uint8_t no_counts[8];
    if (len != TN_DNSMSG_HEADER || memcmp(bytes + 4, no_counts, 8) != 0) return false;
    unsigned flags = tn_get_be16(bytes + 2), rcode = flags & 15;
    return flags & TN_DNSMSG_QR && !(flags & TN_DNSMSG_TC) && (rcode == 1 || rcode == 4);
}

void tn_dns_asked_give(struct tn_dns_asked *q, const uint8_t *bytes, size_t len)
{
    struct tn_dnsmsg query;
    bool bare = is_bare(bytes, len) && tn_dnsmsg_parse(q->bytes, q->len, &query) == 0;
    if (bare) len = query.question_end; /* who asked gets the question with it */
    q->reply = malloc(len);
    if (q->reply && bare) (void)tn_dnsmsg_put_empty(&query, bytes[3] & 15, q->reply, len);
    else if (q->reply) memcpy(q->reply, bytes, len);
    q->reply_len = len;
    tn_dns_asked_verdict(q, q->reply ? 0 : TN_E_NOMEM);
}

bool tn_dns_asked_matches(const struct tn_dns_asked *q, const uint8_t *bytes, size_t len)
{
    struct tn_dnsmsg answer, query;
    if (is_bare(bytes, len)) return true;
    return tn_dnsmsg_parse(bytes, len, &answer) == 0 && tn_dnsmsg_parse(q->bytes, q->len, &query) == 0 &&
           tn_dnsmsg_answers(&answer, &query);
}

void tn_dns_queries_answer(struct tn_dns_queries *qs)
{
    struct tn_list batch;
    tn_list_init(&batch);
    for (struct tn_list *l; (l = tn_list_pop_front(&qs->finished));) tn_list_push_back(&batch, l);
    while (!tn_list_empty(&batch)) {
        struct tn_dns_asked *q = tn_dns_asked_at(batch.next);
        tn_list_remove(&q->link);
        q->answer(q->arg, q->err, q->reply, q->reply_len);
        tn_dns_asked_free(q);
    }
}

void tn_dns_queries_set_health(struct tn_dns_queries *qs, int err, const char *text)
{
    char addr[TN_ADDRPORT_STRLEN];
    bool changed = err != qs->health;
    qs->health = err;
    snprintf(qs->health_text, sizeof qs->health_text, "%s", text);
    if (!changed) return;
    enum tn_log_level level = qs->last_ask_us < qs->quiet_until_us ? TN_LOG_DEBUG : err ? TN_LOG_WARN : TN_LOG_INFO;
    if (level != TN_LOG_DEBUG) qs->quiet_until_us = qs->last_ask_us + QUIET_US;
    tn_logf(qs->log, level, "dns", "upstream %s://%s: %s", qs->scheme, tn_addrport_format(&qs->addr, addr), err ? text : "works");
}
