/* What the files of this room share. Not for other rooms.
 *
 * Life of a call. Every entry point brackets its work with tn_stack_enter and tn_stack_leave. Segments are emitted
 * while it runs; callbacks into owners are not made there but noted (tn_tcp_raise) and delivered when the outermost
 * tn_stack_input or tn_stack_timeout is about to return, so no owner sees a flow in the middle of a change, and no
 * tn_tcp_* call ever calls back. A flow that ends is taken out of all tables at once (tn_tcp_destroy), and its memory
 * is freed when the outermost call leaves. The output callback may call in again; so each emitting loop looks at the
 * flow's state anew after each packet.
 *
 * Life of bytes. sendq holds [snd_una, snd_una + len): acknowledged bytes leave it. recvq holds [rcv_nxt - len,
 * rcv_nxt) plus what came out of order beyond. A FIN is a sequence number after the bytes, in neither queue. */
#ifndef TN_STACK_INTERNAL_H
#define TN_STACK_INTERNAL_H

#include "stack/cc.h"
#include "stack/ipreass.h"
#include "stack/pace.h"
#include "stack/queue.h"
#include "stack/ratelim.h"
#include "stack/reass.h"
#include "stack/rtt.h"
#include "stack/sack.h"
#include "stack/seq.h"
#include "stack/stack.h"
#include "util/err.h"
#include "util/heap.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"
#include "wire/ip.h"

enum {
    TN_STACK_MTU_MIN = 576,  /* what IPv4 hosts must take; with IPv6 1280 is the least that makes sense */
    TN_STACK_MTU_MAX = 9000, /* a packet is built on the C stack */
    TN_STACK_FLOWS_MAX = 1 << 18,
    TN_STACK_HALF_OPEN_MAX = 4096,  /* 2 MiB of control blocks that a SYN flood may cost */
    TN_STACK_ORPHANS_MAX = 8192,    /* flows closing without an owner; beyond that release means reset */
    TN_STACK_TIME_WAIT_MAX = 16384, /* the oldest gives way */
    TN_STACK_ADDRS_MAX = 64,
    TN_STACK_EVENTS_PER_CALL = 1024, /* two owners that excite each other must not hold the loop */
    TN_STACK_TTL = 64,
    TN_STACK_UNANSWERED_MAX = 64, /* flows of one batch; more answer at once */
    TN_STACK_AHEAD = 64,
    TN_TCP_BUFFER_MIN = 4096,
    /* 1 Gbit/s over 80 ms is 10 MB, and four times that wait while lost repairs are repaired. */
    TN_TCP_BUFFER_AUTO = 48 * 1024 * 1024,
    TN_TCP_BUFFER_LIMIT = 64 * 1024 * 1024, /* what the chunk ring can address twice over */
    TN_TCP_RCVBUF_START = 64 * 1024,
    TN_TCP_SNDBUF_START = 32 * 1024,
    TN_TCP_AHEAD_MAX = 2 * 1024 * 1024, /* unsent bytes; 16 ms at 1 Gbit/s until a writer has come round */
    TN_TCP_MSS_MIN = 48, /* a peer announcing less would make us send mostly headers (CVE-2019-11479) */
    TN_TCP_DELACK_US = 40000,
    TN_TCP_QUICKACKS = 16,  /* segments acknowledged at once at the start: slow start is clocked by ACKs */
    TN_TCP_SYN_RETRIES = 6, /* 1+2+4+8+16+32 s and the last wait: gives up after about two minutes */
    TN_TCP_SYNACK_RETRIES = 5,
    TN_TCP_USER_TIMEOUT_US = 300 * 1000000, /* data unacknowledged for so long ends the flow (RFC 1122 R2: > 100 s) */
    TN_TCP_ORPHAN_TIMEOUT_US = 60 * 1000000, /* the same without an owner, and FIN_WAIT_2 without one */
    TN_TCP_TIME_WAIT_US = 60 * 1000000,      /* two times an MSL of 30 s, as Linux has it */
    TN_TCP_OOW_SPACING_US = 100000,          /* between answers to segments without data that are out of window */
};

enum tn_tcp_state {
    TN_TCP_CLOSED, /* destroyed, or being so */
    TN_TCP_SYN_SENT, TN_TCP_SYN_RCVD, TN_TCP_ESTABLISHED, TN_TCP_CLOSE_WAIT, TN_TCP_FIN_WAIT_1, TN_TCP_FIN_WAIT_2,
    TN_TCP_CLOSING, TN_TCP_LAST_ACK,
    TN_TCP_DONE, /* the protocol is through, the owner has bytes left to read; not in the flow table */
    TN_TCP_STATES,
};

