/* Transport packets one at a time: staged until there is a session, sealed, opened, checked, delivered. run.c does the
 * same for many at once with the parts of this file that decide. */
#include "util/err.h"
#include "wg/internal.h"
#include "wire/ip.h"

#include <stdlib.h>
#include <string.h>

struct staged {
    struct tn_list link;
    size_t len; /* 0: a keepalive */
    uint8_t bytes[];
};

/* To a multiple of 16, but never beyond the MTU, which is one already. */
static size_t padded(size_t len)
{
    _Static_assert(TN_WG_MTU % 16 == 0, "padding may not lead beyond the MTU");
    return (len + 15) / 16 * 16;
}

static void seal(struct tn_wg_keypair *k, uint8_t *datagram, size_t len)
{
    struct tn_wgmsg_data m = {.receiver = k->remote_index, .counter = k->send_counter++};
    struct tn_aead_job job = {.counter = m.counter, .len = len};
    tn_wgmsg_put_data(datagram, &m);
    job.in = job.out = datagram + TN_WGMSG_DATA_HEADER;
    tn_aead_seal_batch(k->send, &job, 1);
}

static int open(struct tn_wg_keypair *k, uint8_t *datagram, size_t len, uint64_t counter)
{
    struct tn_aead_job job = {.counter = counter, .len = len - TN_WGMSG_DATA_HEADER};
    job.in = job.out = datagram + TN_WGMSG_DATA_HEADER;
    tn_aead_open_batch(k->recv, &job, 1);
    return job.result;
}

/* An initiator renews its keys while it still has good ones. */
void tn_wg_keep_fresh_sending(struct tn_wg_peer *p, uint64_t now_us)
{
    const struct tn_wg_keypair *k = p->current;
    if (!k) return;
    if (k->send_counter > TN_WG_REKEY_AFTER_MESSAGES || (k->initiator && now_us >= k->rekey_us))
        (void)tn_wg_shake_start(p, false, now_us);
}

/* Who only receives renews them at the last minute, once. */
static void keep_fresh_receiving(struct tn_wg_peer *p, uint64_t now_us)
{
    const struct tn_wg_keypair *k = p->current;
    if (p->late_rekey_sent || !k || !k->initiator || now_us - k->created_us <= TN_WG_REKEY_LATE_US) return;
    p->late_rekey_sent = true;
    (void)tn_wg_shake_start(p, false, now_us);
}

/* packet may be empty: a keepalive. current may send. */
static void transmit(struct tn_wg_peer *p, const uint8_t *packet, size_t len, uint64_t now_us)
{
    uint8_t datagram[TN_WG_DATAGRAM_MAX];
    size_t plain = padded(len);
    if (len > 0) memcpy(datagram + TN_WGMSG_DATA_HEADER, packet, len);
    memset(datagram + TN_WGMSG_DATA_HEADER + len, 0, plain - len);
    seal(p->current, datagram, plain);
    tn_wg_sent_anything(p);
    if (len > 0) tn_wg_sent_data(p, now_us);
    tn_wg_emit(p, datagram, plain + TN_WG_DATA_OVERHEAD, now_us);
    tn_wg_keep_fresh_sending(p, now_us);
}

static struct staged *unstage(struct tn_wg_peer *p)
{
    struct staged *s = TN_CONTAINER(tn_list_pop_front(&p->staged), struct staged, link);
    p->nstaged--;
    p->wg->staged_bytes -= s->len;
    return s;
}

int tn_wg_stage(struct tn_wg_peer *p, const uint8_t *packet, size_t len)
{
    if (p->nstaged >= TN_WG_STAGED_MAX) {
        free(unstage(p));
        p->wg->counters.staged_dropped++;
    }
    struct staged *s = p->wg->staged_bytes + len <= TN_WG_STAGED_BYTES_MAX ? malloc(sizeof *s + len) : NULL;
    if (!s) {
        p->wg->counters.staged_dropped++;
        return TN_E_NOMEM;
    }
    s->len = len;
    if (len > 0) memcpy(s->bytes, packet, len);
    tn_list_push_back(&p->staged, &s->link);
    p->nstaged++;
    p->wg->staged_bytes += len;
    return 0;
}

/* Sends what waits, or starts the handshake it waits for. */
int tn_wg_flush_staged(struct tn_wg_peer *p, uint64_t now_us)
{
    while (p->nstaged > 0) {
        if (!tn_wg_may_send(p->current, now_us)) return tn_wg_shake_start(p, false, now_us);
        struct staged *s = unstage(p);
        transmit(p, s->bytes, s->len, now_us);
        free(s);
    }
    return 0;
}

