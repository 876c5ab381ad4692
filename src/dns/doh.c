/* Queries of the DoH client: their lists, their time and their callbacks.
 *
 * A query waits in its peer's line (stream 0) or is on a stream of the one connection; then it gets a verdict and waits in `finished`
 * for its callback. Every entry changes lists or the connection and ends in `advance`, which makes the two agree: a
 * broken connection is given up, one is opened when queries wait, waiting queries are submitted, bytes are sent.
 * Callbacks run only at the end of a turn, from events and timeouts, never from ask or cancel; a callback may ask and
 * cancel, which then only change lists.
 *
 * The connection is kept while names are asked for and closed IDLE_US after the last question: TLS, HTTP/2 and the
 * root certificates cost more than an idle node does. One that was open and dies takes its queries along to the next,
 * once each. A query that saw not one byte arrive in its 5 s, though a ping was sent half-way, takes the connection
 * down: a dead path must not swallow those that come after. The egress mode it was dialed under is compared at each
 * question, so that a connection of HOST mode does not outlive a change to PROXY or OFF. */
#include "dns/doh_internal.h"
#include "util/err.h"
#include "util/heap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUERY_US = 5 * 1000000, PROBE_US = 2500000, IDLE_US = 40 * 1000000, QUIET_US = 60 * 1000000 };
/* A connection that breaks as it is used is replaced in the same turn, but not for ever. */
enum { ADVANCE_ROUNDS = 3 };

int tn_doh_new(const struct tn_doh_config *config, struct tn_doh **out)
{
    struct tn_doh_url url;
    int err = tn_doh_url_parse(config->url, &url);
    if (err) return err;
    struct tn_doh *d = calloc(1, sizeof *d);
    if (!d) return TN_E_NOMEM;
    d->config = *config;
    d->config.url = NULL; /* not kept; url holds it */
    d->url = url;
    tn_list_init(&d->queries);
    tn_list_init(&d->finished);
    tn_list_init(&d->turns);
    tn_list_init(&d->holders);
    tn_htable_init(&d->streams);
    tn_htable_init(&d->lines);
    *out = d;
    return 0;
}

static void free_query(struct tn_doh_query *q)
{
    struct tn_doh *d = q->doh;
    tn_doh_line_leave(q);
    d->body_bytes -= tn_buf_len(&q->body);
    d->count--;
    tn_buf_fini(&q->body);
    free(q->query);
    free(q);
}

static struct tn_doh_query *query_at(struct tn_list *l) { return TN_CONTAINER(l, struct tn_doh_query, link); }

void tn_doh_free(struct tn_doh *d)
{
    if (!d) return;
    tn_doh_conn_close(d);
    for (struct tn_list *l; (l = tn_list_pop_front(&d->queries));) free_query(query_at(l));
    for (struct tn_list *l; (l = tn_list_pop_front(&d->finished));) free_query(query_at(l));
    tn_htable_fini(&d->streams);
    tn_htable_fini(&d->lines);
    free(d);
}

void tn_doh_set_health(struct tn_doh *d, int err, const char *text)
{
    bool changed = err != d->health;
    d->health = err;
    snprintf(d->health_text, sizeof d->health_text, "%s", text);
    if (!changed) return;
    /* Peers cause the questions: one line a minute is all they get. */
    enum tn_log_level level = d->last_ask_us < d->quiet_until_us ? TN_LOG_DEBUG : err ? TN_LOG_WARN : TN_LOG_INFO;
    if (level != TN_LOG_DEBUG) d->quiet_until_us = d->last_ask_us + QUIET_US;
    tn_logf(d->config.log, level, "dns", "upstream %s: %s", d->url.authority, err ? d->health_text : "works");
}

int tn_doh_health(const struct tn_doh *d, const char **text)
{
    if (text) *text = d->health_text;
    return d->health;
}

void tn_doh_verdict(struct tn_doh_query *q, int err)
{
    struct tn_doh *d = q->doh;
    tn_doh_line_leave(q);
    tn_list_remove(&q->link);
    tn_list_push_back(&d->finished, &q->link);
    d->asked--;
    q->finished = true;
    q->err = err;
    if (!err) tn_doh_set_health(d, 0, "works");
}

