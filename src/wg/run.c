/* Transport packets many at a time: one lookup, one pass of the cipher and one callback for a run of them. Order is kept:
 * what is no data for the session at hand first lets go what came before it. */
#include "util/err.h"
#include "wg/internal.h"

#include <string.h>

enum { RUN_MAX = 64 }; /* packets per pass: what one UDP_GRO message brings */

struct inbound {
    struct tn_wg_index *index; /* of all jobs */
    size_t n;
    struct tn_aead_job job[RUN_MAX];
};

/* A peer can't send a counter twice in one run and have both taken: each is marked as it is accepted. */
static size_t accept_opened(struct tn_wg *wg, const struct inbound *b, struct iovec *out, size_t *bytes)
{
    struct tn_wg_keypair *k = b->index->keypair;
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        const struct tn_aead_job *j = &b->job[i];
        if (j->result != 0) {
            wg->counters.bad_tag++;
        } else if (!tn_wg_replay_accept(&k->replay, j->counter)) {
            wg->counters.replayed++;
        } else {
            *bytes += j->len + TN_WGMSG_DATA_HEADER;
            out[n++] = (struct iovec){j->out, j->len - TN_AEAD_TAG};
        }
    }
    return n;
}

/* Trims padding, leaves out keepalives and forged sources. */
static size_t keep_good(struct tn_wg_peer *p, struct iovec *packets, size_t n, bool *data)
{
    struct tn_ip last = {0};
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (packets[i].iov_len == 0) continue;
        *data = true;
        long total = tn_wg_inner_length(p, packets[i].iov_base, packets[i].iov_len, &last);
        if (total >= 0) packets[kept++] = (struct iovec){packets[i].iov_base, (size_t)total};
    }
    return kept;
}

static void deliver(struct tn_wg_peer *p, const struct iovec *packets, size_t n, uint64_t now_us)
{
    struct tn_wg *wg = p->wg;
    if (n > 0 && wg->cb.deliver_run) {
        wg->cb.deliver_run(wg->ctx, p, p->arg, packets, n, now_us);
        return;
    }
    for (size_t i = 0; i < n; i++)
        wg->cb.deliver(wg->ctx, p, p->arg, packets[i].iov_base, packets[i].iov_len, now_us);
}

/* What follows from packets that have been opened. */
static void take(struct tn_wg *wg, struct inbound *b, uint64_t now_us)
{
    struct iovec packets[RUN_MAX];
    size_t bytes = 0;
    bool data = false;
    struct tn_wg_peer *p = b->index->peer;
    size_t n = accept_opened(wg, b, packets, &bytes);
    b->n = 0;
    if (n == 0) return;
    tn_wg_data_heard(p, b->index->keypair, bytes, now_us);
    n = keep_good(p, packets, n, &data);
    if (data) tn_wg_received_data(p, now_us);
    deliver(p, packets, n, now_us);
}

static void let_go(struct tn_wg *wg, struct inbound *b, uint64_t now_us)
{
    if (b->n == 0) return;
    tn_aead_open_batch(b->index->keypair->recv, b->job, b->n);
    take(wg, b, now_us);
}

static void add(struct tn_wg *wg, struct inbound *b, uint8_t *msg, size_t len, uint64_t now_us)
{
    struct tn_wgmsg_data m;
    int err;
    tn_wgmsg_get_data(msg, &m);
    if (b->n == RUN_MAX || (b->n > 0 && b->index->index != m.receiver)) let_go(wg, b, now_us);
    struct tn_wg_index *i = tn_wg_data_index(wg, m.receiver, m.counter, now_us, &err);
    if (!i) return;
    b->index = i;
    uint8_t *body = msg + TN_WGMSG_DATA_HEADER;
    b->job[b->n++] = (struct tn_aead_job){
        .counter = m.counter, .in = body, .out = body, .len = len - TN_WGMSG_DATA_HEADER};
}

