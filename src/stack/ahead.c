/* The flows of a batch, fetched from memory together.
 *
 * Among 100,000 flows none is in the cache when its packet comes: a slot of the table leads to a control block of nine
 * lines, and one packet after the other would wait for all of them. Here the packets of a batch look up their flows
 * together, so that they wait at the same time; the flows themselves are fetched a few packets before their turn, while
 * others are worked on. What is kept for that are addresses, never followed: a flow may be gone by then. */
#include "stack/internal.h"
#include "util/cursor.h"

enum { WORTH_FLOWS = 1024 /* half a megabyte of them fits the cache */, LINE = 64 };

static void fetch_flow(uintptr_t at)
{
    enum { LEN = sizeof(struct tn_tcp) };
    for (size_t i = 0; i < LEN; i += LINE) __builtin_prefetch((const void *)(at + i));
    __builtin_prefetch((const void *)(at + LEN - 1));
}

/* Its ports are where they are in an ordinary packet; whether it is one is not our business. */
static bool peek(const struct iovec *packet, struct tn_addrport *local, struct tn_addrport *remote)
{
    const uint8_t *p = packet->iov_base;
    size_t len = packet->iov_len;
    bool v4 = len >= 40 && p[0] == 0x45 && p[9] == TN_IPPROTO_TCP, v6 = len >= 60 && p[0] >> 4 == 6 && p[6] == TN_IPPROTO_TCP;
    if (!v4 && !v6) return false;
    uint8_t family = v4 ? 4 : 6;
    const uint8_t *l4 = p + (v4 ? 20 : 40);
    *remote = (struct tn_addrport){tn_ip_from_bytes(p + (v4 ? 12 : 8), family), tn_get_be16(l4)};
    *local = (struct tn_addrport){tn_ip_from_bytes(p + (v4 ? 16 : 24), family), tn_get_be16(l4 + 2)};
    return true;
}

void tn_stack_ahead_step(struct tn_stack *st)
{
    if (st->ahead.next < st->ahead.count) fetch_flow(st->ahead.flow[st->ahead.next++]);
}

void tn_stack_expect(struct tn_stack *st, const struct iovec *packets, size_t n)
{
    enum { DISTANCE = 8 };
    uint64_t hash[TN_STACK_AHEAD];
    const struct tn_hnode *node[TN_STACK_AHEAD];
    size_t known = 0;
    st->ahead.count = st->ahead.next = 0;
    if (st->flows.count < WORTH_FLOWS || n < 2) return;
    for (size_t i = 0; i < n && known < TN_STACK_AHEAD; i++) {
        struct tn_addrport local, remote;
        if (!peek(&packets[i], &local, &remote)) continue;
        hash[known] = tn_flow_hash(st, &local, &remote);
        tn_htable_prefetch(&st->flows, hash[known++]);
    }
    for (size_t i = 0; i < known; i++) {
        node[i] = tn_htable_first(&st->flows, hash[i]);
        if (node[i]) __builtin_prefetch(node[i]);
    }
    for (size_t i = 0; i < known; i++) {
        while (node[i] && node[i]->hash != hash[i]) node[i] = node[i]->next;
        if (node[i]) st->ahead.flow[st->ahead.count++] = (uintptr_t)node[i];
    }
    for (int i = 0; i < DISTANCE; i++) tn_stack_ahead_step(st);
}
