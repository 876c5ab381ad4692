/* The in-process TCP/IP stack: one instance per node, no globals, no clock, no I/O.
 *
 * Packets enter by tn_stack_input; packets leave through the output callback; time passes by tn_stack_timeout. A call
 * that queues data may emit at once. Callbacks may call back into the stack, except tn_stack_free; a flow freed
 * inside its own callback is released at the end of the outermost call.
 *
 * The events of TCP flows (tn_tcp_events, on_accept) come only out of tn_stack_input, tn_stack_timeout and
 * tn_stack_batch_end, never from inside a tn_tcp_* call. So after calls from outside a callback ask
 * tn_stack_next_deadline again: it says 0 when events wait.
 *
 * Memory: an idle established flow is its control block; bytes in flight live in chunks from a pool with a byte
 * budget that all flows share. Under pressure windows shrink first and new flows are refused last. */
#ifndef TN_STACK_STACK_H
#define TN_STACK_STACK_H

#include "util/ip.h"
#include "util/log.h"
#include "util/rng.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct tn_stack;
struct tn_tcp;      /* one TCP connection */
struct tn_tcp_listener;
struct tn_udp_sock;

enum { TN_STACK_MTU = 1280 };

/* A SYN that no listener of ours claimed because it is for a foreign destination: the SYN gate decides later. A plain
 * value: keep a copy to accept or refuse it afterwards. */
struct tn_syn {
    struct tn_addrport src, dst;
    uint32_t seq, tsval;
    uint16_t window, mss; /* mss 0: none given */
    uint8_t wscale;       /* valid if has_wscale */
    bool has_wscale, has_ts, sack_ok, ecn;
};

enum tn_syn_verdict { TN_SYN_DROP, TN_SYN_RESET, TN_SYN_HELD /* the hook keeps it */ };

/* Packets of one flow with the same source, destination and ports, borrowed and writable: len bytes each but the last,
 * the first at first, each stride after the one before. stride has room for a tunnel's header before each packet and, when
 * the packet is padded to 16 bytes, for a tag behind it, so that headers, padded packets and tags lie without gaps. */
enum { TN_TRAIN_HEAD = 16, TN_TRAIN_TAIL = 16, TN_TRAIN_BYTES = 65504 /* one UDP datagram, IPv4 */ };
struct tn_train {
    uint8_t *first;
    size_t count, len, last_len, stride;
};

struct tn_stack_callbacks {
    /* One IP packet of at most mtu bytes; borrowed, writable. */
    void (*output)(void *ctx, uint8_t *packet, size_t len);
    /* TCP SYN to an address that is not our own. NULL: such packets are dropped. */
    enum tn_syn_verdict (*foreign_syn)(void *ctx, const struct tn_syn *syn, uint64_t now_us);
    /* Any other TCP segment of a foreign 4-tuple that has no flow (an RST or ACK while the SYN is held). For an RST
     * the gate cancels its dial. The stack answers non-RST segments with RST unless this returns true (held:
     * ignore). */
    bool (*foreign_tcp)(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst, bool rst,
                        uint64_t now_us);
    /* UDP to a foreign address, or any other protocol to one: packet is the whole IP packet (checksums verified),
     * borrowed. NULL: dropped. */
    void (*foreign_udp)(void *ctx, const struct tn_addrport *src, const struct tn_addrport *dst,
                        const uint8_t *packet, size_t len, const uint8_t *payload, size_t payload_len,
                        uint64_t now_us);
    void (*foreign_other)(void *ctx, uint8_t ipproto, const uint8_t *packet, size_t len, uint64_t now_us);
    /* output for consecutive TCP packets of one flow; NULL: output gets them one by one. */
    void (*output_train)(void *ctx, struct tn_train *t);
    /* Where the next train is to be made: TN_TRAIN_BYTES, the caller's until output_train gets the train. NULL, or a NULL from
     * it: in the stack's own memory. */
    uint8_t *(*train_buffer)(void *ctx);
};

enum tn_congestion { TN_CONGESTION_BBR, TN_CONGESTION_CUBIC };

struct tn_stack_config {
    uint16_t mtu;                 /* 0: TN_STACK_MTU */
    size_t budget;                /* bytes of chunks for all flows; 0: 256 MiB */
    size_t tcp_buffer_max;        /* per flow and direction; 0: automatic, up to 48 MiB within the budget */
    enum tn_congestion congestion;
    uint16_t port_first;          /* lowest port for our own connections; 0: 49152 */
    struct tn_rng rng;
    const struct tn_log *log;
    struct tn_stack_callbacks cb;
    void *ctx;
};

struct tn_stack *tn_stack_new(const struct tn_stack_config *config);
void tn_stack_free(struct tn_stack *st); /* silent: no RST is sent, no callback comes */
/* At most 64. Own addresses: echo is answered, listeners and UDP sockets live there. Flows of addresses that went
 * away are reset. */
int tn_stack_set_addrs(struct tn_stack *st, const struct tn_ip *addrs, size_t n, uint64_t now_us);
void tn_stack_set_tcp_buffer_max(struct tn_stack *st, size_t bytes); /* for flows created from now on */

