/* The stack as a whole: birth and end, addresses, what comes in, and time. See internal.h for the life of a call. */
#include "stack/internal.h"

#include <stdlib.h>

enum { IP6_NO_NEXT = 59 }; /* nothing follows, nothing to answer (RFC 8200 section 4.7) */
enum {
    DEFAULT_BUDGET = 256 * 1024 * 1024,
    TRIM_US = 200000, /* two long round trips */
    UNREACH_PER_SECOND = 100,
    UNREACH_BURST = 200,
    CHALLENGES_PER_SECOND = 1000,
    PORT_FIRST = 32768 /* as Linux: twice what TIME_WAIT holds, so that who connects and closes does not run out */
};

struct tn_stack *tn_stack_new(const struct tn_stack_config *config)
{
    struct tn_stack *st = calloc(1, sizeof *st);
    if (!st) return NULL;
    st->cb = config->cb;
    st->ctx = config->ctx;
    st->rng = config->rng;
    st->log = config->log;
    st->port_first = config->port_first ? config->port_first : PORT_FIRST;
    st->mtu = config->mtu ? config->mtu : TN_STACK_MTU;
    if (st->mtu < TN_STACK_MTU_MIN) st->mtu = TN_STACK_MTU_MIN;
    if (st->mtu > TN_STACK_MTU_MAX) st->mtu = TN_STACK_MTU_MAX;
    tn_rng_fill(&st->rng, &st->key, sizeof st->key);
    tn_rng_fill(&st->rng, &st->isn_key, sizeof st->isn_key);
    st->ip_id = (uint16_t)tn_rng_u32(&st->rng);
    st->frag_id = tn_rng_u32(&st->rng);
    st->cc_ops = config->congestion == TN_CONGESTION_CUBIC ? &tn_cc_cubic : &tn_cc_bbr;
    tn_stack_set_tcp_buffer_max(st, config->tcp_buffer_max);
    tn_pool_init(&st->pool, config->budget ? config->budget : DEFAULT_BUDGET);
    tn_list_init(&st->all_listeners);
    tn_list_init(&st->all_socks);
    tn_list_init(&st->events);
    tn_list_init(&st->waiting);
    tn_list_init(&st->dead);
    tn_list_init(&st->dead_socks);
    tn_list_init(&st->time_waits);
    tn_ipreass_init(&st->reass);
    tn_ratelim_init(&st->unreach_limit, UNREACH_PER_SECOND, UNREACH_BURST);
    tn_ratelim_init(&st->challenge_limit, CHALLENGES_PER_SECOND, CHALLENGES_PER_SECOND);
    return st;
}

static void free_dead(struct tn_stack *st)
{
    for (struct tn_list *n; (n = tn_list_pop_front(&st->dead));) free(TN_CONTAINER(n, struct tn_tcp, event_node));
    for (struct tn_list *n; (n = tn_list_pop_front(&st->dead_socks));)
        free(TN_CONTAINER(n, struct tn_udp_sock, all_node));
}

void tn_stack_free(struct tn_stack *st)
{
    if (!st) return;
    /* Every flow owns a timer; flows that are done are in no table but still there. */
    while (st->timers.count > 0) tn_tcp_destroy(TN_CONTAINER(st->timers.slot[0].timer, struct tn_tcp, timer));
    for (struct tn_list *n; (n = tn_list_pop_front(&st->all_listeners));)
        free(TN_CONTAINER(n, struct tn_tcp_listener, all_node));
    TN_LIST_EACH (n, &st->all_socks)
        tn_udp_unbind(TN_CONTAINER(n, struct tn_udp_sock, all_node));
    TN_LIST_EACH (n, &st->time_waits)
        tn_time_wait_free(st, TN_CONTAINER(n, struct tn_time_wait, node));
    free_dead(st);
    tn_ipreass_fini(&st->reass);
    tn_htable_fini(&st->flows);
    tn_htable_fini(&st->accounts);
    tn_htable_fini(&st->listeners);
    tn_htable_fini(&st->udp_socks);
    tn_heap_fini(&st->timers);
    tn_pool_fini(&st->pool);
    tn_train_free(st);
    free(st);
}

void tn_stack_enter(struct tn_stack *st) { st->depth++; }

static void deliver_events(struct tn_stack *st, uint64_t now_us)
{
    for (int i = 0; i < TN_STACK_EVENTS_PER_CALL && !tn_list_empty(&st->events); i++)
        tn_tcp_deliver(TN_CONTAINER(st->events.next, struct tn_tcp, event_node), now_us);
}

void tn_stack_leave(struct tn_stack *st, bool deliver, uint64_t now_us)
{
    if (st->depth == 1) tn_train_flush(st);
    if (st->depth == 1 && deliver) {
        deliver_events(st, now_us);
        tn_stack_wake_waiting(st, now_us);
        deliver_events(st, now_us);
        tn_train_flush(st);
    }
    if (--st->depth > 0) return;
    free_dead(st);
    if (!st->trim_us && tn_pool_wants_trim(&st->pool)) st->trim_us = now_us + TRIM_US;
}

