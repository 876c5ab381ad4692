/* DERP client of one region (tailscale.com v1.102.5 derp/derp_client.go, derp/derphttp/derphttp_client.go).
 *
 *   WAIT ----> DIAL ----> HTTP ----> GREETING ----> INFO ----> UP
 *    ^ backoff  | TLS      | 101      | ServerKey     | ServerInfo
 *    +----------+----------+----------+---------------+----------+   any failure or loss
 *
 * Slow start: GET /derp with Upgrade, a 101, the server's ServerKey frame, then our ClientInfo. Fast start: the
 * TLS chain held the server's key in a metacertificate, so request and ClientInfo go out in one write, there is no
 * 101, and the ServerKey frame that still comes is skipped. If fast start fails before the server spoke DERP, the
 * next attempt is slow: something in between may answer HTTP itself. A 101 in spite of fast start is skipped.
 *
 * Datagrams may flow as soon as ClientInfo is sent; the connection counts as up at ServerInfo, since only then has
 * the server accepted our key. All of a connect, over all nodes tried, has 10 s. */
#include "path/derp_internal.h"
#include "util/secret.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const state_names[] = {"wait", "dial", "http", "greeting", "info", "up"};
static_assert(sizeof state_names / sizeof *state_names == TN_DERP_STATES, "a name per state");

enum {
    CONNECT_US = 10 * 1000000,       /* Go's limit for DNS, TCP, TLS, HTTP and DERP together */
    NODE_US = 3 * 1000000,           /* share of one node while others remain to be tried */
    READ_US = 120 * 1000000,         /* twice the server's keepalive interval */
    PING_US = 3 * 1000000,
    BACKOFF_MIN_US = 100 * 1000,
    STABLE_US = 10 * 1000000,        /* a connection that lived this long forgives earlier failures */
    SMALL_FRAME = 2048,              /* frames up to here are built on the stack */
};

struct out_frame {
    struct tn_list link;
    size_t len;
    uint8_t bytes[];
};

void tn_derp_set_state(struct tn_derp_client *c, enum tn_derp_state next)
{
    if (c->state == next) return;
    tn_logf(c->config.log, TN_LOG_DEBUG, "derp", "derp-%d: %s -> %s", c->region->id, state_names[c->state],
            state_names[next]);
    c->state = next;
}

/* ---- losing a connection ---- */

static void drop_queue(struct tn_derp_client *c)
{
    for (struct tn_list *l; (l = tn_list_pop_front(&c->queue));) free(TN_CONTAINER(l, struct out_frame, link));
    c->queued = 0;
}

static void reset_connection(struct tn_derp_client *c)
{
    if (c->stream) tn_stream_close(c->stream);
    c->stream = NULL;
    c->epoch++;
    tn_buf_fini(&c->in);
    tn_wipe(&c->shared, sizeof c->shared);
    c->skip = 0;
    c->backlog = c->greeted = c->fast = false;
    c->rate = 0;
    c->ping_deadline_us = TN_NEVER;
}

static uint64_t backoff_us(const struct tn_derp_client *c)
{
    uint64_t base = BACKOFF_MIN_US;
    for (unsigned i = 1; i < c->failures && base < TN_DERP_BACKOFF_MAX_US; i++) base *= 2;
    if (base > TN_DERP_BACKOFF_MAX_US) base = TN_DERP_BACKOFF_MAX_US;
    return base / 2 + tn_rng_below(c->config.rng, base / 2 + 1);
}

static void enter_wait(struct tn_derp_client *c, uint64_t at_us)
{
    reset_connection(c);
    tn_derp_set_state(c, TN_DERP_WAIT);
    c->deadline_us = at_us;
}

/* The connect or connection is over; the next try comes after a backoff. */
static void fail(struct tn_derp_client *c, int err, const char *text, uint64_t now_us)
{
    if (c->state == TN_DERP_UP && now_us - c->up_since_us >= STABLE_US) c->failures = 0;
    if (c->fast && c->state < TN_DERP_UP && !c->greeted) c->slow_attempts = 1;
    if (c->failures < 1000) c->failures++;
    uint64_t delay_us = c->restart_delay_us ? c->restart_delay_us : backoff_us(c);
    c->restart_delay_us = 0;
    if (c->state != TN_DERP_UP) drop_queue(c); /* what waited 10 s for a connection is stale */
    enter_wait(c, now_us + delay_us);
    tn_logf(c->config.log, TN_LOG_INFO, "derp", "derp-%d (%s): %s%s%s, next try in %u ms", c->region->id,
            c->region->code, tn_err_text(err), *text ? ": " : "", text, (unsigned)(delay_us / 1000));
    c->config.cb->state(c->config.ctx, c, err, text, now_us);
}

