/* TCP's states, segment by segment: RFC 9293, resets and challenges of RFC 5961, TIME_WAIT, owners who leave. */
#include "script.h"

#include "wire/icmp.h"

/* ---- opening ---- */

static void active_open(void **state)
{
    struct script *s = s_new();
    assert_int_equal(tn_tcp_connect(s->st, NULL, &s->remote, &s_events, s, s->now, &s->c), 0);
    s->local = tn_tcp_local(s->c);
    struct tn_tcp_seg syn = s_expect(s, S, -1, 0, 0);
    assert_true(syn.has_ts && syn.has_wscale && syn.sack_ok);
    assert_int_equal(syn.mss, 1240);
    assert_int_equal(syn.wscale, WSCALE);
    s_in(s, S | A, -1, 0, 65535, 0);
    s_expect(s, A, 0, 0, 0);
    assert_int_equal(s->opened, 1);
    s_free(s);
}

static void peer_without_options(void **state)
{
    struct script *s = s_new();
    s->ts = s->sack = s->wscale = false;
    s_connect(s);
    struct tn_tcp_info info;
    tn_tcp_info(s->c, &info);
    assert_int_equal(info.mss, 1240);
    assert_int_equal(info.rcv_wnd, 65535);
    s_write(s, 1300);
    struct tn_tcp_seg seg = s_expect(s, A, 0, 0, 1240);
    assert_false(seg.has_ts);
    s_expect(s, A, 1240, 0, 60);
    s_free(s);
}

static void refused(void **state)
{
    struct script *s = s_new();
    assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &s->c), 0);
    s_take(s);
    s_in(s, R, 0, 0, 0, 0); /* without an ACK it proves nothing */
    assert_int_equal(s->closed, 0);
    s_in(s, R | A, 0, 5, 0, 0);
    s_in(s, S | A, -1, 5, 65535, 0); /* acknowledges what was never sent */
    struct tn_tcp_seg rst = s_take(s);
    assert_int_equal(rst.flags, R);
    assert_int_equal((int32_t)rst.seq, 5);
    s_in(s, R | A, 0, 0, 0, 0);
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, TN_E_REFUSED);
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
}

static void connect_times_out(void **state)
{
    struct script *s = s_new();
    assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &s->c), 0);
    uint64_t start = s->now, before = 0;
    for (unsigned i = 0; i <= TN_TCP_SYN_RETRIES; i++) {
        s_expect(s, S, -1, 0, 0);
        uint64_t at = tn_stack_next_deadline(s->st);
        if (before) assert_true(at - s->now == 2 * before || at - s->now == TN_RTO_MAX_US);
        before = at - s->now;
        s_pass(s, before);
    }
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, TN_E_TIMEDOUT);
    assert_true(s->now - start < 180 * 1000000ull);
    s_free(s);
}

static void unreachable_ends_an_attempt(void **state)
{
    struct script *s = s_new();
    for (int right = 0; right < 2; right++) {
        assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &s->c), 0);
        struct emitted syn = s->q[s->tail % QUEUE];
        s_take(s);
        uint8_t packet[20 + 8 + 64], *icmp = packet + 20;
        tn_icmp_put(icmp, 4, TN_ICMP_UNREACH_HOST, 0, 0);
        memcpy(icmp + 8, syn.bytes, syn.len);
        if (!right) icmp[8 + 20 + 7] ^= 1; /* another sequence number: somebody guesses */
        size_t len = 8 + syn.len;
        tn_put_be16(icmp + 2, tn_cksum_fold(tn_cksum_add(0, icmp, len)));
        struct tn_ip router = tn_ip4(100, 64, 0, 9);
        tn_ip_header_put(packet, &router, &s->local.ip, TN_IPPROTO_ICMP, len, 64, 1);
        tn_stack_input(s->st, packet, 20 + len, s->now);
        assert_int_equal(s->closed, right);
        if (!right) tn_tcp_abort(s->c, s->now);
    }
    assert_int_equal(s->close_err, TN_E_HOSTUNREACH);
    s_free(s);
}