enum tn_tcp_event { TN_EV_OPEN = 1, TN_EV_READABLE = 2, TN_EV_WRITABLE = 4, TN_EV_CLOSE = 8, TN_EV_ACCEPT = 16 };

/* What the one retransmission timer stands for at the moment. */
enum tn_tcp_rexmit { TN_RX_NONE, TN_RX_SYN, TN_RX_RTO, TN_RX_PROBE /* tail loss */, TN_RX_REORDER, TN_RX_PERSIST,
                     TN_RX_FIN_WAIT_2 };

/* What the flow table holds: a connection, or what is left of one in TIME_WAIT. */
struct tn_flow {
    struct tn_hnode node;
    struct tn_addrport local, remote;
    bool tlp_out : 1, tlp_is_rexmit : 1; /* a tail loss probe; outlasts the flight, a copy may be reported late */
    bool is_time_wait : 1, unanswered : 1; /* unanswered: in the stack's list of the batch at hand */
    uint8_t state;                    /* enum tn_tcp_state */
    uint8_t snd_wscale, rcv_wscale;
    uint8_t rexmit_kind;
    uint8_t events;                   /* pending */
    uint8_t backoff;                  /* expirations in a row of rexmit */
    uint8_t quickacks;
};

struct tn_time_wait {
    struct tn_flow f;
    struct tn_list node; /* in order of expiry */
    uint64_t expires_us, answered_us;
    uint32_t snd_nxt, rcv_nxt, window, ts_recent, ts_offset;
    bool has_ts;
};

enum tn_tcp_ca { TN_CA_OPEN, TN_CA_RECOVERY, TN_CA_LOSS };

/* Exists while anything is in flight. */
struct tn_flight {
    struct tn_recs recs;
    struct tn_rate rate;
    struct tn_pace pace;
    uint64_t cc_state[TN_CC_FLIGHT / 8];
    /* RACK (RFC 8985): the segment sent last among those known to have arrived. */
    uint64_t rack_xmit_us;
    uint32_t rack_end, rack_rtt_us;
    uint32_t fack; /* highest sequence number known to have arrived */
    /* Recovery */
    uint32_t recover;  /* ends when snd_una reaches it */
    uint32_t prr_delivered, prr_out, prr_fs;
    uint32_t prior_cwnd, prior_ssthresh, undo_una, undo_bytes, undo_tsval;
    uint32_t dupacks;  /* without SACK */
    uint32_t max_inflight; /* of this round, for cwnd validation */
    uint32_t round_end;
    uint32_t dsack_round; /* no second adaptation of the reordering window before this is acknowledged */
    uint64_t reorder_at_us; /* when loss detection looks again, 0: not */
    uint64_t probe_base_us; /* the tail loss probe's timeout counts from here */
    uint64_t rto_base_us; /* the retransmission timeout counts from here */
    uint64_t stuck_us;    /* since when nothing was acknowledged though timeouts happened; 0: not stuck */
    uint8_t ca;        /* enum tn_tcp_ca */
    bool can_undo, rexmitted /* since recovery began */, cwnd_limited, cwnd_limited_now, peer_limited_now;
};