static void trim_pool(struct tn_stack *st, uint64_t now_us)
{
    if (!st->trim_us || now_us < st->trim_us) return;
    tn_pool_trim(&st->pool);
    st->trim_us = tn_pool_wants_trim(&st->pool) ? now_us + TRIM_US : 0;
}

/* ---- addresses ---- */

bool tn_stack_is_own(const struct tn_stack *st, const struct tn_ip *ip)
{
    for (size_t i = 0; i < st->naddrs; i++)
        if (tn_ip_eq(&st->addrs[i], ip)) return true;
    return false;
}

const struct tn_ip *tn_stack_addr(const struct tn_stack *st, uint8_t family)
{
    for (size_t i = 0; i < st->naddrs; i++)
        if (st->addrs[i].family == family) return &st->addrs[i];
    return NULL;
}

int tn_stack_set_addrs(struct tn_stack *st, const struct tn_ip *addrs, size_t n, uint64_t now_us)
{
    if (n > TN_STACK_ADDRS_MAX) return TN_E_LIMIT;
    tn_stack_enter(st);
    memcpy(st->addrs, addrs, n * sizeof *addrs);
    st->naddrs = n;
    struct tn_list gone; /* collected first: ending a flow reorders the heap */
    tn_list_init(&gone);
    for (size_t i = 0; i < st->timers.count; i++) {
        struct tn_tcp *c = TN_CONTAINER(st->timers.slot[i].timer, struct tn_tcp, timer);
        if (!c->own_local || c->f.state == TN_TCP_DONE || tn_stack_is_own(st, &c->f.local.ip)) continue;
        tn_list_remove(&c->wait_node);
        tn_list_push_back(&gone, &c->wait_node);
    }
    for (struct tn_list *node; (node = tn_list_pop_front(&gone));) {
        struct tn_tcp *c = TN_CONTAINER(node, struct tn_tcp, wait_node);
        tn_tcp_send_rst(c, now_us);
        tn_tcp_end(c, TN_E_RESET, now_us);
    }
    tn_stack_leave(st, false, now_us);
    return 0;
}

void tn_stack_set_tcp_buffer_max(struct tn_stack *st, size_t bytes)
{
    if (bytes && bytes < TN_TCP_BUFFER_MIN) bytes = TN_TCP_BUFFER_MIN;
    if (bytes > TN_TCP_BUFFER_LIMIT) bytes = TN_TCP_BUFFER_LIMIT;
    st->tcp_buffer_max = bytes;
}

/* ---- packets in ---- */

static void foreign_other(struct tn_stack *st, const struct tn_ippkt *ip, const uint8_t *packet, uint64_t now_us)
{
    if (st->cb.foreign_other) st->cb.foreign_other(st->ctx, ip->proto, packet, ip->total_len, now_us);
}

/* One whole packet, lengths checked. */
static void input_whole(struct tn_stack *st, const struct tn_ippkt *ip, const uint8_t *packet, bool trusted,
                        uint64_t now_us)
{
    if (!(trusted && ip->proto == TN_IPPROTO_TCP) && !tn_ippkt_cksum_ok(ip)) {
        st->stats.in_bad_checksum++;
        return;
    }
    if (ip->proto == TN_IPPROTO_TCP) tn_stack_tcp_input(st, ip, now_us);
    else if (ip->proto == TN_IPPROTO_UDP) tn_stack_udp_input(st, ip, packet, now_us);
    else if (!tn_stack_is_own(st, &ip->dst)) foreign_other(st, ip, packet, now_us);
    else if (ip->proto == (ip->src.family == 4 ? TN_IPPROTO_ICMP : TN_IPPROTO_ICMP6))
        tn_stack_icmp_input(st, ip, now_us);
    else if (ip->proto != IP6_NO_NEXT) tn_stack_icmp_error(st, TN_UNREACH_PROTO, ip, packet, now_us);
}

static void input_fragment(struct tn_stack *st, const struct tn_ippkt *ip, uint64_t now_us)
{
    if (ip->proto == TN_IPPROTO_TCP && ip->src.family == 4) return; /* our MSS never needs it: only evasion does */
    size_t len;
    uint8_t *whole = tn_ipreass_add(&st->reass, ip, now_us, &len);
    if (!whole) return;
    struct tn_ippkt k;
    if (tn_ippkt_parse(whole, len, &k) == 0 && !k.has_frag && k.proto != TN_IPPROTO_TCP)
        input_whole(st, &k, whole, false, now_us);
    free(whole);
}

/* Nobody sends from a group, from the unspecified or from a loopback address. */
static bool addresses_ok(const struct tn_ippkt *ip)
{
    static const struct tn_ip zero4 = {.family = 4}, zero6 = {.family = 6}, broadcast = {4, {255, 255, 255, 255}};
    const struct tn_ip *s = &ip->src;
    return !tn_ip_is_multicast(s) && !tn_ip_is_loopback(s) && !tn_ip_eq(s, &zero4) && !tn_ip_eq(s, &zero6) &&
           !tn_ip_eq(s, &broadcast);
}