static void passive_open(void **state)
{
    struct script *s = s_new();
    s_listen(s);
    s_in(s, S, -1, 0, 65535, 0);
    struct tn_tcp_seg seg = s_expect(s, S | A, -1, 0, 0);
    assert_true(seg.has_ts && seg.has_wscale && seg.sack_ok);
    assert_int_equal(seg.tsecr, s->tsval);
    s_in(s, S, -1, 0, 65535, 0); /* our answer was lost */
    s_expect(s, S | A, -1, 0, 0);
    s_in(s, A, 0, 3, 512, 0); /* an ACK of something else */
    seg = s_take(s);
    assert_int_equal(seg.flags, R);
    s_in(s, A, 0, 0, 512, 10); /* the ACK may bring data */
    assert_int_equal(s->accepted, 1);
    assert_int_equal(tn_tcp_readable(s->c), 10);
    assert_int_equal(s->readable, 1);
    s_free(s);
}

static void options_not_offered_are_not_used(void **state)
{
    struct script *s = s_new();
    s->ts = s->sack = s->wscale = false;
    s_listen(s);
    s_in(s, S, -1, 0, 1000, 0);
    struct tn_tcp_seg seg = s_expect(s, S | A, -1, 0, 0);
    assert_false(seg.has_ts || seg.has_wscale || seg.sack_ok);
    s_free(s);
}

static void syn_ack_is_given_up(void **state)
{
    struct script *s = s_new();
    s_listen(s);
    s_in(s, S, -1, 0, 65535, 0);
    assert_int_equal(s_stats(s).half_open, 1);
    s_pass(s, 120 * 1000000ull);
    for (unsigned i = 0; i <= TN_TCP_SYNACK_RETRIES; i++) s_expect(s, S | A, -1, 0, 0);
    assert_int_equal(s_take(s).flags, R | A);
    s_none(s);
    assert_int_equal(s_stats(s).half_open, 0);
    assert_int_equal(s_stats(s).flows, 0);
    assert_int_equal(s->accepted + s->closed, 0);
    s_free(s);
}

static void backlog_is_a_limit(void **state)
{
    struct script *s = s_new();
    s_listen(s);
    for (int i = 0; i < 10; i++) {
        s->remote.port = (uint16_t)(THEIRS + i);
        s_in(s, S, -1, 0, 65535, 0);
    }
    assert_int_equal(s_stats(s).half_open, 4);
    s->remote.port = THEIRS;
    s->iss = 0;
    s_take(s);
    s_in(s, R, 0, 0, 0, 0); /* one peer gives up: room for another */
    assert_int_equal(s_stats(s).half_open, 3);
    s_free(s);
}

static void accept_refused(void **state)
{
    struct script *s = s_new();
    s->refuse_accept = true;
    s_listen(s);
    s_in(s, S, -1, 0, 65535, 0);
    s_take(s);
    s_in(s, A, 0, 0, 512, 0);
    assert_int_equal(s->accepted, 1);
    s_expect(s, R | A, 0, 0, 0);
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
}

static void unlisten_during_handshake(void **state)
{
    struct script *s = s_new();
    s_listen(s);
    s_in(s, S, -1, 0, 65535, 0);
    s_take(s);
    tn_tcp_unlisten(s->l);
    s_in(s, A, 0, 0, 512, 0);
    s_expect(s, R | A, 0, 0, 0);
    assert_int_equal(s->accepted, 0);
    s_in(s, S, -1, 0, 65535, 0);
    assert_int_equal(s_take(s).flags, R | A);
    s_free(s);
}

static void simultaneous_open(void **state)
{
    struct script *s = s_new();
    assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &s->c), 0);
    s_expect(s, S, -1, 0, 0);
    s_in(s, S, -1, 0, 65535, 0);
    s_expect(s, S | A, -1, 0, 0);
    assert_int_equal(s->opened, 0);
    s_in(s, S | A, -1, 0, 65535, 0);
    s_expect(s, A, 0, 0, 0);
    assert_int_equal(s->opened, 1);
    s_in(s, A, 0, 0, 512, 4);
    assert_int_equal(tn_tcp_readable(s->c), 4);
    s_free(s);
}