/* A packet from the network (already filtered). May be overwritten. */
void tn_stack_input(struct tn_stack *st, uint8_t *packet, size_t len, uint64_t now_us);
/* Is there anything of ours for such a packet: a flow (one in TIME_WAIT too) or a listener; a UDP socket? For those who
 * share our addresses with another stack. */
bool tn_stack_has_tcp(const struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote);
bool tn_stack_has_udp(const struct tn_stack *st, const struct tn_addrport *local);
/* The way to the hosts that match has changed: what they have not answered for is sent again at the next timeout, which
 * is due at once, instead of when it had been its time. */
void tn_stack_hasten(struct tn_stack *st, bool (*match)(void *ctx, const struct tn_ip *remote), void *ctx, uint64_t now_us);
/* Packets that came through an authenticated tunnel, each of its IP length, in one run (wire/tcprun.h): the same as
 * tn_stack_input for each but for the work. The TCP checksum is not verified: what the tunnel's tag has vouched for has
 * not changed since the peer's stack made it (Linux' WireGuard takes the same view). */
void tn_stack_input_run(struct tn_stack *st, const struct iovec *packets, size_t n, uint64_t now_us);
/* These packets come in next: fetches their flows into the cache (ahead.c). For packets of different flows. */
void tn_stack_expect(struct tn_stack *st, const struct iovec *packets, size_t n);
/* Around what arrived together: answers and events come once per flow, when the batch ends, and not after each packet. Also
 * around several writes: what they send leaves together. Inside a callback they change nothing. */
void tn_stack_batch_begin(struct tn_stack *st);
void tn_stack_batch_end(struct tn_stack *st, uint64_t now_us);
void tn_stack_timeout(struct tn_stack *st, uint64_t now_us);
uint64_t tn_stack_next_deadline(const struct tn_stack *st);

/* ---- TCP ---- */

struct tn_tcp_events {
    void (*on_open)(void *arg, struct tn_tcp *c, uint64_t now_us);     /* the handshake is complete */
    void (*on_readable)(void *arg, struct tn_tcp *c, uint64_t now_us); /* new bytes, or the peer's FIN, are there */
    void (*on_writable)(void *arg, struct tn_tcp *c, uint64_t now_us); /* after a short write: there is space again */
    /* The connection has ended, err 0 after both FINs were exchanged and everything was acknowledged; TN_E_RESET,
     * TN_E_TIMEDOUT, TN_E_REFUSED (RST to our SYN), TN_E_HOSTUNREACH ... The flow is gone when this returns
     * (TIME_WAIT lives on inside the stack without its owner). Not called after tn_tcp_abort or tn_tcp_release. */
    void (*on_close)(void *arg, int err, uint64_t now_us);
};

/* struct tn_tcp_events are kept by reference: they must live as long as the flow, as constants do.
 *
 * Opens a connection. local: one of our addresses (family 0: pick by family); local port 0: pick. */
int tn_tcp_connect(struct tn_stack *st, const struct tn_addrport *local, const struct tn_addrport *remote,
                   const struct tn_tcp_events *ev, void *arg, uint64_t now_us, struct tn_tcp **out);
/* Answers a held SYN with SYN-ACK and opens the flow (dst may be any address); on_open follows. Retransmitted SYNs
 * belong to the flow from here on. TN_E_LIMIT / TN_E_NOMEM: nothing was sent. */
int tn_tcp_accept_syn(struct tn_stack *st, const struct tn_syn *syn, const struct tn_tcp_events *ev, void *arg,
                      uint64_t now_us, struct tn_tcp **out);
/* Refuses a held SYN by RST, or by ICMP unreachable with the family's own code for it. */
enum tn_unreach { TN_UNREACH_HOST, TN_UNREACH_PORT, TN_UNREACH_ADMIN, TN_UNREACH_PROTO };
void tn_stack_reset_syn(struct tn_stack *st, const struct tn_syn *syn, uint64_t now_us);
/* An ICMP(v6) destination unreachable quoting this packet, sent from the packet's destination; rate-limited (100/s
 * per stack, burst 200). False when the limit held it back or the packet must not be answered (ICMP errors,
 * multicast). */
bool tn_stack_unreach(struct tn_stack *st, enum tn_unreach what, const uint8_t *packet, size_t len, uint64_t now_us);

/* Flows passed on to another owner: bytes that came before tn_tcp_set_events are not announced again.
 * on_accept: a connection completed its handshake; set its events with tn_tcp_set_events before returning 0; another
 * return value resets it. ip family 0: any own address. port 0 is invalid. backlog: half-open connections at most. */
int tn_tcp_listen(struct tn_stack *st, const struct tn_addrport *local, unsigned backlog,
                  int (*on_accept)(void *arg, struct tn_tcp *c, uint64_t now_us), void *arg,
                  struct tn_tcp_listener **out);
void tn_tcp_unlisten(struct tn_tcp_listener *l); /* established flows stay */
void tn_tcp_set_events(struct tn_tcp *c, const struct tn_tcp_events *ev, void *arg);