/* Gives up the broken connection. Queries of an open one are asked again, as after a change of policy; one that never
 * opened fails all that wait for it. */
static void lose_connection(struct tn_doh *d)
{
    int err = d->conn_err == TN_E_EOF ? TN_E_CLOSED : d->conn_err;
    bool was_open = d->state == TN_DOH_OPEN;
    if (!was_open && d->health == 0) tn_doh_set_health(d, err, tn_err_text(err));
    TN_LIST_EACH(l, &d->queries) {
        struct tn_doh_query *q = query_at(l);
        tn_doh_h2_lost(d, q);
        bool again = err == TN_E_CANCELED || (was_open && q->attempts < TN_DOH_ATTEMPTS_MAX);
        if (!again) tn_doh_verdict(q, err);
    }
    /* From the newest, so that each line is in its order again. */
    for (struct tn_list *l = d->queries.prev; l != &d->queries; l = l->prev)
        if (tn_list_empty(&query_at(l)->waiting)) tn_doh_line_again(query_at(l));
    tn_doh_conn_close(d);
}

static bool someone_waits(const struct tn_doh *d) { return d->asked > d->streams.count; }

static void open_for_waiting(struct tn_doh *d)
{
    int err = tn_doh_conn_open(d);
    if (!err) return;
    TN_LIST_EACH(l, &d->queries) tn_doh_verdict(query_at(l), err);
}

static void submit_waiting(struct tn_doh *d)
{
    for (struct tn_doh_query *q; (q = tn_doh_line_next(d));) {
        int err = tn_doh_h2_submit(d, q);
        if (err == TN_E_CLOSED) {
            d->conn_err = err;
            return;
        }
        if (err) tn_doh_verdict(q, err);
    }
}

static void advance(struct tn_doh *d)
{
    for (int i = 0; i < ADVANCE_ROUNDS; i++) {
        if (d->conn_err) lose_connection(d);
        if (d->state == TN_DOH_CLOSED && someone_waits(d)) open_for_waiting(d);
        if (d->state == TN_DOH_OPEN && someone_waits(d)) submit_waiting(d);
        if (!d->conn_err) tn_doh_conn_flush(d);
        if (!d->conn_err) return;
    }
}

static void call_back(struct tn_doh_query *q)
{
    if (q->err == 0) {
        uint8_t *answer = tn_buf_data(&q->body);
        answer[0] = (uint8_t)(q->id >> 8);
        answer[1] = (uint8_t)q->id;
        q->answer(q->arg, 0, answer, tn_buf_len(&q->body));
    } else {
        q->answer(q->arg, q->err, NULL, 0);
    }
    free_query(q);
}

void tn_doh_turn(struct tn_doh *d)
{
    struct tn_list batch;
    d->busy = true;
    advance(d);
    /* What callbacks add waits for the next turn: no endless loop of refusals and new questions. */
    tn_list_init(&batch);
    for (struct tn_list *l; (l = tn_list_pop_front(&d->finished));) tn_list_push_back(&batch, l);
    for (struct tn_list *l; (l = tn_list_pop_front(&batch));) call_back(query_at(l));
    advance(d);
    d->busy = false;
}

/* Makes a query with its ID taken out; NULL when memory is short. */
static struct tn_doh_query *make_query(struct tn_doh *d, const uint8_t *bytes, size_t len)
{
    struct tn_doh_query *q = calloc(1, sizeof *q);
    if (q) q->query = malloc(len);
    if (!q || !q->query) {
        free(q);
        return NULL;
    }
    memcpy(q->query, bytes, len);
    q->id = (uint16_t)(bytes[0] << 8 | bytes[1]);
    q->query[0] = q->query[1] = 0; /* RFC 8484 section 4.1: caches of the upstream like it so */
    q->len = len;
    q->doh = d;
    tn_buf_init(&q->body, TN_DNS_MAX);
    tn_list_init(&q->link);
    tn_list_init(&q->waiting);
    return q;
}