/* ---- the SYN gate ---- */

static void held_syn_accepted(void **state)
{
    struct script *s = s_new();
    struct tn_addrport own = s->local;
    s->local.ip = tn_ip4(1, 2, 3, 4);
    s->verdict = TN_SYN_HELD;
    s_in(s, S, -1, 0, 4321, 0);
    s_in(s, S, -1, 0, 4321, 0);
    assert_int_equal(s->foreign_syns, 2);
    s_none(s);
    assert_int_equal(s->syn.mss, 1240);
    assert_int_equal(s->syn.window, 4321);
    assert_true(s->syn.has_ts && s->syn.sack_ok && s->syn.has_wscale && !s->syn.ecn);
    assert_true(tn_addrport_eq(&s->syn.src, &s->remote) && tn_addrport_eq(&s->syn.dst, &s->local));
    assert_int_equal(tn_tcp_accept_syn(s->st, &s->syn, &s_events, s, s->now, &s->c), 0);
    assert_int_equal(tn_tcp_accept_syn(s->st, &s->syn, &s_events, s, s->now, &s->c), TN_E_EXIST);
    s_expect(s, S | A, -1, 0, 0);
    s_in(s, S, -1, 0, 4321, 0);
    assert_int_equal(s->foreign_syns, 2); /* the flow's from here on */
    s_expect(s, S | A, -1, 0, 0);
    s_in(s, A, 0, 0, 512, 0);
    assert_int_equal(s->opened, 1);
    /* Addresses of ours that go away don't concern it. */
    assert_int_equal(tn_stack_set_addrs(s->st, &own.ip, 0, s->now), 0);
    assert_int_equal(s->closed, 0);
    s_in(s, R, 0, 0, 0, 0);
    assert_int_equal(s->close_err, TN_E_RESET);
    s_free(s);
}

static void held_syn_refused(void **state)
{
    struct script *s = s_new();
    s->local.ip = tn_ip4(1, 2, 3, 4);
    s->verdict = TN_SYN_HELD;
    s_in(s, S, -1, 0, 4321, 0);
    tn_stack_reset_syn(s->st, &s->syn, s->now);
    s->iss = (uint32_t)-1;
    s_expect(s, R | A, 0, 0, 0);
    s->held = true;
    s_in(s, R, 0, 0, 0, 0);
    s_in(s, A, 0, 0, 0, 0);
    s_none(s);
    assert_int_equal(s->foreign_rsts, 1);
    assert_int_equal(s->foreign_others, 1);
    s->held = false;
    s_in(s, A, 0, 77, 0, 0);
    assert_int_equal(s_take(s).flags, R);
    s->verdict = TN_SYN_RESET;
    s_in(s, S, -1, 0, 4321, 0);
    s_expect(s, R | A, 0, 0, 0);
    s->verdict = TN_SYN_DROP;
    s_in(s, S, -1, 0, 4321, 0);
    s_none(s);
    s_free(s);
}

static void held_syn_times_out_half_open(void **state)
{
    struct script *s = s_new();
    s->local.ip = tn_ip4(1, 2, 3, 4);
    s->verdict = TN_SYN_HELD;
    s_in(s, S, -1, 0, 4321, 0);
    assert_int_equal(tn_tcp_accept_syn(s->st, &s->syn, &s_events, s, s->now, &s->c), 0);
    s_pass(s, 120 * 1000000ull);
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, TN_E_TIMEDOUT);
    s_free(s);
}

/* ---- closing ---- */