struct tn_tcp {
    struct tn_flow f;
    struct tn_stack *st;
    struct tn_timer timer; /* always armed, at TN_NEVER when idle: re-arming can't fail */
    const struct tn_tcp_events *ev;
    void *arg;
    struct tn_tcp_listener *listener; /* while half-open or not yet accepted */
    struct tn_list event_node;        /* of st->events, then of st->dead */
    struct tn_list wait_node;         /* of st->waiting: for memory */
    struct tn_flight *flight;
    struct tn_reass *reass;
    struct tn_queue sendq, recvq;
    struct tn_account *account; /* of the remote address; NULL: none any more */
    uint32_t accounted;         /* chunks that it knows of */
    uint32_t ts_floor;          /* a timestamp older than this is from another lap; see tcp_input.c */
    uint64_t rexmit_at, delack_at, keep_at; /* TN_NEVER: off */
    uint64_t heard_us;                      /* last acceptable segment */
    uint64_t sent_us;                       /* the SYN, later the last new data */
    uint64_t bytes_sent, bytes_received, bytes_resent;
    uint32_t iss, snd_una, snd_nxt, snd_wnd, snd_wl1 /* of the segment that brought snd_wnd */, snd_wnd_max;
    uint32_t rcv_nxt, rcv_adv /* announced right edge */, acked_nxt /* rcv_nxt in our last ACK */;
    uint32_t fin_seq;                       /* of the peer's FIN, if fin_seen */
    uint32_t rcv_buf;                       /* what the window is sized for; grows (tcp_window.c) */
    uint32_t rcv_rtt_us, meter_bytes;       /* receive-side round trip; bytes consumed in this one */
    uint32_t ts_floor_next;
    uint64_t meter_us;
    struct tn_tcp_sack dsack;               /* to report in the next ACK; empty: none */
    uint32_t ts_recent, ts_offset;
    uint32_t ts_recent_s;                   /* when ts_recent was noted, seconds */
    uint32_t challenge_ms;                  /* last challenge ACK, 0: none; wraps after 49 days, which is harmless */
    struct tn_rtt rtt;
    uint32_t tlp_end;     /* snd_nxt when a tail loss probe was sent, if tlp_out */
    struct tn_cc cc;
    uint32_t buf_max;
    uint32_t reserved;    /* bytes of a tn_tcp_reserve not committed yet */
    uint32_t unacked_bytes; /* received since our last ACK */
    uint32_t keep_idle_ms, keep_interval_ms;
    int16_t err;          /* for TN_EV_CLOSE */
    uint16_t snd_mss;     /* payload of a full segment, options not counted */
    uint16_t rcv_mss;     /* largest segment received so far: what a full one is */
    uint8_t keep_probes, keep_sent;
    uint8_t reo_mult, reo_persist; /* reordering window in quarters of the lowest RTT; recoveries it stays for */
    bool has_ts : 1, has_sack : 1, has_wscale : 1;
    bool own_local : 1;   /* the local address is (or was) one of ours, not a foreign one */
    bool hashed : 1, passive : 1, half_open : 1, orphan : 1;
    bool fin_queued : 1, fin_sent : 1, fin_seen : 1, fin_rcvd : 1;

    bool want_write : 1, nodelay : 1, ack_now : 1, reordering : 1;
};

struct tn_tcp_listener {
    struct tn_hnode node;
    struct tn_stack *st;
    struct tn_list all_node;
    struct tn_addrport local; /* ip family 0: any */
    unsigned backlog, half_open;
    int (*on_accept)(void *arg, struct tn_tcp *c, uint64_t now_us);
    void *arg;
};

struct tn_udp_sock {
    struct tn_hnode node;
    struct tn_stack *st;
    struct tn_list all_node;
    struct tn_addrport local;
    struct tn_udp_events ev;
    void *arg;
};

/* The train being put together (train.c). */
struct tn_train_out {
    struct tn_train t;        /* count 0: none */
    bool lent;                /* its receiver has it */
    bool closed;              /* nothing can follow */
    const struct tn_tcp *flow; /* NULL: datagrams */
    struct tn_addrport from, to; /* of datagrams */
    struct tn_tcp_seg seg;    /* of the first packet */
    uint32_t next_seq, sum;
    size_t ip_len, tcp_len;
    uint8_t head[40 + TN_TCP_HDR_MAX];
    uint8_t *buf;             /* TN_TRAIN_BYTES; whose: stack.h, train_buffer */
    uint8_t *own;             /* NULL until it is needed */
};

struct tn_stack {
    struct tn_stack_callbacks cb;
    void *ctx;
    struct tn_rng rng;
    const struct tn_log *log;
    struct tn_hashkey key, isn_key;
    uint16_t mtu, port_first;
    uint16_t ip_id;
    uint32_t frag_id;
    size_t tcp_buffer_max; /* 0: automatic */
    const struct tn_cc_ops *cc_ops;
    struct tn_ip addrs[TN_STACK_ADDRS_MAX];
    size_t naddrs;
    struct tn_htable flows, listeners, udp_socks, accounts;
    struct tn_list all_listeners, all_socks;
    struct tn_heap timers;
    struct tn_pool pool;
    struct tn_list events, waiting, dead, time_waits, dead_socks;
    struct tn_ipreass reass;
    unsigned depth;
    size_t ntcp, nhalf_open, norphans, ntime_wait;
    struct tn_ratelim unreach_limit, challenge_limit;
    void (*on_echo)(void *arg, const struct tn_ip *from, uint16_t id, uint16_t seq, uint64_t now_us);
    void *echo_arg;
    struct tn_stack_stats stats;
    uint64_t trim_us; /* when the pool is looked at next; 0: nothing to trim */
    struct tn_train_out *train; /* NULL until the first */
    /* Flows of the batch at hand that were given segments and have not answered yet, or hold back what is no full segment.
     * None is freed before it ends. */
    struct tn_tcp *unanswered[TN_STACK_UNANSWERED_MAX];
    unsigned nunanswered;
    bool in_batch;
    struct {
        uintptr_t flow[TN_STACK_AHEAD]; /* addresses to fetch, in the order of their packets */
        size_t count, next;
    } ahead;
};

