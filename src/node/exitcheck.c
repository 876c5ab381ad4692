/* One connection per proxy, all at once, HTTP/1.0 over plain TCP or TLS with the certificate verified, TOTAL_MS for all of
 * them. The policy decides as for a peer's flow, except that each proxy is asked in its turn, also one whose breaker is open. */
#include "node/exitcheck.h"

#include "node/checkpage.h"
#include "util/buf.h"
#include "util/err.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_MAX = 64 * 1024, TOTAL_MS = 40000 };

struct page {
    struct tn_exitcheck *check;
    char proxy[TN_EGRESS_NAME_MAX]; /* "": host mode */
    struct tn_egress_conn *conn;
    struct tn_tls *tls;
    struct tn_buf in, out; /* plain bytes of the page; what is to be sent */
    uint64_t began_us, took_us;
    char failure[120];
    bool ended;
};

struct tn_exitcheck {
    struct tn_node *node;
    struct tn_checkpage at;
    struct page *pages;
    size_t npages, running;
    uv_timer_t timer;
    void (*done)(void *arg, json_t *result);
    void *arg;
};

static bool read_page(struct page *g, struct tn_ip *out)
{
    struct tn_http1_head head;
    long n = tn_http1_parse_response(tn_buf_data(&g->in), tn_buf_len(&g->in), PAGE_MAX, &head);
    if (n <= 0) {
        if (!g->failure[0]) snprintf(g->failure, sizeof g->failure, "not an HTTP response");
        return false;
    }
    if (head.status != 200) {
        snprintf(g->failure, sizeof g->failure, "HTTP status %d", head.status);
        return false;
    }
    if (tn_checkpage_find((char *)tn_buf_data(&g->in) + n, tn_buf_len(&g->in) - (size_t)n, out)) return true;
    snprintf(g->failure, sizeof g->failure, "the page has no address in it");
    return false;
}

static bool is_own(const struct tn_node *n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n->nmapped; i++)
        if (tn_ip_eq(&n->mapped[i], ip)) return true;
    return false;
}

/* Without a word of a STUN server (relay_only, UDP blocked) nobody knows what a NAT makes of this host; IPv6 has none, and our own are
 * told with whatever else is. */
static bool is_own_known(const struct tn_node *n, const struct tn_ip *seen)
{
    for (size_t i = 0; i < n->nmapped; i++)
        if (seen->family == 6 || n->mapped[i].family == 4) return true;
    return false;
}

static const char *judge(const struct page *g, const struct tn_ip *seen)
{
    const struct tn_node *n = g->check->node;
    if (!g->proxy[0]) return "direct";
    if (is_own(n, seen)) return "own address";
    return is_own_known(n, seen) ? "proxied" : "not compared: own address not known";
}

static json_t *result_of(struct page *g, bool *good)
{
    char text[TN_IP_STRLEN] = "", verdict[160];
    struct tn_ip ip;
    bool answered = g->ended && read_page(g, &ip); /* half a page may end within an address */
    if (!answered) snprintf(verdict, sizeof verdict, "no answer: %s", g->failure);
    else snprintf(verdict, sizeof verdict, "%s", judge(g, &ip));
    if (answered) tn_ip_format(&ip, text);
    *good &= strcmp(verdict, "proxied") == 0;
    return json_pack("{s:s s:s s:I s:s}", "Proxy", g->proxy, "Address", text, "Milliseconds", (json_int_t)(g->took_us / 1000),
                     "Verdict", verdict);
}

static json_t *result(struct tn_exitcheck *k)
{
    static const char *const modes[] = {"off", "host", "proxy"};
    struct tn_node *n = k->node;
    json_t *own = json_array(), *list = json_array();
    bool good = k->npages > 0;
    char text[TN_IP_STRLEN];
    for (size_t i = 0; i < n->nmapped; i++) json_array_append_new(own, json_string(tn_ip_format(&n->mapped[i], text)));
    for (size_t i = 0; i < k->npages; i++) json_array_append_new(list, result_of(&k->pages[i], &good));
    return json_pack("{s:s s:o s:o s:b}", "Mode", modes[tn_egress_mode(n->egress)], "Own", own, "Results", list, "OK", good);
}

static void timer_closed(uv_handle_t *h)
{
    struct tn_exitcheck *k = h->data;
    free(k->pages);
    free(k);
}

