/* Trains: consecutive full segments of one flow leave the stack as one buffer, laid out so that the layers below work in
 * place (struct tn_train). So do consecutive datagrams of one size between two places, within a batch.
 *
 * A packet that could be followed by others is put into the buffer; it leaves when one comes that does not continue it,
 * before any other packet of the stack, and at the end of the outermost call. So packets leave in the order they were
 * made. While a train is with its receiver, which may call back into the stack, the buffer is taken, and what is sent then
 * goes packet by packet. */
#include "stack/internal.h"
#include "stack/cksumcopy.h"
#include "util/cursor.h"
#include "wire/udp.h"

#include <stdlib.h>

enum { CKSUM_AT = 16, SEQ_AT = 4, FLAGS_AT = 13 };

static size_t stride_of(size_t len) { return (len + 15) / 16 * 16 + TN_TRAIN_HEAD + TN_TRAIN_TAIL; }

void tn_train_flush(struct tn_stack *st)
{
    struct tn_train_out *o = st->train;
    if (!o || o->t.count == 0 || o->lent) return;
    struct tn_train t = o->t;
    o->t.count = 0;
    o->lent = true;
    st->stats.out_packets += t.count;
    st->cb.output_train(st->ctx, &t);
    o->lent = false;
}

/* The buffer, if trains are wanted and it is free. */
static struct tn_train_out *obtain(struct tn_stack *st)
{
    if (!st->cb.output_train) return NULL;
    if (!st->train && (st->train = malloc(sizeof *st->train))) {
        st->train->t.count = 0;
        st->train->lent = false;
        st->train->own = NULL;
    }
    return st->train && !st->train->lent ? st->train : NULL;
}

/* Room for a train that begins. */
static bool take_buffer(struct tn_stack *st, struct tn_train_out *o)
{
    o->buf = st->cb.train_buffer ? st->cb.train_buffer(st->ctx) : NULL;
    if (!o->buf && !o->own) o->own = malloc(TN_TRAIN_BYTES);
    if (!o->buf) o->buf = o->own;
    return o->buf != NULL;
}

void tn_train_free(struct tn_stack *st)
{
    if (st->train) free(st->train->own);
    free(st->train);
    st->train = NULL;
}

static bool continues(const struct tn_train_out *o, const struct tn_tcp *c, const struct tn_tcp_seg *seg,
                      uint32_t payload)
{
    const struct tn_tcp_seg *l = &o->seg;
    return o->t.count && o->flow == c && !o->closed && o->ip_len + o->tcp_len + payload <= o->t.len &&
           (o->t.count + 1) * o->t.stride <= TN_TRAIN_BYTES && seg->seq == o->next_seq && seg->ack == l->ack &&
           seg->window == l->window && seg->has_ts == l->has_ts && seg->tsval == l->tsval && seg->tsecr == l->tsecr && seg->nsack == 0;
}

/* The headers of the first packet, all fields that do not change from one to the next already summed up. */
static void begin(struct tn_train_out *o, struct tn_tcp *c, const struct tn_tcp_seg *seg, uint32_t payload)
{
    struct tn_tcp_seg head = *seg;
    head.seq = 0;
    head.flags = TN_TCP_ACK;
    o->flow = c;
    o->seg = *seg;
    o->closed = false;
    o->ip_len = c->f.local.ip.family == 4 ? 20 : 40;
    o->tcp_len = tn_tcp_seg_put(o->head + o->ip_len, &head);
    o->sum = tn_cksum_add(tn_cksum_pseudo(&c->f.local.ip, &c->f.remote.ip, TN_IPPROTO_TCP, 0), o->head + o->ip_len,
                          o->tcp_len);
    tn_ip_header_put(o->head, &c->f.local.ip, &c->f.remote.ip, TN_IPPROTO_TCP, o->tcp_len + payload, TN_STACK_TTL, 0);
    size_t len = o->ip_len + o->tcp_len + payload;
    o->t = (struct tn_train){.first = o->buf + TN_TRAIN_HEAD, .len = len, .last_len = len, .stride = stride_of(len)};
}