/* account.c: what the flows of one remote address may hold together. */
int tn_account_open(struct tn_tcp *c);
void tn_account_close(struct tn_tcp *c);
void tn_account_sync(struct tn_tcp *c);
bool tn_account_over(struct tn_tcp *c);   /* nothing more may be received: windows announced earlier can't be taken back */
size_t tn_account_share(const struct tn_tcp *c); /* in place of tn_pool_share, for a flow's queues */

/* ahead.c: fetches the next expected flow */
void tn_stack_ahead_step(struct tn_stack *st);

/* stack.c */
void tn_stack_enter(struct tn_stack *st);
void tn_stack_leave(struct tn_stack *st, bool deliver, uint64_t now_us);
/* Asks for tn_tcp_output at the end of the batch; false: there is none, or its list is full. */
bool tn_stack_output_later(struct tn_tcp *c);
/* What waits for that is sent before it. */
void tn_stack_output_now(struct tn_tcp *c, uint64_t now_us);
/* As tn_stack_output_later, or at once. */
void tn_stack_answer_later(struct tn_tcp *c, uint64_t now_us);
bool tn_stack_is_own(const struct tn_stack *st, const struct tn_ip *ip);
/* One of our addresses of this family, or NULL. */
const struct tn_ip *tn_stack_addr(const struct tn_stack *st, uint8_t family);

/* ip_output.c: puts IP headers before a transport packet and hands it to the output callback, in fragments if it
 * must. */
enum { TN_IP_HDR_MAX = 40 };
struct tn_ip_out {
    uint8_t buf[TN_IP_HDR_MAX + TN_STACK_MTU_MAX];
};
/* Where the transport header starts: fill l4_len bytes there, checksum field zero, then tn_ip_send. */
static inline uint8_t *tn_ip_out_l4(struct tn_ip_out *o) { return o->buf + TN_IP_HDR_MAX; }
/* cksum_at: offset of the checksum field in the transport header, which is filled in; -1: none. */
void tn_ip_send(struct tn_stack *st, struct tn_ip_out *o, const struct tn_ip *src, const struct tn_ip *dst,
                uint8_t proto, size_t l4_len, int cksum_at);
/* Any length up to 65,515 (IPv4) or 65,535 bytes of transport packet, checksum already filled. */
int tn_ip_send_large(struct tn_stack *st, const struct tn_ip *src, const struct tn_ip *dst, uint8_t proto,
                     const uint8_t *l4, size_t l4_len);

/* train.c */
/* Puts a segment with payload bytes of the send queue into a train; false: send it as a packet. */
bool tn_train_add(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint32_t payload);
/* The same for a datagram, within a batch. */
bool tn_train_add_udp(struct tn_stack *st, const struct tn_addrport *from, const struct tn_addrport *to, const uint8_t *bytes,
                      size_t len);
void tn_train_flush(struct tn_stack *st);
void tn_train_free(struct tn_stack *st);

/* demux.c */
uint64_t tn_flow_hash(const struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote);
struct tn_flow *tn_flow_find(const struct tn_stack *st, const struct tn_addrport *local,
                             const struct tn_addrport *remote);
int tn_flow_insert(struct tn_stack *st, struct tn_flow *f);
void tn_flow_remove(struct tn_stack *st, struct tn_flow *f);
uint32_t tn_flow_isn(const struct tn_stack *st, const struct tn_flow *f, uint64_t now_us);
uint32_t tn_flow_ts_offset(const struct tn_stack *st, const struct tn_flow *f);
int tn_flow_pick_port(struct tn_stack *st, struct tn_addrport *local, const struct tn_addrport *remote,
                      uint64_t now_us);