/* ---- connecting ---- */

static const struct tn_stream_events stream_events;

static size_t next_dialable(const struct tn_derp_client *c, size_t from)
{
    struct tn_addrport addrs[2];
    struct tn_dial_spec spec;
    while (from < c->region->nnodes && !tn_derp_node_dial(&c->region->nodes[from], c->prefer6, addrs, &spec)) from++;
    return from;
}

/* Dials the nodes from index on until a dial is under way. err and text: what to report when none is left. */
static void dial_from(struct tn_derp_client *c, size_t index, int err, const char *text, uint64_t now_us)
{
    for (;; index++) {
        struct tn_addrport addrs[2];
        struct tn_dial_spec spec;
        index = next_dialable(c, index);
        if (index >= c->region->nnodes || now_us >= c->connect_deadline_us) {
            fail(c, err, text, now_us);
            return;
        }
        tn_derp_node_dial(&c->region->nodes[index], c->prefer6, addrs, &spec);
        bool last = next_dialable(c, index + 1) >= c->region->nnodes;
        c->deadline_us = c->connect_deadline_us;
        if (!last && c->deadline_us - now_us > NODE_US) c->deadline_us = now_us + NODE_US;
        spec.timeout_us = c->deadline_us - now_us;
        c->node = index;
        tn_derp_set_state(c, TN_DERP_DIAL);
        err = tn_dialer_dial(c->config.dialer, &spec, &stream_events, c, &c->stream);
        if (err == 0) return;
        c->stream = NULL;
        text = "";
    }
}

/* This node failed; the region's next one gets what is left of the time. */
static void fail_node(struct tn_derp_client *c, int err, const char *text, uint64_t now_us)
{
    if (c->fast && !c->greeted) c->slow_attempts = 1;
    reset_connection(c);
    dial_from(c, c->node + 1, err, text, now_us);
}

void tn_derp_lost(struct tn_derp_client *c, int err, const char *text, uint64_t now_us)
{
    if (c->state == TN_DERP_UP) fail(c, err, text, now_us);
    else fail_node(c, err, text, now_us);
}

static void connect_now(struct tn_derp_client *c, uint64_t now_us)
{
    c->connect_deadline_us = now_us + CONNECT_US;
    dial_from(c, 0, TN_E_HOSTUNREACH, "no node of the region can be dialed", now_us);
}

/* ---- writing ---- */

void tn_derp_write(struct tn_derp_client *c, const void *bytes, size_t len)
{
    int r = tn_stream_write(c->stream, bytes, len);
    if (r == 1) c->backlog = true; /* a negative r: on_close comes from the loop */
}

static bool may_send(const struct tn_derp_client *c) { return c->state == TN_DERP_INFO || c->state == TN_DERP_UP; }

static void write_preferred(struct tn_derp_client *c, bool preferred)
{
    uint8_t frame[TN_DERP_HEADER_LEN + 1];
    struct tn_wr w = tn_wr_init(frame, sizeof frame);
    tn_derp_note_preferred_put(&w, preferred);
    tn_derp_write(c, frame, tn_wr_len(&w));
}

static void flush_queue(struct tn_derp_client *c)
{
    while (may_send(c) && !c->backlog && c->queued) {
        struct out_frame *f = TN_CONTAINER(tn_list_pop_front(&c->queue), struct out_frame, link);
        c->queued--;
        tn_derp_write(c, f->bytes, f->len);
        free(f);
    }
}

/* The request and, when the server's key is known already, ClientInfo in the same write. */
static size_t put_request(const struct tn_derp_client *c, char *buf, size_t cap)
{
    const struct tn_derp_node *n = &c->region->nodes[c->node], *ideal = &c->region->nodes[0];
    bool v6_literal = strchr(n->host, ':') != NULL;
    char port[8] = "";
    if (n->derp_port != 443) snprintf(port, sizeof port, ":%u", (unsigned)n->derp_port);
    int len = snprintf(buf, cap,
                       "GET /derp HTTP/1.1\r\nHost: %s%s%s%s\r\nUser-Agent: tailnet\r\nConnection: Upgrade\r\n"
                       "Upgrade: DERP\r\n%s%s%s%s\r\n",
                       v6_literal ? "[" : "", n->host, v6_literal ? "]" : "", port, n != ideal ? "Ideal-Node: " : "",
                       n != ideal ? ideal->name : "", n != ideal ? "\r\n" : "",
                       c->fast ? "Derp-Fast-Start: 1\r\n" : "");
    assert(len > 0 && (size_t)len < cap);
    return (size_t)len;
}