int tn_doh_ask(struct tn_doh *d, uint64_t peer, const uint8_t *query, size_t len, uint64_t now_us,
               void (*answer)(void *arg, int err, const uint8_t *answer, size_t len), void *arg,
               struct tn_doh_query **out)
{
    enum tn_egress_mode mode = tn_egress_mode(d->config.egress);
    int err = tn_dns_check_query(query, len);
    if (err) return err;
    if (d->count >= TN_DOH_INFLIGHT_MAX) return TN_E_LIMIT;
    if (d->state != TN_DOH_CLOSED && mode != d->mode && !d->conn_err) d->conn_err = TN_E_CANCELED;
    if (mode == TN_EGRESS_OFF) {
        if (!d->busy) advance(d);
        return TN_E_POLICY;
    }
    struct tn_doh_query *q = make_query(d, query, len);
    if (!q) return TN_E_NOMEM;
    d->count++;
    err = tn_doh_line_enter(q, peer);
    if (err) {
        free_query(q);
        return err;
    }
    q->deadline_us = now_us + QUERY_US;
    q->progress = d->progress;
    q->answer = answer;
    q->arg = arg;
    tn_list_push_back(&d->queries, &q->link);
    d->asked++;
    d->last_ask_us = now_us;
    if (!d->busy) advance(d);
    if (q->finished && !d->busy) { /* refused at once; when busy, the turn that runs reports it */
        err = q->err;
        tn_list_remove(&q->link);
        free_query(q);
        return err;
    }
    *out = q;
    return 0;
}

void tn_doh_cancel(struct tn_doh_query *q)
{
    struct tn_doh *d = q->doh;
    tn_doh_h2_forget(d, q);
    tn_list_remove(&q->link);
    if (!q->finished) d->asked--;
    free_query(q);
    if (!d->busy) advance(d);
}

/* Half-way through the oldest query's time: is the upstream slow with this name, or gone? */
static void probe(struct tn_doh *d, uint64_t now_us)
{
    if (tn_list_empty(&d->queries)) return;
    struct tn_doh_query *q = query_at(d->queries.next);
    if (q->probed || now_us < q->deadline_us - PROBE_US) return;
    q->probed = true;
    if (d->state == TN_DOH_OPEN && q->progress == d->progress) nghttp2_submit_ping(d->h2, NGHTTP2_FLAG_NONE, NULL);
}

void tn_doh_timeout(struct tn_doh *d, uint64_t now_us)
{
    probe(d, now_us);
    TN_LIST_EACH(l, &d->queries) {
        struct tn_doh_query *q = query_at(l);
        if (q->deadline_us > now_us) break;
        bool silent = (d->state == TN_DOH_TLS || d->state == TN_DOH_OPEN) && q->progress == d->progress;
        if (silent && !d->conn_err) d->conn_err = TN_E_TIMEDOUT;
        bool in_line = d->state == TN_DOH_OPEN && q->attempts == 0;
        tn_doh_h2_forget(d, q);
        tn_doh_verdict(q, in_line && !silent ? TN_E_LIMIT : TN_E_TIMEDOUT);
    }
    if (d->asked == 0 && d->state != TN_DOH_CLOSED && now_us >= d->last_ask_us + IDLE_US) {
        tn_doh_conn_close(d);
        tn_tls_ctx_trim(d->config.tls);
    }
    tn_doh_turn(d);
}

uint64_t tn_doh_next_deadline(const struct tn_doh *d)
{
    if (!tn_list_empty(&d->finished) || d->conn_err) return 0;
    if (!tn_list_empty(&d->queries)) {
        const struct tn_doh_query *q = query_at(d->queries.next);
        return q->probed ? q->deadline_us : q->deadline_us - PROBE_US;
    }
    return d->state == TN_DOH_CLOSED ? TN_NEVER : d->last_ask_us + IDLE_US;
}

void tn_doh_reset(struct tn_doh *d)
{
    if (d->state != TN_DOH_CLOSED && !d->conn_err) d->conn_err = TN_E_CANCELED;
    if (!d->busy) advance(d);
}