/* Reading without copying: up to n views of bytes in order (returned count of views; 0: nothing now), then consume,
 * which opens the window. tn_tcp_eof: all bytes were consumed and the peer has sent FIN. */
int tn_tcp_peek(struct tn_tcp *c, struct iovec *iov, int n);
void tn_tcp_consume(struct tn_tcp *c, size_t len, uint64_t now_us);
size_t tn_tcp_readable(const struct tn_tcp *c);
bool tn_tcp_eof(const struct tn_tcp *c);

/* Writing: space() bytes fit now. Either copy (returns how many were taken, on_writable follows if short; negative
 * when closed for writing), or reserve views, fill them and commit. */
size_t tn_tcp_space(const struct tn_tcp *c);
long tn_tcp_write(struct tn_tcp *c, const void *bytes, size_t len, uint64_t now_us);
/* Returns the count of views; 0: no space, on_writable follows. */
int tn_tcp_reserve(struct tn_tcp *c, struct iovec *iov, int n, size_t want);
void tn_tcp_commit(struct tn_tcp *c, size_t len, uint64_t now_us);           /* len <= reserved; 0 gives them back */
void tn_tcp_shutdown(struct tn_tcp *c, uint64_t now_us); /* FIN after what is queued; reading goes on */
void tn_tcp_abort(struct tn_tcp *c, uint64_t now_us);    /* RST; the handle is dead */
/* Orderly close by an owner that is done: FIN after what is queued, received bytes are refused with RST once they
 * come, no callbacks any more; the handle is dead. */
void tn_tcp_release(struct tn_tcp *c, uint64_t now_us);
/* After idle_us without a segment from the peer up to this many probes go out, interval_us apart; then TN_E_TIMEDOUT.
 * 0: off. */
void tn_tcp_set_keepalive(struct tn_tcp *c, uint64_t idle_us, uint64_t interval_us, int probes, uint64_t now_us);
void tn_tcp_set_nodelay(struct tn_tcp *c, bool on); /* default on */
struct tn_addrport tn_tcp_local(const struct tn_tcp *c);
struct tn_addrport tn_tcp_remote(const struct tn_tcp *c);
void *tn_tcp_arg(const struct tn_tcp *c);

struct tn_tcp_info {
    uint64_t srtt_us, rto_us, bytes_sent, bytes_received, bytes_retransmitted;
    uint64_t pacing;                                /* bytes per second; 0: not paced */
    uint32_t cwnd, ssthresh, mss, snd_wnd, rcv_wnd; /* bytes */
    const char *state, *cc;
};
void tn_tcp_info(const struct tn_tcp *c, struct tn_tcp_info *out);

/* ---- UDP on own addresses ---- */

struct tn_udp_events {
    void (*on_datagram)(void *arg, const struct tn_addrport *local, const struct tn_addrport *from,
                        const uint8_t *bytes, size_t len, uint64_t now_us);
    void (*on_unreach)(void *arg, const struct tn_addrport *to, int err, uint64_t now_us); /* ICMP; may be NULL */
};
/* local ip family 0: any own address; port 0: pick one (see tn_udp_local). */
int tn_udp_bind(struct tn_stack *st, const struct tn_addrport *local, const struct tn_udp_events *ev, void *arg,
                struct tn_udp_sock **out);
void tn_udp_unbind(struct tn_udp_sock *u);
struct tn_addrport tn_udp_local(const struct tn_udp_sock *u);
/* from: one of our addresses, or family 0. Fragments over the MTU; TN_E_TOOBIG over 65,507. */
int tn_udp_sendto(struct tn_udp_sock *u, const struct tn_addrport *from, const struct tn_addrport *to,
                  const void *bytes, size_t len, uint64_t now_us);
/* For forwarders: a datagram from any (foreign) source address. */
int tn_stack_udp_send_from(struct tn_stack *st, const struct tn_addrport *from, const struct tn_addrport *to,
                           const void *bytes, size_t len, uint64_t now_us);

/* For forwarders: an echo reply from any (foreign) address, with this body. */
int tn_stack_echo_reply_from(struct tn_stack *st, const struct tn_ip *from, const struct tn_ip *to, uint16_t id,
                             uint16_t seq, const void *body, size_t len, uint64_t now_us);

/* ---- ICMP echo from us (tailnet ping --icmp) ---- */
int tn_stack_ping(struct tn_stack *st, const struct tn_ip *to, uint16_t id, uint16_t seq, uint64_t now_us);
void tn_stack_on_echo_reply(struct tn_stack *st,
                            void (*fn)(void *arg, const struct tn_ip *from, uint16_t id, uint16_t seq,
                                       uint64_t now_us),
                            void *arg);

struct tn_stack_stats {
    size_t flows, half_open, time_wait, chunk_bytes, budget;
    uint64_t in_packets, out_packets, in_malformed, in_bad_checksum, retransmits, rto_events, challenge_acks;
};
void tn_stack_stats(const struct tn_stack *st, struct tn_stack_stats *out);

#endif