static void input_packet(struct tn_stack *st, const uint8_t *packet, size_t len, bool trusted, uint64_t now_us)
{
    struct tn_ippkt ip;
    tn_stack_ahead_step(st);
    st->stats.in_packets++;
    if (tn_ippkt_parse(packet, len, &ip) != 0 || !addresses_ok(&ip)) st->stats.in_malformed++;
    else if (ip.more_frags || ip.frag_off) input_fragment(st, &ip, now_us);
    else input_whole(st, &ip, packet, trusted, now_us);
}

void tn_stack_input(struct tn_stack *st, uint8_t *packet, size_t len, uint64_t now_us)
{
    tn_stack_enter(st);
    input_packet(st, packet, len, false, now_us);
    tn_stack_leave(st, true, now_us);
}

/* Several packets as one segment of their flow, if that can be. */
static bool input_as_one(struct tn_stack *st, const struct iovec *packets, size_t n, uint64_t now_us)
{
    struct tn_ippkt ip;
    if (n < 2 || tn_ippkt_parse(packets[0].iov_base, packets[0].iov_len, &ip) != 0 || !addresses_ok(&ip)) return false;
    if (!tn_stack_tcp_input_run(st, &ip, packets, n, now_us)) return false;
    st->stats.in_packets += n;
    return true;
}

void tn_stack_input_run(struct tn_stack *st, const struct iovec *packets, size_t n, uint64_t now_us)
{
    tn_stack_enter(st);
    bool whole = input_as_one(st, packets, n, now_us);
    for (size_t i = 0; !whole && i < n; i++)
        input_packet(st, packets[i].iov_base, packets[i].iov_len, true, now_us);
    tn_stack_leave(st, true, now_us);
}

void tn_stack_batch_begin(struct tn_stack *st)
{
    tn_stack_enter(st);
    if (st->depth == 1) st->in_batch = true;
}

bool tn_stack_output_later(struct tn_tcp *c)
{
    struct tn_stack *st = c->st;
    if (c->f.unanswered) return true;
    if (!st->in_batch || st->nunanswered == TN_STACK_UNANSWERED_MAX) return false;
    c->f.unanswered = true;
    st->unanswered[st->nunanswered++] = c;
    return true;
}

void tn_stack_answer_later(struct tn_tcp *c, uint64_t now_us)
{
    /* Who has no SACK counts duplicate ACKs: one for each segment. */
    if (!c->has_sack || !tn_stack_output_later(c)) tn_tcp_output(c, now_us);
}

void tn_stack_output_now(struct tn_tcp *c, uint64_t now_us)
{
    struct tn_stack *st = c->st;
    bool in_batch = st->in_batch;
    if (!c->f.unanswered) return;
    c->f.unanswered = false; /* it stays in the list, whose end then finds nothing to send */
    st->in_batch = false;
    tn_tcp_output(c, now_us);
    st->in_batch = in_batch;
}

/* Owners first: what they read opens the window, and what they write takes the acknowledgment along. */
void tn_stack_batch_end(struct tn_stack *st, uint64_t now_us)
{
    if (st->depth > 1) {
        tn_stack_leave(st, false, now_us);
        return;
    }
    st->in_batch = false;
    deliver_events(st, now_us);
    for (unsigned i = 0; i < st->nunanswered; i++) {
        st->unanswered[i]->f.unanswered = false;
        tn_tcp_output(st->unanswered[i], now_us);
    }
    st->nunanswered = 0;
    tn_stack_leave(st, true, now_us);
}

/* ---- time ---- */

void tn_stack_timeout(struct tn_stack *st, uint64_t now_us)
{
    tn_stack_enter(st);
    tn_ipreass_expire(&st->reass, now_us);
    tn_time_wait_expire(st, now_us);
    trim_pool(st, now_us);
    while (tn_heap_next(&st->timers) <= now_us)
        tn_tcp_timer_due(TN_CONTAINER(st->timers.slot[0].timer, struct tn_tcp, timer), now_us);
    tn_stack_leave(st, true, now_us);
}

uint64_t tn_stack_next_deadline(const struct tn_stack *st)
{
    if (!tn_list_empty(&st->events) || tn_stack_memory_eased(st)) return 0;
    uint64_t at = tn_heap_next(&st->timers), other = tn_ipreass_deadline(&st->reass);
    if (other < at) at = other;
    if (st->trim_us && st->trim_us < at) at = st->trim_us;
    if (!tn_list_empty(&st->time_waits)) {
        other = TN_CONTAINER(st->time_waits.next, struct tn_time_wait, node)->expires_us;
        if (other < at) at = other;
    }
    return at;
}

void tn_stack_stats(const struct tn_stack *st, struct tn_stack_stats *out)
{
    *out = st->stats;
    out->flows = st->ntcp;
    out->half_open = st->nhalf_open;
    out->time_wait = st->ntime_wait;
    out->chunk_bytes = st->pool.used;
    out->budget = st->pool.budget;
}