static void active_close(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_tcp_shutdown(s->c, s->now);
    s_expect(s, F | A, 0, 0, 0);
    assert_int_equal(tn_tcp_write(s->c, "x", 1, s->now), TN_E_PIPE);
    s_in(s, A, 0, 1, 512, 0);
    s_in(s, A, 0, 1, 512, 100); /* half-closed: the peer goes on */
    s_expect(s, A, 1, 100, 0);
    assert_int_equal(tn_tcp_readable(s->c), 100);
    s_in(s, F | A, 100, 1, 512, 0);
    s_expect(s, A, 1, 101, 0);
    assert_int_equal(s->closed, 0); /* 100 bytes are unread */
    assert_int_equal(s_stats(s).time_wait, 1);
    s_consume(s, 100);
    assert_true(tn_tcp_eof(s->c));
    assert_int_equal(s->closed, 0); /* never from inside a call */
    s_pass(s, 0);
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, 0);
    s_in(s, F | A, 100, 1, 512, 0); /* our last ACK was lost */
    s_expect(s, A, 1, 101, 0);
    s_pass(s, TN_TCP_TIME_WAIT_US - 1);
    assert_int_equal(s_stats(s).time_wait, 1);
    s_pass(s, 1);
    assert_int_equal(s_stats(s).time_wait, 0);
    assert_true(tn_stack_next_deadline(s->st) == TN_NEVER);
    s_free(s);
}

static void passive_close(void **state)
{
    struct script *s = s_new();
    s_accept(s);
    s_in(s, F | A, 0, 0, 512, 5);
    s_expect(s, A, 0, 6, 0);
    s_consume(s, 5);
    assert_true(tn_tcp_eof(s->c));
    s_write(s, 10); /* half-closed by the peer: we go on */
    s_expect(s, A, 0, 6, 10);
    tn_tcp_shutdown(s->c, s->now);
    s_expect(s, F | A, 10, 6, 0);
    s_in(s, A, 6, 11, 512, 0);
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, 0);
    assert_int_equal(s_stats(s).time_wait, 0);
    assert_int_equal(s_stats(s).chunk_bytes, 0);
    s_free(s);
}

static void simultaneous_close(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_tcp_shutdown(s->c, s->now);
    s_expect(s, F | A, 0, 0, 0);
    s_in(s, F | A, 0, 0, 512, 0);
    s_expect(s, A, 1, 1, 0);
    assert_int_equal(s->closed, 0);
    s_in(s, A, 1, 1, 512, 0);
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, 0);
    assert_int_equal(s_stats(s).time_wait, 1);
    s_free(s);
}

static void fin_out_of_order(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, F | A, 50, 0, 512, 50); /* bytes 50-99 and the FIN */
    struct tn_tcp_seg seg = s_expect(s, A, 0, 0, 0);
    assert_int_equal(seg.nsack, 1);
    assert_int_equal(seg.sack[0].start, 50);
    assert_int_equal(seg.sack[0].end, 101);
    s_in(s, F | A, 30, 0, 512, 0);  /* contradicts it */
    s_in(s, A, 90, 0, 512, 100);    /* so do bytes beyond it */
    s_discard(s);
    assert_false(tn_tcp_eof(s->c));
    s_in(s, A, 0, 0, 512, 50);
    s_expect(s, A, 0, 101, 0);
    assert_int_equal(tn_tcp_readable(s->c), 100);
    struct iovec v;
    assert_int_equal(tn_tcp_peek(s->c, &v, 1), 1);
    for (int i = 0; i < 100; i++) assert_int_equal(((uint8_t *)v.iov_base)[i], i);
    s_consume(s, 100);
    assert_true(tn_tcp_eof(s->c));
    s_free(s);
}

static void fin_waits_for_the_data(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_write(s, 20000);
    tn_tcp_shutdown(s->c, s->now);
    for (unsigned i = 0; i < TN_CC_IW_SEGS; i++) s_expect(s, A, (int32_t)i * 1228, 0, 1228);
    s_none(s);
    s_in(s, A, 0, 12280, 512, 0);
    unsigned at = 12280;
    while (!s_empty(s)) {
        struct tn_tcp_seg seg = s_take(s);
        assert_int_equal(seg.seq, at);
        at += (unsigned)seg.len;
        assert_int_equal(seg.flags & F, at == 20000 ? F : 0);
    }
    assert_int_equal(at, 20000);
    s_in(s, A, 0, 20001, 512, 0);
    s_in(s, F | A, 0, 20001, 512, 0);
    assert_int_equal(s->closed, 1);
    s_free(s);
}