struct tn_tcp_listener *tn_listener_find(const struct tn_stack *st, const struct tn_addrport *local);
struct tn_udp_sock *tn_udp_sock_find(const struct tn_stack *st, const struct tn_addrport *local);
int tn_udp_sock_insert(struct tn_stack *st, struct tn_udp_sock *u);
int tn_listener_insert(struct tn_stack *st, struct tn_tcp_listener *l);

/* icmp.c */
void tn_stack_icmp_input(struct tn_stack *st, const struct tn_ippkt *ip, uint64_t now_us);
/* An error about this packet of ours-to-answer; see tn_stack_unreach. */
bool tn_stack_icmp_error(struct tn_stack *st, enum tn_unreach what, const struct tn_ippkt *ip, const uint8_t *packet,
                         uint64_t now_us);

/* udp.c */
void tn_stack_udp_input(struct tn_stack *st, const struct tn_ippkt *ip, const uint8_t *packet, uint64_t now_us);
void tn_stack_udp_unreach(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *to, int err,
                          uint64_t now_us);

/* tcp_state.c: birth, changes of state and end of a flow */
struct tn_tcp *tn_tcp_new(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                          uint64_t now_us);
void tn_tcp_set_state(struct tn_tcp *c, enum tn_tcp_state state, uint64_t now_us);
void tn_tcp_raise(struct tn_tcp *c, unsigned events);
void tn_tcp_deliver(struct tn_tcp *c, uint64_t now_us);
/* Ends the flow and reports err to the owner, at once out of the table; with err 0 unread bytes stay readable
 * first. */
void tn_tcp_end(struct tn_tcp *c, int err, uint64_t now_us);
void tn_tcp_destroy(struct tn_tcp *c);
void tn_tcp_enter_time_wait(struct tn_tcp *c, uint64_t now_us);
void tn_tcp_options_from_syn(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us);
void tn_tcp_opened(struct tn_tcp *c, uint64_t now_us);
const char *tn_tcp_state_name(unsigned state);

/* time_wait.c */
void tn_time_wait_add(struct tn_stack *st, const struct tn_tcp *c, uint64_t now_us);
/* Returns true when the segment is a SYN that may open the connection anew: the entry is gone then. */
bool tn_time_wait_input(struct tn_stack *st, struct tn_time_wait *tw, const struct tn_tcp_seg *seg, uint64_t now_us);
void tn_time_wait_expire(struct tn_stack *st, uint64_t now_us);
void tn_time_wait_free(struct tn_stack *st, struct tn_time_wait *tw);

/* listen.c */
void tn_tcp_syn_input(struct tn_stack *st, struct tn_tcp_listener *l, const struct tn_addrport *local,
                      const struct tn_addrport *remote, const struct tn_tcp_seg *seg, uint64_t now_us);
void tn_tcp_accepted(struct tn_tcp *c, uint64_t now_us);

/* tcp_input.c */
void tn_stack_tcp_input(struct tn_stack *st, const struct tn_ippkt *ip, uint64_t now_us);
/* A run; ip is its first packet. False: to be taken in packet by packet. */
bool tn_stack_tcp_input_run(struct tn_stack *st, const struct tn_ippkt *ip, const struct iovec *packets, size_t n,
                            uint64_t now_us);
void tn_tcp_flow_input(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us);
/* bytes more are about to be counted as received. */
void tn_tcp_paws_floor(struct tn_tcp *c, uint32_t bytes);

/* tcp_receive.c: payload and FIN of an acceptable segment, trimmed to the window */
void tn_tcp_receive(struct tn_tcp *c, uint32_t seq, const uint8_t *bytes, uint32_t len, bool fin, uint64_t now_us);
/* May a run be taken in as one segment: is it next, wholly in the window, and nothing special about the flow? */
bool tn_tcp_takes_run(const struct tn_tcp *c, const struct tn_tcp_seg *seg);
void tn_tcp_receive_run(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us);

/* tcp_ack.c */
/* False: the segment must be dropped. */
bool tn_tcp_ack_input(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us);

/* rack.c: loss detection by time (RFC 8985) */
void tn_rack_delivered(struct tn_tcp *c, const struct tn_rec *rec, uint32_t fack_before, const struct tn_tcp_seg *seg,
                       uint64_t now_us);
/* Marks what must be lost by now; returns the time until the next one may be, 0: none. */
uint64_t tn_rack_detect(struct tn_tcp *c, uint64_t now_us);
void tn_rack_on_dsack(struct tn_tcp *c);
void tn_rack_on_recovered(struct tn_tcp *c);
/* A segment is lost: off the pipe, counted, told to the congestion control. */
void tn_rack_mark_lost(struct tn_tcp *c, uint32_t id, uint64_t now_us);