/* Seals ClientInfo to the server's key. TN_E_CRYPTO for a key no one can have. */
static int put_client_info(struct tn_derp_client *c, struct tn_wr *w)
{
    static const char info[] = TN_DERP_CLIENT_INFO_JSON;
    uint8_t box[sizeof info - 1 + TN_BOX_OVERHEAD];
    int err = tn_box_shared_init(&c->shared, c->config.key->b, c->server.b);
    if (err) return err;
    tn_box_seal(&c->shared, c->config.rng, info, sizeof info - 1, box);
    tn_derp_client_info_put(w, c->config.public_key->b, box, sizeof box);
    if (c->home) tn_derp_note_preferred_put(w, true);
    return 0;
}

enum { REQUEST_MAX = 1024, INFO_MAX = 256 }; /* names are at most 255 bytes each; the ClientInfo frame is 120 */

static void on_open(void *arg, struct tn_stream *s, uint64_t now_us)
{
    struct tn_derp_client *c = arg;
    uint8_t bytes[REQUEST_MAX + INFO_MAX];
    c->fast = c->slow_attempts == 0 && s->ops->derp_meta && s->ops->derp_meta(s, c->server.b);
    if (!c->fast && c->slow_attempts) c->slow_attempts--;
    size_t len = put_request(c, (char *)bytes, REQUEST_MAX);
    if (c->fast) {
        struct tn_wr w = tn_wr_init(bytes + len, INFO_MAX);
        int err = put_client_info(c, &w);
        if (err) {
            fail_node(c, err, "metacertificate with an unusable key", now_us);
            return;
        }
        assert(tn_wr_ok(&w));
        len += tn_wr_len(&w);
    }
    tn_derp_set_state(c, c->fast ? TN_DERP_INFO : TN_DERP_HTTP);
    tn_derp_write(c, bytes, len);
    flush_queue(c);
}

void tn_derp_on_server_key(struct tn_derp_client *c, uint64_t now_us)
{
    uint8_t bytes[INFO_MAX];
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    int err = put_client_info(c, &w);
    if (err) {
        tn_derp_lost(c, err, "server key is unusable", now_us);
        return;
    }
    tn_derp_set_state(c, TN_DERP_INFO);
    tn_derp_write(c, bytes, tn_wr_len(&w));
    flush_queue(c);
}

static void on_drain(void *arg, struct tn_stream *s, uint64_t now_us)
{
    struct tn_derp_client *c = arg;
    c->backlog = false;
    flush_queue(c);
}

static void on_close(void *arg, int err, uint64_t now_us)
{
    struct tn_derp_client *c = arg;
    c->stream = NULL;
    tn_derp_lost(c, err ? err : TN_E_EOF, "", now_us);
}

static const struct tn_stream_events stream_events = {
    .on_open = on_open, .on_data = tn_derp_on_data, .on_drain = on_drain, .on_close = on_close};

/* ---- the owner's side ---- */

int tn_derp_client_new(const struct tn_derp_client_config *config, const struct tn_derp_region *region,
                       struct tn_derp_client **out)
{
    struct tn_derp_client *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    c->config = *config;
    c->region = region;
    c->state = TN_DERP_WAIT;
    c->generation = tn_rng_u64(config->rng); /* no overlap with an earlier client of the region */
    c->ping_deadline_us = TN_NEVER;
    tn_list_init(&c->queue);
    tn_buf_init(&c->in, TN_DERP_HEADER_LEN + TN_DERP_BUFFERED_MAX + TN_DERP_SLICE_MAX);
    *out = c;
    return 0;
}

void tn_derp_client_free(struct tn_derp_client *c)
{
    if (!c) return;
    reset_connection(c);
    drop_queue(c);
    free(c);
}

void tn_derp_client_set_region(struct tn_derp_client *c, const struct tn_derp_region *region) { c->region = region; }
const struct tn_derp_region *tn_derp_client_region(const struct tn_derp_client *c) { return c->region; }

uint64_t tn_derp_client_next_deadline(const struct tn_derp_client *c)
{
    if (c->state != TN_DERP_UP) return c->deadline_us;
    uint64_t read_us = c->heard_us + READ_US;
    return read_us < c->ping_deadline_us ? read_us : c->ping_deadline_us;
}