void tn_wg_input_run(struct tn_wg *wg, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from,
                     uint64_t now_us)
{
    struct inbound b;
    b.n = 0;
    wg->now_us = now_us;
    for (size_t at = 0, n; at < len; at += n) {
        n = len - at < segment ? len - at : segment;
        if (tn_wgmsg_type(run + at, n) == TN_WGMSG_DATA) {
            add(wg, &b, run + at, n, now_us);
            continue;
        }
        let_go(wg, &b, now_us);
        (void)tn_wg_input(wg, run + at, n, from, now_us);
    }
    let_go(wg, &b, now_us);
}

/* ---- in, opened elsewhere ---- */

size_t tn_wg_session_part(const uint8_t *run, size_t len, size_t segment)
{
    struct tn_wgmsg_data m;
    uint32_t receiver = 0;
    size_t at = 0;
    for (size_t n, count = 0; at < len && count < TN_WG_PLAN_MAX; at += n, count++) {
        n = len - at < segment ? len - at : segment;
        bool data = tn_wgmsg_type(run + at, n) == TN_WGMSG_DATA;
        if (!data && count > 0) break;
        if (!data) return n;
        tn_wgmsg_get_data(run + at, &m);
        if (count > 0 && m.receiver != receiver) break;
        receiver = m.receiver;
    }
    return at;
}

uint32_t tn_wg_session_of(const uint8_t *run)
{
    struct tn_wgmsg_data m;
    tn_wgmsg_get_data(run, &m);
    return m.receiver;
}

bool tn_wg_plan_open(struct tn_wg *wg, const uint8_t *run, size_t len, size_t segment, struct tn_wg_plan *plan, uint64_t now_us)
{
    struct tn_wgmsg_data m;
    if (len == 0 || tn_wgmsg_type(run, len < segment ? len : segment) != TN_WGMSG_DATA) return false;
    if (tn_wg_session_part(run, len, segment) != len) return false;
    tn_wgmsg_get_data(run, &m);
    struct tn_wg_index *i = tn_wg_index_find(wg, m.receiver);
    if (!i || !i->keypair || now_us - i->keypair->created_us >= TN_WG_REJECT_AFTER_US) return false;
    *plan = (struct tn_wg_plan){.serial = i->keypair->serial};
    memcpy(plan->key, tn_aead_key(i->keypair->recv), sizeof plan->key);
    return true;
}

void tn_wg_open_planned(struct tn_aead_engine *e, const struct tn_wg_plan *plan, uint8_t *run, size_t len, size_t segment,
                        bool good[TN_WG_PLAN_MAX])
{
    struct tn_aead_job job[RUN_MAX];
    size_t count = 0;
    for (size_t at = 0, n; at < len; at += n, count++) {
        struct tn_wgmsg_data m;
        n = len - at < segment ? len - at : segment;
        tn_wgmsg_get_data(run + at, &m);
        uint8_t *body = run + at + TN_WGMSG_DATA_HEADER;
        job[count] = (struct tn_aead_job){.counter = m.counter, .in = body, .out = body, .len = n - TN_WGMSG_DATA_HEADER};
    }
    tn_aead_open_batch_in(e, plan->key, job, count);
    for (size_t i = 0; i < count; i++) good[i] = job[i].result == 0;
}
_Static_assert((int)TN_WG_PLAN_MAX == (int)RUN_MAX, "a plan is one pass");

/* Meanwhile the session may have ended, or the index may be another's: the plan's key was that of one keypair, and what it opened
 * is taken for that one alone. */