/* recovery.c: what loss means for the window, and what may be sent until it is repaired */
struct tn_ack_result {
    uint32_t delivered;       /* bytes newly known to have arrived */
    uint32_t acked;           /* sequence numbers cumulatively acknowledged */
    uint32_t rtt_us;          /* 0: no sample */
    uint32_t inflight_before;
    uint32_t dsack_bytes;
    bool spurious;            /* echoes a timestamp from before the first retransmission */
    struct tn_rate_sample rate;
};
void tn_recovery_on_ack(struct tn_tcp *c, const struct tn_ack_result *r, uint64_t now_us);
void tn_recovery_on_rto(struct tn_tcp *c, uint64_t now_us);
/* The reordering timer expired. */
void tn_recovery_on_timer_loss(struct tn_tcp *c, uint64_t now_us);
void tn_recovery_sent(struct tn_tcp *c, uint32_t len, bool is_rexmit, uint64_t now_us);

/* tcp_output.c */
/* Sends what may be sent, an ACK if one is due, and arms the timers. */
void tn_tcp_output(struct tn_tcp *c, uint64_t now_us);
void tn_tcp_send_syn(struct tn_tcp *c, uint64_t now_us); /* SYN or SYN-ACK by state */
void tn_tcp_send_ack(struct tn_tcp *c, uint64_t now_us);
void tn_tcp_send_probe(struct tn_tcp *c, uint64_t now_us); /* window or keepalive probe */
bool tn_tcp_send_small(struct tn_tcp *c, uint64_t now_us); /* new data even if silly */
bool tn_tcp_send_tail(struct tn_tcp *c, uint64_t now_us);  /* tail loss probe */
void tn_tcp_send_rst(struct tn_tcp *c, uint64_t now_us);
void tn_tcp_note_limited(struct tn_tcp *c, uint64_t now_us);
uint32_t tn_tcp_inflight(const struct tn_tcp *c); /* pipe, bytes */
uint32_t tn_tcp_eff_mss(const struct tn_tcp *c);  /* payload of a full segment as things are */
static inline uint32_t tn_tcp_queued_end(const struct tn_tcp *c) { return c->snd_una + c->sendq.len; }

/* tcp_reply.c: segments that belong to no flow */
void tn_tcp_reply_rst(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                      const struct tn_tcp_seg *seg);
void tn_tcp_reply(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                  const struct tn_tcp_seg *seg);
bool tn_tcp_may_challenge(struct tn_tcp *c, uint64_t now_us);

/* tcp_window.c: the receive window */
/* Decides the right edge and returns the window to announce, unscaled bytes; raises rcv_adv. */
uint16_t tn_tcp_window_field(struct tn_tcp *c);
bool tn_tcp_window_worth_update(struct tn_tcp *c);
void tn_tcp_window_behind_hole(struct tn_tcp *c);
void tn_tcp_window_consumed(struct tn_tcp *c, uint32_t len, uint64_t now_us);
void tn_tcp_window_sample(struct tn_tcp *c, const struct tn_tcp_seg *seg, uint64_t now_us);
uint32_t tn_tcp_send_limit(const struct tn_tcp *c);
uint32_t tn_tcp_send_ahead(const struct tn_tcp *c);
void tn_tcp_wait_memory(struct tn_tcp *c);
bool tn_stack_memory_eased(const struct tn_stack *st); /* somebody waits, and there is memory again */
void tn_stack_wake_waiting(struct tn_stack *st, uint64_t now_us);

/* tcp_timers.c */
void tn_tcp_arm(struct tn_tcp *c, enum tn_tcp_rexmit kind, uint64_t at_us);
void tn_tcp_timer_update(struct tn_tcp *c);
void tn_tcp_timer_due(struct tn_tcp *c, uint64_t now_us);
void tn_tcp_keep_touch(struct tn_tcp *c, uint64_t now_us);

static inline uint64_t tn_tcp_pace_at(const struct tn_tcp *c)
{
    return c->flight && c->flight->pace.waiting ? tn_pace_at(&c->flight->pace) : TN_NEVER;
}

static inline uint32_t tn_tcp_tsval(uint32_t offset, uint64_t now_us) { return (uint32_t)(now_us / 1000) + offset; }

#endif