/* ---- resets and challenges (RFC 5961) ---- */

static void reset_must_be_exact(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, R, 5, 0, 0, 0); /* in the window, but not the next number */
    s_expect(s, A, 0, 0, 0);
    assert_int_equal(s->closed, 0);
    s_in(s, R, 6, 0, 0, 0); /* the answers are limited */
    s_none(s);
    s_pass(s, 200000);
    s_in(s, R, 1000000000, 0, 0, 0); /* outside: silence */
    s_in(s, R, -5, 0, 0, 0);
    s_none(s);
    assert_int_equal(s->closed, 0);
    s_in(s, R, 0, 0, 0, 0);
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, TN_E_RESET);
    s_free(s);
}

static void syn_in_a_connection(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, S, 10, 0, 65535, 0);
    s_expect(s, A, 0, 0, 0);
    s_pass(s, 200000);
    s_in(s, S | A, -1, 0, 65535, 0);
    s_expect(s, A, 0, 0, 0);
    assert_int_equal(s->closed, 0);
    assert_int_equal(s_stats(s).challenge_acks, 2);
    s_free(s);
}

static void ack_of_the_future_and_the_past(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_write(s, 100);
    s_take(s);
    s_in(s, A, 0, 101, 512, 10);
    s_expect(s, A, 100, 0, 0);
    assert_int_equal(tn_tcp_readable(s->c), 0); /* the segment is dropped with its data */
    s_pass(s, 150000);
    s_discard(s);
    s_in(s, A, 0, -100000000, 512, 10);
    s_expect(s, A, 100, 0, 0);
    assert_int_equal(tn_tcp_readable(s->c), 0);
    s_in(s, A, 0, -10, 512, 10); /* a little old: its data counts */
    assert_int_equal(tn_tcp_readable(s->c), 10);
    s_free(s);
}

static void segment_without_connection(void **state)
{
    struct script *s = s_new();
    s->iss = 0;
    s_in(s, A, 0, 41, 512, 10);
    struct tn_tcp_seg rst = s_take(s);
    assert_int_equal(rst.flags, R);
    assert_int_equal(rst.seq, 41);
    s_in(s, F, 3, 0, 512, 10);
    rst = s_take(s);
    assert_int_equal(rst.flags, R | A);
    assert_int_equal(rst.ack, 14);
    s_in(s, R, 0, 0, 0, 0);
    s_in(s, R | A, 0, 0, 0, 0);
    s_none(s);
    s_free(s);
}

/* ---- TIME_WAIT ---- */

static void into_time_wait(struct script *s)
{
    s_accept(s);
    tn_tcp_shutdown(s->c, s->now);
    s_take(s);
    s_in(s, F | A, 0, 1, 512, 0);
    s_expect(s, A, 1, 1, 0);
    assert_int_equal(s_stats(s).time_wait, 1);
}

static void time_wait_ignores_resets(void **state)
{
    struct script *s = s_new();
    into_time_wait(s);
    s_in(s, R, 1, 0, 0, 0);
    assert_int_equal(s_stats(s).time_wait, 1);
    s_in(s, A, 1, 1, 512, 0); /* what is in order needs no answer */
    s_none(s);
    s_in(s, A, 0, 1, 512, 1);
    s_expect(s, A, 1, 1, 0);
    s_in(s, A, 0, 1, 512, 1);
    s_none(s); /* not twice at once */
    s_free(s);
}

static void time_wait_gives_way(void **state)
{
    struct script *s = s_new();
    into_time_wait(s);
    s->tsval -= 5;
    s_in(s, S, -100, 0, 65535, 0); /* old in both numbers */
    assert_int_equal(s_stats(s).time_wait, 1);
    s_expect(s, A, 1, 1, 0);
    s->tsval += 6;
    s_in(s, S, -100, 0, 65535, 0); /* a newer timestamp is enough */
    assert_int_equal(s_stats(s).time_wait, 0);
    assert_int_equal(s_take(s).flags, S | A);
    s_free(s);
    s = s_new();
    s->ts = false;
    into_time_wait(s);
    s_in(s, S, 5000, 0, 65535, 0); /* and so is a higher sequence number */
    assert_int_equal(s_take(s).flags, S | A);
    s_free(s);
}

