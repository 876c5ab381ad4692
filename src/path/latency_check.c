/* Per region: TLS to its first node, then the time from GET /derp/latency-check to a 2xx head. The request is what
 * is timed, not the connect, so that name lookups and handshakes of different length don't count. Four at a time:
 * thirty TLS handshakes at once would cost more memory than the node. */
#include "path/latency_check.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/heap.h"
#include "wire/http1.h"

#include <stdlib.h>
#include <string.h>

enum { PARALLEL = 4, TOTAL_US = 5 * 1000000, HEAD_MAX = 4096 };

struct probe {
    struct tn_latency_check *check;
    const struct tn_derp_region *region; /* NULL: idle */
    struct tn_stream *stream;
    uint64_t sent_us;
    struct tn_buf head;
};

struct tn_latency_check {
    const struct tn_derp_map *map;
    const struct tn_dialer *dialer;
    bool prefer6, finished;
    void (*done)(void *ctx, const struct tn_home_latency *l, size_t n, uint64_t now_us);
    void *ctx;
    uint64_t end_us, kick_us; /* kick_us: dial more at the next timeout */
    size_t next;              /* region to be dialed next */
    struct probe probes[PARALLEL];
    struct tn_home_latency *latencies;
    size_t nlatencies;
};

static void end_probe(struct probe *q, uint64_t now_us)
{
    if (q->stream) tn_stream_close(q->stream);
    q->stream = NULL;
    q->region = NULL;
    tn_buf_fini(&q->head);
    q->check->kick_us = now_us; /* not from here: we are in a callback of the stream */
}

static void on_open(void *arg, struct tn_stream *s, uint64_t now_us)
{
    struct probe *q = arg;
    const struct tn_derp_node *n = q->region->nodes;
    struct tn_buf request;
    tn_buf_init(&request, 1024);
    while (n->stun_only) n++; /* the node that was dialed: eligible regions have one */
    if (tn_buf_printf(&request, "GET /derp/latency-check HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
                      n->host) == 0) {
        q->sent_us = now_us;
        tn_stream_write(s, tn_buf_data(&request), tn_buf_len(&request));
    }
    tn_buf_fini(&request);
}

static void record(struct probe *q, uint64_t now_us)
{
    struct tn_latency_check *c = q->check;
    uint64_t us = now_us - q->sent_us;
    c->latencies[c->nlatencies++] = (struct tn_home_latency){q->region->id, us ? (uint32_t)us : 1};
}

static void on_data(void *arg, struct tn_stream *s, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct probe *q = arg;
    struct tn_http1_head *head = malloc(sizeof *head);
    long used = head && tn_buf_append(&q->head, bytes, len < HEAD_MAX ? len : HEAD_MAX) == 0
                    ? tn_http1_parse_response(tn_buf_data(&q->head), tn_buf_len(&q->head), HEAD_MAX, head)
                    : TN_E_NOMEM;
    if (used > 0 && head->status >= 200 && head->status < 300) record(q, now_us);
    free(head);
    if (used != 0) end_probe(q, now_us);
}

static void on_close(void *arg, int err, uint64_t now_us)
{
    struct probe *q = arg;
    q->stream = NULL;
    end_probe(q, now_us);
}

static const struct tn_stream_events events = {.on_open = on_open, .on_data = on_data, .on_close = on_close};

/* Dials the next regions; true when none is left and none is under way. */
static bool dial_more(struct tn_latency_check *c, uint64_t now_us)
{
    bool idle = true;
    c->kick_us = TN_NEVER;
    for (int i = 0; i < PARALLEL; i++) {
        struct probe *q = &c->probes[i];
        while (!q->region && c->next < c->map->nregions) {
            const struct tn_derp_region *r = &c->map->regions[c->next++];
            const struct tn_derp_node *n = r->nodes;
            struct tn_addrport addrs[2];
            struct tn_dial_spec spec;
            if (!tn_derp_region_eligible(r) || r->avoid) continue;
            while (n->stun_only) n++;
            if (!tn_derp_node_dial(n, c->prefer6, addrs, &spec)) continue;
            spec.timeout_us = c->end_us - now_us;
            q->region = r;
            if (tn_dialer_dial(c->dialer, &spec, &events, q, &q->stream) != 0) q->region = NULL;
        }
        idle &= q->region == NULL;
    }
    return idle;
}

int tn_latency_check_new(const struct tn_derp_map *map, const struct tn_dialer *dialer, bool prefer6,
                         void (*done)(void *ctx, const struct tn_home_latency *l, size_t n, uint64_t now_us),
                         void *ctx,
                         uint64_t now_us, struct tn_latency_check **out)
{
    struct tn_latency_check *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    *c = (struct tn_latency_check){.map = map, .dialer = dialer, .prefer6 = prefer6, .done = done, .ctx = ctx,
                                   .end_us = now_us + TOTAL_US, .kick_us = now_us};
    c->latencies = calloc(map->nregions + 1, sizeof *c->latencies);
    if (!c->latencies) {
        free(c);
        return TN_E_NOMEM;
    }
    for (int i = 0; i < PARALLEL; i++) {
        c->probes[i].check = c;
        tn_buf_init(&c->probes[i].head, 2 * HEAD_MAX);
    }
    *out = c;
    return 0;
}

void tn_latency_check_free(struct tn_latency_check *c)
{
    if (!c) return;
    for (int i = 0; i < PARALLEL; i++) end_probe(&c->probes[i], 0);
    free(c->latencies);
    free(c);
}

void tn_latency_check_timeout(struct tn_latency_check *c, uint64_t now_us)
{
    if (c->finished || now_us < tn_latency_check_next_deadline(c)) return;
    if (now_us < c->end_us && !dial_more(c, now_us)) return;
    for (int i = 0; i < PARALLEL; i++) end_probe(&c->probes[i], now_us);
    c->finished = true;
    c->done(c->ctx, c->latencies, c->nlatencies, now_us);
}

uint64_t tn_latency_check_next_deadline(const struct tn_latency_check *c)
{
    if (c->finished) return TN_NEVER;
    return c->kick_us < c->end_us ? c->kick_us : c->end_us;
}