/* Everything but the memory, which the timer's handle still is in. */
static void dismantle(struct tn_exitcheck *k)
{
    for (size_t i = 0; i < k->npages; i++) {
        struct page *g = &k->pages[i];
        if (g->conn) tn_egress_close(g->conn, true);
        tn_tls_free(g->tls);
        tn_buf_fini(&g->in);
        tn_buf_fini(&g->out);
    }
    k->node->exitcheck = NULL;
    uv_close((uv_handle_t *)&k->timer, timer_closed);
}

static void finish(struct tn_exitcheck *k)
{
    json_t *r = result(k);
    void (*tell)(void *arg, json_t *result) = k->done;
    void *arg = k->arg;
    dismantle(k);
    tell(arg, r);
}

/* From the timer, so that no connection is freed in its own callback. */
static void on_timer(uv_timer_t *t)
{
    struct tn_exitcheck *k = t->data;
    for (size_t i = 0; i < k->npages; i++) {
        struct page *g = &k->pages[i];
        if (g->ended) continue;
        g->took_us = tn_node_now() - g->began_us;
        snprintf(g->failure, sizeof g->failure, "timed out");
    }
    finish(k);
}

static void end_page(struct page *g, const char *failure)
{
    if (g->ended) return;
    g->ended = true;
    if (failure) snprintf(g->failure, sizeof g->failure, "%s", failure);
    g->took_us = tn_node_now() - g->began_us;
    if (g->conn) tn_egress_want(g->conn, 0);
    if (--g->check->running == 0) uv_timer_start(&g->check->timer, on_timer, 0, 0);
}

/* ---- a connection ---- */

static void flush(struct page *g)
{
    while (tn_buf_len(&g->out) > 0) {
        struct iovec iov = {tn_buf_data(&g->out), tn_buf_len(&g->out)};
        long n = tn_egress_writev(g->conn, &iov, 1);
        if (n == TN_E_AGAIN) break;
        if (n < 0) {
            end_page(g, tn_err_text((int)n));
            return;
        }
        tn_buf_consume(&g->out, (size_t)n);
    }
    if (!g->ended)
        tn_egress_want(g->conn, TN_EGRESS_WANT_READ | (tn_buf_len(&g->out) ? TN_EGRESS_WANT_WRITE : 0));
}

static void take_ciphertext(struct page *g)
{
    const uint8_t *bytes;
    for (size_t len; (len = tn_tls_output(g->tls, &bytes)) > 0; tn_tls_output_consume(g->tls, len))
        if (tn_buf_append(&g->out, bytes, len) != 0) return;
}

static void ask(struct page *g)
{
    char request[TN_CHECKPAGE_URL_MAX + 256];
    int len = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: %s\r\nAccept: text/plain, application/json\r\n\r\n",
                       g->check->at.path, g->check->at.host);
    if (!g->tls) (void)tn_buf_append(&g->out, request, (size_t)len);
    else (void)tn_tls_write(g->tls, request, (size_t)len);
}

/* Some servers keep the connection whatever was asked: the length is the end too. */
static bool is_complete(const struct page *g)
{
    struct tn_http1_head head;
    long n = tn_http1_parse_response(tn_buf_data(&g->in), tn_buf_len(&g->in), PAGE_MAX, &head);
    int64_t want = n > 0 ? tn_http1_content_length(&head) : -1;
    return want >= 0 && tn_buf_len(&g->in) - (size_t)n >= (uint64_t)want;
}

/* What arrived has been given to TLS. False at the end. */
static bool turn_tls(struct page *g, bool *asked)
{
    char bytes[4096];
    int r = tn_tls_handshake(g->tls);
    if (r == 0 && !*asked) {
        *asked = true;
        ask(g);
    }
    long n = TN_E_AGAIN;
    while (r == 0 && (n = tn_tls_read(g->tls, bytes, sizeof bytes)) > 0)
        if (tn_buf_append(&g->in, bytes, (size_t)n) != 0) break;
    take_ciphertext(g);
    if (r && r != TN_E_AGAIN) end_page(g, tn_tls_error(g->tls));
    else if (n != TN_E_AGAIN) end_page(g, NULL);
    return !g->ended;
}