static void time_wait_of_a_foreign_address(void **state)
{
    struct script *s = s_new();
    s->local.ip = tn_ip4(1, 2, 3, 4);
    s->verdict = TN_SYN_HELD;
    s_in(s, S, -1, 0, 65535, 0);
    assert_int_equal(tn_tcp_accept_syn(s->st, &s->syn, &s_events, s, s->now, &s->c), 0);
    s_take(s);
    s_in(s, A, 0, 0, 512, 0);
    tn_tcp_release(s->c, s->now);
    s_expect(s, F | A, 0, 0, 0);
    s_in(s, F | A, 0, 1, 512, 0);
    assert_int_equal(s_stats(s).time_wait, 1);
    s->tsval += 100;
    s_in(s, S, 100, 0, 65535, 0); /* goes through the gate again */
    assert_int_equal(s->foreign_syns, 2);
    assert_int_equal(s_stats(s).time_wait, 0);
    s_free(s);
}

/* ---- many flows ---- */

enum { MANY = 1200 };

static struct tn_tcp *accept_from(struct script *s, uint16_t port)
{
    struct tn_syn syn = {.src = s->remote, .dst = s->local, .seq = PEER_ISS, .window = 65535};
    struct tn_tcp *c;
    syn.src.port = port;
    assert_int_equal(tn_tcp_accept_syn(s->st, &syn, &s_events, s, s->now, &c), 0);
    s_discard(s);
    return c;
}

/* A batch of packets is announced; what is fetched for them may be gone when they come. */
static void expected_flows_may_go(void **state)
{
    enum { N = 20 };
    struct script *s = s_new();
    static struct tn_tcp *c[MANY];
    uint8_t bytes[N][60] = {{0}}, *tiny = malloc(1);
    struct iovec packets[N + 2];
    for (int i = 0; i < MANY; i++) c[i] = accept_from(s, (uint16_t)(1000 + i));
    for (int i = 0; i < N; i++) {
        struct tn_tcp_seg seg = {.sport = (uint16_t)(1000 + i), .dport = OURS, .flags = A, .seq = PEER_ISS + 1};
        size_t hdr = tn_tcp_seg_put(bytes[i] + 20, &seg);
        tn_put_be16(bytes[i] + 36, tn_cksum_fold(tn_cksum_add(
            tn_cksum_pseudo(&s->remote.ip, &s->local.ip, TN_IPPROTO_TCP, (uint32_t)hdr), bytes[i] + 20, hdr)));
        tn_ip_header_put(bytes[i], &s->remote.ip, &s->local.ip, TN_IPPROTO_TCP, hdr, 64, 1);
        packets[i] = (struct iovec){bytes[i], 20 + hdr};
    }
    *tiny = 0x60;
    packets[N] = (struct iovec){tiny, 1};
    packets[N + 1] = (struct iovec){bytes[0], 39};
    tn_stack_expect(s->st, packets, N + 2);
    free(tiny);
    assert_int_equal(s->st->ahead.count, N);
    for (int i = 0; i < N; i += 2) tn_tcp_abort(c[i], s->now);
    s_discard(s);
    for (int i = 0; i < N; i++) tn_stack_input(s->st, packets[i].iov_base, packets[i].iov_len, s->now);
    assert_int_equal(s->st->ahead.next, N);
    for (int i = 0; i < N; i++) assert_int_equal(s_take(s).flags, R); /* nobody there, or no ACK of our SYN */
    assert_int_equal(s_stats(s).flows, MANY - N / 2);
    s_free(s);
}

/* ---- owners who leave ---- */