static void put(struct tn_stack *st, struct tn_train_out *o, const struct tn_tcp *c, const struct tn_tcp_seg *seg,
                uint32_t payload)
{
    uint8_t *packet = o->t.first + o->t.count * o->t.stride, *tcp = packet + o->ip_len;
    memcpy(packet, o->head, o->ip_len + o->tcp_len);
    size_t len = o->ip_len + o->tcp_len + payload;
    if (o->ip_len == 20) {
        tn_put_be16(packet + 2, (uint16_t)len);
        tn_put_be16(packet + 4, st->ip_id++);
        tn_put_be16(packet + 10, 0);
        tn_put_be16(packet + 10, tn_cksum_fold(tn_cksum_add(0, packet, 20)));
    } else {
        tn_put_be16(packet + 4, (uint16_t)(len - 40));
    }
    tn_put_be32(tcp + SEQ_AT, seg->seq);
    tcp[FLAGS_AT] = seg->flags;
    uint32_t sum = o->sum + (seg->seq >> 16) + (seg->seq & 0xffff) + (uint32_t)(seg->flags ^ TN_TCP_ACK) +
                   (uint32_t)(o->tcp_len + payload);
    sum = tn_queue_read_sum(&c->sendq, seg->seq - c->snd_una, tcp + o->tcp_len, payload, sum);
    tn_put_be16(tcp + CKSUM_AT, tn_cksum_fold(sum));
    o->t.count++;
    o->t.last_len = len;
    o->next_seq = seg->seq + payload;
    o->closed = len < o->t.len || seg->flags & TN_TCP_PSH;
}

bool tn_train_add(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint32_t payload)
{
    struct tn_stack *st = c->st;
    struct tn_train_out *o = obtain(st);
    if (!o) return false;
    if (seg->nsack || payload == 0 || (seg->flags & ~TN_TCP_PSH) != TN_TCP_ACK) return false;
    if (!continues(o, c, seg, payload)) {
        tn_train_flush(st);
        if (seg->flags & TN_TCP_PSH) return false; /* nothing can follow: an ordinary packet */
        if (!take_buffer(st, o)) return false;
        begin(o, c, seg, payload);
    }
    put(st, o, c, seg, payload);
    return true;
}

/* ---- datagrams ---- */

static bool continues_udp(const struct tn_train_out *o, const struct tn_addrport *from, const struct tn_addrport *to,
                          size_t len)
{
    return o->t.count && !o->flow && !o->closed && len <= o->t.len && (o->t.count + 1) * o->t.stride <= TN_TRAIN_BYTES &&
           tn_addrport_eq(&o->from, from) && tn_addrport_eq(&o->to, to);
}

bool tn_train_add_udp(struct tn_stack *st, const struct tn_addrport *from, const struct tn_addrport *to, const uint8_t *bytes,
                      size_t payload)
{
    enum { UDP_HDR = 8, UDP_CKSUM_AT = 6 };
    size_t ip_len = from->ip.family == 4 ? 20 : 40, l4_len = UDP_HDR + payload, len = ip_len + l4_len;
    struct tn_train_out *o = st->in_batch && payload && len <= st->mtu ? obtain(st) : NULL;
    if (!o) return false;
    if (!continues_udp(o, from, to, len)) {
        tn_train_flush(st);
        if (!take_buffer(st, o)) return false;
        o->flow = NULL;
        o->from = *from;
        o->to = *to;
        o->t = (struct tn_train){.first = o->buf + TN_TRAIN_HEAD, .len = len, .stride = stride_of(len)};
    }
    uint8_t *packet = o->t.first + o->t.count * o->t.stride, *udp = packet + ip_len;
    tn_ip_header_put(packet, &from->ip, &to->ip, TN_IPPROTO_UDP, l4_len, TN_STACK_TTL, st->ip_id++);
    tn_udp_hdr_put(udp, from->port, to->port, payload);
    uint32_t sum = tn_cksum_add(tn_cksum_pseudo(&from->ip, &to->ip, TN_IPPROTO_UDP, (uint32_t)l4_len), udp, UDP_HDR);
    uint16_t cksum = tn_cksum_fold(tn_cksum_copy(sum, udp + UDP_HDR, bytes, payload));
    tn_put_be16(udp + UDP_CKSUM_AT, cksum ? cksum : 0xffff); /* zero means "none" */
    o->t.count++;
    o->t.last_len = len;
    o->closed = len < o->t.len;
    return true;
}