static void on_readable(void *arg, struct tn_egress_conn *c)
{
    struct page *g = arg;
    uint8_t bytes[4096];
    struct iovec iov = {bytes, sizeof bytes};
    bool asked = tn_buf_len(&g->in) > 0 || (g->tls && tn_tls_handshake(g->tls) == 0);
    for (long n; !g->ended && (n = tn_egress_readv(c, &iov, 1)) != TN_E_AGAIN;) {
        if (n <= 0) end_page(g, n < 0 ? tn_err_text((int)n) : NULL);
        else if (!g->tls && tn_buf_append(&g->in, bytes, (size_t)n) != 0) end_page(g, "the page is too long");
        else if (g->tls && (tn_tls_input(g->tls, bytes, (size_t)n) != 0 || !turn_tls(g, &asked))) end_page(g, NULL);
        if (!g->ended && is_complete(g)) end_page(g, NULL);
    }
    if (!g->ended) flush(g);
}

static void on_writable(void *arg, struct tn_egress_conn *c) { flush(arg); }

static void on_open(void *arg, struct tn_egress_conn *c)
{
    struct page *g = arg;
    struct tn_exitcheck *k = g->check;
    bool asked = false;
    if (k->at.tls) {
        char host[TN_IP_STRLEN];
        struct tn_dial_spec spec = {.host = tn_ip_format(&k->at.addr.ip, host), .port = k->at.addr.port, .tls = true};
        if (tn_tls_new(k->node->tls, &spec, &g->tls) != 0) end_page(g, "out of memory");
        else (void)turn_tls(g, &asked);
    } else {
        ask(g);
    }
    if (!g->ended) flush(g);
}

static void on_fail(void *arg, enum tn_egress_fail why)
{
    struct page *g = arg;
    g->conn = NULL;
    end_page(g, tn_egress_fail_text(why));
}

static const struct tn_egress_events events = {on_open, on_fail, on_readable, on_writable, NULL};

static void begin_page(struct page *g)
{
    struct tn_exitcheck *k = g->check;
    struct tn_egress_target to = {.dst = k->at.addr, .purpose = TN_EGRESS_CHECK, .via = g->proxy[0] ? g->proxy : NULL};
    g->began_us = tn_node_now();
    int why = tn_egress_dial(k->node->egress, &to, &events, g, &g->conn);
    if (!why) return;
    g->conn = NULL;
    end_page(g, tn_egress_fail_text((enum tn_egress_fail)why));
}

/* ---- the beginning ---- */

static int make_pages(struct tn_exitcheck *k)
{
    struct tn_egress *e = k->node->egress;
    struct tn_egress_proxy_stats s;
    size_t n = 0;
    while (tn_egress_proxy_at(e, n, &s)) n++;
    if (n == 0 && tn_egress_mode(e) == TN_EGRESS_HOST) n = 1;
    k->pages = calloc(n ? n : 1, sizeof *k->pages);
    if (!k->pages) return TN_E_NOMEM;
    k->npages = n;
    for (size_t i = 0; i < n; i++) {
        k->pages[i].check = k;
        if (tn_egress_proxy_at(e, i, &s)) snprintf(k->pages[i].proxy, sizeof k->pages[i].proxy, "%s", s.name);
        tn_buf_init(&k->pages[i].in, PAGE_MAX);
        tn_buf_init(&k->pages[i].out, PAGE_MAX);
    }
    return 0;
}

int tn_exitcheck_start(struct tn_node *n, const char *url, void (*done)(void *arg, json_t *result), void *arg)
{
    if (n->exitcheck) return TN_E_BUSY;
    struct tn_exitcheck *k = calloc(1, sizeof *k);
    if (!k) return TN_E_NOMEM;
    k->node = n;
    k->done = done;
    k->arg = arg;
    int err = tn_checkpage_parse(url && *url ? url : TN_EXITCHECK_URL, &k->at);
    if (!err) err = make_pages(k);
    if (err) {
        free(k);
        return err;
    }
    uv_timer_init(&n->loop, &k->timer);
    k->timer.data = k;
    uv_timer_start(&k->timer, on_timer, TOTAL_MS, 0);
    n->exitcheck = k;
    k->running = k->npages + 1; /* one more, so that the end comes after the last was begun */
    for (size_t i = 0; i < k->npages; i++) begin_page(&k->pages[i]);
    if (--k->running == 0) uv_timer_start(&k->timer, on_timer, 0, 0);
    return 0;
}

void tn_exitcheck_cancel(struct tn_node *n)
{
    if (n->exitcheck) dismantle(n->exitcheck);
}