static void abort_resets(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_write(s, 10);
    s_take(s);
    tn_tcp_abort(s->c, s->now);
    s_expect(s, R | A, 10, 0, 0);
    s_pass(s, 100 * 1000000ull);
    s_none(s);
    assert_int_equal(s->closed, 0);
    assert_int_equal(s_stats(s).flows, 0);
    assert_int_equal(s_stats(s).chunk_bytes, 0);
    s_free(s);
}

static void release_closes_in_order(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_write(s, 10);
    tn_tcp_release(s->c, s->now);
    s_expect(s, A, 0, 0, 10);
    s_expect(s, F | A, 10, 0, 0);
    s_in(s, A, 0, 11, 512, 0);
    s_in(s, F | A, 0, 11, 512, 0);
    s_expect(s, A, 11, 1, 0);
    assert_int_equal(s->closed, 0);
    assert_int_equal(s_stats(s).flows, 0);
    assert_int_equal(s_stats(s).time_wait, 1);
    s_free(s);
}

static void release_refuses_more(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_tcp_release(s->c, s->now);
    s_expect(s, F | A, 0, 0, 0);
    s_in(s, A, 0, 1, 512, 5);
    s_expect(s, R | A, 1, 0, 0);
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
}

static void release_with_unread_bytes(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 512, 5);
    s_discard(s);
    tn_tcp_release(s->c, s->now);
    s_expect(s, R | A, 0, 5, 0);
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
}

static void release_does_not_wait_for_ever(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_tcp_release(s->c, s->now);
    s_take(s);
    s_in(s, A, 0, 1, 512, 0); /* FIN_WAIT_2, and the peer never closes */
    s_pass(s, TN_TCP_ORPHAN_TIMEOUT_US - 1);
    assert_int_equal(s_stats(s).flows, 1);
    s_pass(s, 1);
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
    s = s_new();
    s_connect(s);
    s_write(s, 100);
    tn_tcp_release(s->c, s->now); /* and here it is gone */
    s_pass(s, 3 * TN_TCP_ORPHAN_TIMEOUT_US);
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
    s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 0, 0); /* and here its window stays closed */
    s_write(s, 100);
    tn_tcp_release(s->c, s->now);
    for (int i = 0; i < 300; i++) {
        s_pass(s, 1000000);
        s_in(s, A, 0, 0, 0, 0);
        s_discard(s);
    }
    assert_int_equal(s_stats(s).flows, 0);
    s_free(s);
}

static void release_before_the_handshake(void **state)
{
    struct script *s = s_new();
    assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &s->c), 0);
    s_take(s);
    tn_tcp_release(s->c, s->now);
    s_none(s);
    assert_int_equal(s_stats(s).flows, 0);
    s_in(s, S | A, -1, 0, 65535, 0);
    assert_int_equal(s_take(s).flags, R);
    s_free(s);
}

static void address_gone(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    struct tn_ip other = tn_ip4(100, 64, 0, 77);
    assert_int_equal(tn_stack_set_addrs(s->st, &other, 1, s->now), 0);
    s_expect(s, R | A, 0, 0, 0);
    assert_int_equal(s->closed, 0);
    assert_true(tn_stack_next_deadline(s->st) <= s->now);
    s_pass(s, 0);
    assert_int_equal(s->close_err, TN_E_RESET);
    s_free(s);
}

static void reset_takes_unread_bytes(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, 0, 0, 512, 500);
    s_in(s, R, 500, 0, 0, 0);
    assert_int_equal(s->close_err, TN_E_RESET);
    assert_int_equal(s_stats(s).chunk_bytes, 0);
    s_free(s);
}

/* A reset after the peer's FIN, before anything was read, must not look like the end of the stream. */
static void reset_after_fin_is_no_end(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    struct tn_tcp *c = s->c;
    s_in(s, F | A, 0, 0, 512, 500);
    assert_false(tn_tcp_eof(c));
    tn_stack_enter(s->st); /* hold the close back, as an owner sees it who looks before it is delivered */
    s_in(s, R, 501, 0, 0, 0);
    assert_int_equal(tn_tcp_readable(c), 0);
    assert_false(tn_tcp_eof(c));
    tn_stack_leave(s->st, true, s->now);
    assert_int_equal(s->close_err, TN_E_RESET);
    s_free(s);
}