void tn_wg_drop_staged(struct tn_wg_peer *p)
{
    while (p->nstaged > 0) {
        free(unstage(p));
        p->wg->counters.staged_dropped++;
    }
}

int tn_wg_keepalive(struct tn_wg_peer *p, uint64_t now_us)
{
    if (p->nstaged > 0) return tn_wg_flush_staged(p, now_us);
    if (tn_wg_may_send(p->current, now_us)) {
        transmit(p, NULL, 0, now_us);
        return 0;
    }
    int err = tn_wg_stage(p, NULL, 0);
    return err == 0 ? tn_wg_flush_staged(p, now_us) : err;
}

int tn_wg_send(struct tn_wg *wg, struct tn_wg_peer *p, const uint8_t *packet, size_t len, uint64_t now_us)
{
    wg->now_us = now_us;
    if (len > TN_WG_MTU) return TN_E_TOOBIG;
    if (len == 0) return TN_E_INVAL;
    if ((p->nstaged == 0 || p->in_session_callback) && tn_wg_may_send(p->current, now_us)) {
        transmit(p, packet, len, now_us);
        return 0;
    }
    int err = tn_wg_stage(p, packet, len);
    return err == 0 ? tn_wg_flush_staged(p, now_us) : err;
}

long tn_wg_inner_length(struct tn_wg_peer *p, const uint8_t *packet, size_t len, struct tn_ip *last)
{
    struct tn_wg *wg = p->wg;
    long total = tn_ippkt_length(packet, len);
    if (total < 0) {
        wg->counters.malformed++;
        return TN_E_MALFORMED;
    }
    bool v4 = packet[0] >> 4 == 4;
    if (last->family == (v4 ? 4 : 6) && memcmp(last->b, packet + (v4 ? 12 : 8), v4 ? 4 : 16) == 0) return total;
    struct tn_ip src = v4 ? tn_ip_from_bytes(packet + 12, 4) : tn_ip_from_bytes(packet + 8, 6);
    if (tn_route_find(wg->routes, &src, NULL) != p) {
        wg->counters.bad_source++;
        return TN_E_ACCES;
    }
    *last = src;
    return total;
}

struct tn_wg_index *tn_wg_data_index(struct tn_wg *wg, uint32_t receiver, uint64_t counter, uint64_t now_us, int *err)
{
    struct tn_wg_index *i = tn_wg_index_find(wg, receiver);
    if (!i || !i->keypair || now_us - i->keypair->created_us >= TN_WG_REJECT_AFTER_US) {
        wg->counters.bad_index++;
        *err = TN_E_NOENT;
        return NULL;
    }
    if (counter >= TN_WG_REJECT_AFTER_MESSAGES || !tn_wg_replay_fresh(&i->keypair->replay, counter)) {
        wg->counters.replayed++;
        *err = TN_E_EXIST;
        return NULL;
    }
    return i;
}

void tn_wg_data_heard(struct tn_wg_peer *p, struct tn_wg_keypair *k, size_t len, uint64_t now_us)
{
    p->stats.rx_bytes += len;
    tn_wg_received_anything(p);
    if (tn_wg_session_heard(p, k)) {
        tn_wg_handshake_complete(p, now_us);
        (void)tn_wg_flush_staged(p, now_us);
    }
    keep_fresh_receiving(p, now_us);
}

int tn_wg_on_data(struct tn_wg *wg, uint8_t *msg, size_t len, uint64_t now_us)
{
    struct tn_wgmsg_data m;
    struct tn_ip last = {0};
    int err = 0;
    tn_wgmsg_get_data(msg, &m);
    struct tn_wg_index *i = tn_wg_data_index(wg, m.receiver, m.counter, now_us, &err);
    if (!i) return err;
    if (open(i->keypair, msg, len, m.counter) != 0) {
        wg->counters.bad_tag++;
        return TN_E_CRYPTO;
    }
    (void)tn_wg_replay_accept(&i->keypair->replay, m.counter);
    struct tn_wg_peer *p = i->peer;
    tn_wg_data_heard(p, i->keypair, len, now_us);
    if (len == TN_WGMSG_DATA_MIN) return 0;
    tn_wg_received_data(p, now_us);
    uint8_t *packet = msg + TN_WGMSG_DATA_HEADER;
    long total = tn_wg_inner_length(p, packet, len - TN_WG_DATA_OVERHEAD, &last);
    if (total < 0) return (int)total;
    wg->cb.deliver(wg->ctx, p, p->arg, packet, (size_t)total, now_us);
    return 0;
}