void tn_wg_input_opened(struct tn_wg *wg, const struct tn_wg_plan *plan, uint8_t *run, size_t len, size_t segment,
                        const bool good[TN_WG_PLAN_MAX], uint64_t now_us)
{
    struct inbound b;
    b.n = 0;
    wg->now_us = now_us;
    for (size_t at = 0, n, k = 0; at < len; at += n, k++) {
        struct tn_wgmsg_data m;
        int err;
        n = len - at < segment ? len - at : segment;
        tn_wgmsg_get_data(run + at, &m);
        struct tn_wg_index *i = tn_wg_data_index(wg, m.receiver, m.counter, now_us, &err);
        if (i && i->keypair->serial != plan->serial) wg->counters.bad_index++;
        if (!i || i->keypair->serial != plan->serial) continue;
        b.index = i;
        b.job[b.n++] = (struct tn_aead_job){.counter = m.counter, .out = run + at + TN_WGMSG_DATA_HEADER,
                                            .len = n - TN_WGMSG_DATA_HEADER, .result = good[k] ? 0 : TN_E_CRYPTO};
    }
    if (b.n > 0) take(wg, &b, now_us);
}

/* ---- out ---- */

static void emit(struct tn_wg_peer *p, const uint8_t *run, size_t len, size_t segment, uint64_t now_us)
{
    struct tn_wg *wg = p->wg;
    if (wg->cb.send_run) {
        p->stats.tx_bytes += len;
        wg->cb.send_run(wg->ctx, p, p->arg, run, len, segment, now_us);
        return;
    }
    for (size_t at = 0; at < len; at += segment)
        tn_wg_emit(p, run + at, len - at < segment ? len - at : segment, now_us);
}

/* Padding, headers and counters: everything but the seal. current may send. */
static struct tn_aead_run number(struct tn_wg_peer *p, const struct tn_wg_train *t)
{
    struct tn_wg_keypair *k = p->current;
    size_t stride = tn_wg_stride(t->len);
    struct tn_aead_run run = {.bytes = t->first - TN_WG_HEADROOM, .segment = stride, .header = TN_WGMSG_DATA_HEADER,
                              .counter = k->send_counter, .key = tn_aead_key(k->send)};
    for (size_t i = 0; i < t->count; i++) {
        uint8_t *packet = t->first + i * stride;
        size_t len = i + 1 < t->count ? t->len : t->last_len, plain = tn_wg_stride(len) - TN_WG_DATA_OVERHEAD;
        memset(packet + len, 0, plain - len);
        struct tn_wgmsg_data m = {.receiver = k->remote_index, .counter = k->send_counter++};
        tn_wgmsg_put_data(packet - TN_WG_HEADROOM, &m);
        run.len += plain + TN_WG_DATA_OVERHEAD;
    }
    return run;
}

static void transmit_run(struct tn_wg_peer *p, const struct tn_wg_train *t, uint64_t now_us)
{
    struct tn_wg *wg = p->wg;
    struct tn_aead_run run = number(p, t);
    tn_wg_sent_anything(p);
    tn_wg_sent_data(p, now_us);
    if (wg->cb.send_unsealed && wg->cb.send_unsealed(wg->ctx, p, p->arg, &run, now_us)) {
        p->stats.tx_bytes += run.len;
    } else {
        tn_aead_seal_run(wg->aead, &run);
        emit(p, run.bytes, run.len, run.segment, now_us);
    }
    tn_wg_keep_fresh_sending(p, now_us);
}

static int send_singly(struct tn_wg *wg, struct tn_wg_peer *p, const struct tn_wg_train *t, uint64_t now_us)
{
    int err = 0;
    for (size_t i = 0; i < t->count && !err; i++)
        err = tn_wg_send(wg, p, t->first + i * tn_wg_stride(t->len), i + 1 < t->count ? t->len : t->last_len, now_us);
    return err;
}

int tn_wg_send_train(struct tn_wg *wg, struct tn_wg_peer *p, const struct tn_wg_train *t, uint64_t now_us)
{
    wg->now_us = now_us;
    if (t->len > TN_WG_MTU) return TN_E_TOOBIG;
    if (t->count == 0 || t->last_len == 0 || t->last_len > t->len) return TN_E_INVAL;
    bool now = (p->nstaged == 0 || p->in_session_callback) && tn_wg_may_send(p->current, now_us);
    if (!now) return send_singly(wg, p, t, now_us);
    transmit_run(p, t, now_us);
    return 0;
}