void tn_derp_client_timeout(struct tn_derp_client *c, uint64_t now_us)
{
    if (now_us < tn_derp_client_next_deadline(c)) return;
    if (c->state == TN_DERP_WAIT) connect_now(c, now_us);
    else tn_derp_lost(c, TN_E_TIMEDOUT, c->state == TN_DERP_UP ? "server is silent" : "connecting", now_us);
}

void tn_derp_client_reconnect(struct tn_derp_client *c, uint64_t now_us)
{
    bool was_up = c->state == TN_DERP_UP;
    enter_wait(c, now_us);
    c->failures = 0;
    if (was_up) c->config.cb->state(c->config.ctx, c, TN_E_CANCELED, "reconnecting", now_us);
}

void tn_derp_client_check(struct tn_derp_client *c, const struct tn_ip *addrs, size_t naddrs, uint64_t now_us)
{
    struct tn_addrport local;
    bool known = false;
    if (c->state != TN_DERP_UP) {
        if (c->state == TN_DERP_WAIT) c->deadline_us = now_us; /* the new link may work where the old one did not */
        return;
    }
    if (c->stream->ops->local && c->stream->ops->local(c->stream, &local) == 0) {
        known = tn_ip_is_loopback(&local.ip);
        for (size_t i = 0; i < naddrs; i++) known |= tn_ip_eq(&addrs[i], &local.ip);
    }
    if (!known) {
        tn_derp_client_reconnect(c, now_us);
        return;
    }
    uint8_t frame[TN_DERP_HEADER_LEN + TN_DERP_PING_LEN];
    struct tn_wr w = tn_wr_init(frame, sizeof frame);
    tn_rng_fill(c->config.rng, c->ping, sizeof c->ping);
    tn_derp_ping_put(&w, TN_DERP_PING, c->ping);
    c->ping_deadline_us = now_us + PING_US;
    tn_derp_write(c, frame, tn_wr_len(&w));
}

void tn_derp_client_set_home(struct tn_derp_client *c, bool home)
{
    if (c->home == home) return;
    c->home = home;
    if (may_send(c)) write_preferred(c, home);
}

void tn_derp_client_set_prefer6(struct tn_derp_client *c, bool prefer6) { c->prefer6 = prefer6; }

static void enqueue(struct tn_derp_client *c, const struct tn_node_public *to, const uint8_t *packet, size_t len)
{
    struct out_frame *f = malloc(sizeof *f + TN_DERP_PACKET_HEADER_LEN + len);
    if (!f) return; /* a lost datagram */
    struct tn_wr w = tn_wr_init(f->bytes, TN_DERP_PACKET_HEADER_LEN + len);
    tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, to->b, packet, len);
    f->len = tn_wr_len(&w);
    if (c->queued == TN_DERP_QUEUE_MAX) free(TN_CONTAINER(tn_list_pop_front(&c->queue), struct out_frame, link));
    else c->queued++;
    tn_list_push_back(&c->queue, &f->link);
}

void tn_derp_client_send(struct tn_derp_client *c, const struct tn_node_public *to, const uint8_t *packet, size_t len,
                         uint64_t now_us)
{
    uint8_t frame[SMALL_FRAME];
    if (len > TN_DERP_PACKET_MAX || !tn_derp_within_rate(c, TN_DERP_PACKET_HEADER_LEN + len, now_us)) return;
    if (!may_send(c) || c->backlog || c->queued || len > sizeof frame - TN_DERP_PACKET_HEADER_LEN) {
        enqueue(c, to, packet, len);
        flush_queue(c);
        return;
    }
    struct tn_wr w = tn_wr_init(frame, sizeof frame);
    tn_derp_packet_put(&w, TN_DERP_SEND_PACKET, to->b, packet, len);
    tn_derp_write(c, frame, tn_wr_len(&w));
}

bool tn_derp_client_up(const struct tn_derp_client *c) { return c->state == TN_DERP_UP; }
uint64_t tn_derp_client_generation(const struct tn_derp_client *c) { return c->generation; }
uint64_t tn_derp_client_heard_us(const struct tn_derp_client *c) { return c->heard_us; }
unsigned tn_derp_client_failures(const struct tn_derp_client *c) { return c->state == TN_DERP_UP ? 0 : c->failures; }

bool tn_derp_client_remote(struct tn_derp_client *c, const struct tn_derp_node **node, struct tn_addrport *addr)
{
    if (c->state != TN_DERP_UP || !c->stream->ops->remote || c->stream->ops->remote(c->stream, addr) != 0) return false;
    *node = &c->region->nodes[c->node];
    return true;
}