/* ---- keepalive ---- */

static void keepalive(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    tn_tcp_set_keepalive(s->c, 10000000, 1000000, 3, s->now);
    s_pass(s, 9990000);
    s_none(s);
    s_pass(s, 20000);
    s_expect(s, A, -1, 0, 0);
    s_in(s, A, 0, 0, 512, 0); /* alive */
    s_pass(s, 9900000);
    s_none(s);
    s_pass(s, 3500000);
    for (int i = 0; i < 3; i++) s_expect(s, A, -1, 0, 0);
    assert_int_equal(s->closed, 1);
    assert_int_equal(s->close_err, TN_E_TIMEDOUT);
    s_expect(s, R | A, 0, 0, 0);
    s_free(s);
}

static void answers_keepalive(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    s_in(s, A, -1, 0, 512, 0);
    s_expect(s, A, 0, 0, 0);
    s_pass(s, 1000000);
    s_in(s, A, -1, 0, 512, 1); /* with a garbage byte, as some do */
    s_expect(s, A, 0, 0, 0);
    assert_int_equal(tn_tcp_readable(s->c), 0);
    s_free(s);
}

/* ---- ports and limits ---- */

static void ports(void **state)
{
    struct script *s = s_new();
    s_connect(s);
    struct tn_tcp *c;
    assert_int_equal(tn_tcp_connect(s->st, &s->local, &s->remote, &s_events, s, s->now, &c), TN_E_ADDRINUSE);
    struct tn_addrport bad = {tn_ip4(9, 9, 9, 9), 1}, zero = {s->local.ip, 0}, v6 = {{6, {0xfd}}, 1};
    assert_int_equal(tn_tcp_connect(s->st, &bad, &s->remote, &s_events, s, s->now, &c), TN_E_INVAL);
    assert_int_equal(tn_tcp_connect(s->st, NULL, &v6, &s_events, s, s->now, &c), TN_E_NETUNREACH);
    assert_int_equal(tn_tcp_connect(s->st, NULL, &zero, &s_events, s, s->now, &c), TN_E_INVAL);
    struct tn_tcp_listener *l;
    assert_int_equal(tn_tcp_listen(s->st, &zero, 1, s_on_accept, s, &l), TN_E_INVAL);
    assert_int_equal(tn_tcp_listen(s->st, &bad, 1, s_on_accept, s, &l), TN_E_INVAL);
    s_listen(s);
    assert_int_equal(tn_tcp_listen(s->st, &s->local, 1, s_on_accept, s, &l), TN_E_ADDRINUSE);
    s_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(active_open), TEST(peer_without_options), TEST(refused), TEST(connect_times_out),
        TEST(unreachable_ends_an_attempt), TEST(passive_open), TEST(options_not_offered_are_not_used),
        TEST(syn_ack_is_given_up), TEST(backlog_is_a_limit), TEST(accept_refused), TEST(unlisten_during_handshake),
        TEST(simultaneous_open), TEST(held_syn_accepted), TEST(held_syn_refused), TEST(held_syn_times_out_half_open),
        TEST(active_close), TEST(passive_close), TEST(simultaneous_close), TEST(fin_out_of_order),
        TEST(fin_waits_for_the_data), TEST(reset_must_be_exact), TEST(syn_in_a_connection),
        TEST(ack_of_the_future_and_the_past), TEST(segment_without_connection), TEST(time_wait_ignores_resets),
        TEST(expected_flows_may_go),
        TEST(time_wait_gives_way), TEST(time_wait_of_a_foreign_address), TEST(abort_resets),
        TEST(release_closes_in_order), TEST(release_refuses_more), TEST(release_with_unread_bytes),
        TEST(release_does_not_wait_for_ever), TEST(release_before_the_handshake), TEST(address_gone),
        TEST(reset_takes_unread_bytes), TEST(reset_after_fin_is_no_end), TEST(keepalive), TEST(answers_keepalive), TEST(ports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
