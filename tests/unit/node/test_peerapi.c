#include "node/peerapi.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* What the handler calls. */
struct world {
    struct tn_peerapi *api;
    struct tn_peerapi_conn *conn;
    struct tn_buf out;
    bool internet;
    const char *set[2];
    size_t nset;
    int resolve_err;
    unsigned asked, canceled, closes;
    struct tn_ip reached;
    uint8_t query[600];
    size_t query_len;
    void (*answer)(void *arg, int err, const uint8_t *bytes, size_t len);
    void *arg;
};

static bool is_own(void *ctx, const struct tn_ip *ip)
{
    struct tn_ip own4 = tn_ip4(100, 64, 0, 1), own6;
    tn_ip_parse("fd7a:115c:a1e0::1", &own6);
    return tn_ip_eq(ip, &own4) || tn_ip_eq(ip, &own6);
}
static bool may_reach(void *ctx, const struct tn_ip *src)
{
    struct world *w = ctx;
    w->reached = *src;
    return w->internet;
}
static const char *const *filtered(void *ctx, size_t *n)
{
    struct world *w = ctx;
    *n = w->nset;
    return w->set;
}
static int fake_resolve(void *ctx, const struct tn_ip *src, const uint8_t *query, size_t len, uint64_t now_us,
                        void (*answer)(void *arg, int err, const uint8_t *bytes, size_t len), void *arg,
                        void **handle)
{
    struct world *w = ctx;
    if (w->resolve_err) return w->resolve_err;
    w->asked++;
    assert_true(len <= sizeof w->query);
    memcpy(w->query, query, len);
    w->query_len = len;
    w->answer = answer;
    w->arg = arg;
    *handle = w;
    return 0;
}
static void fake_cancel(void *ctx, void *handle)
{
    assert_ptr_equal(ctx, handle);
    ((struct world *)ctx)->canceled++;
}
static int write_out(void *ctx, const void *bytes, size_t len)
{
    struct world *w = ctx;
    return tn_buf_append(&w->out, bytes, len);
}
static void on_close(void *ctx) { ((struct world *)ctx)->closes++; }

static void start(struct world *w, bool same_user)
{
    *w = (struct world){.internet = true};
    tn_buf_init(&w->out, 1 << 20);
    struct tn_peerapi_config config = {.ctx = w,
                                       .is_own = is_own,
                                       .may_reach_internet = may_reach,
                                       .filtered = filtered,
                                       .resolve = fake_resolve,
                                       .cancel = fake_cancel};
    struct tn_peerapi_peer peer = {.user = "<Jo & \"Co\">'", .name = "box", .same_user = same_user};
    struct tn_httpd_config io = {.write = write_out, .on_close = on_close, .ctx = w};
    struct tn_ip remote = tn_ip4(100, 64, 0, 9);
    assert_int_equal(tn_peerapi_new(&config, &w->api), 0);
    assert_int_equal(tn_peerapi_conn_new(w->api, &remote, NULL, &io, 0, &w->conn), TN_E_ACCES);
    assert_int_equal(tn_peerapi_conn_new(w->api, &remote, &peer, &io, 0, &w->conn), 0);
}
static void stop(struct world *w)
{
    tn_peerapi_conn_free(w->conn);
    tn_peerapi_free(w->api);
    tn_buf_fini(&w->out);
}

/* Sends a request and returns the status of what came back at once, 0 for nothing. The text stays in w->out until the
 * next. */
static int request_raw(struct world *w, const void *bytes, size_t len)
{
    tn_buf_fini(&w->out);
    tn_httpd_input(tn_peerapi_conn_http(w->conn), bytes, len, 0);
    return tn_buf_len(&w->out) > 12 ? atoi((char *)tn_buf_data(&w->out) + 9) : 0;
}
static int request(struct world *w, const char *method, const char *target, const char *headers)
{
    char text[2048];
    int n = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\n%s\r\n", method, target, headers);
    return request_raw(w, text, (size_t)n);
}
static bool said(struct world *w, const char *text)
{
    return memmem(tn_buf_data(&w->out), tn_buf_len(&w->out), text, strlen(text)) != NULL;
}

#define HOST "Host: 100.64.0.1:40000\r\n"

/* a.example.com A */
static const uint8_t query[] = {0x12, 0x34, 1,   0,   0,   1,   0, 0,   0,   0,   0, 0, 1, 'a', 7, 'e',
                                'x',  'a',  'm', 'p', 'l', 'e', 3, 'c', 'o', 'm', 0, 0, 1, 0,   1};

static int post(struct world *w, const char *type, const void *body, size_t len)
{
    char text[2048];
    int n =
        snprintf(text, sizeof text,
                 "POST /dns-query HTTP/1.1\r\n" HOST "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, len);
    assert_true((size_t)n + len <= sizeof text);
    memcpy(text + n, body, len);
    return request_raw(w, text, (size_t)n + len);
}
static int get(struct world *w, const void *bytes, size_t len)
{
    char target[1024] = "/dns-query?dns=";
    tn_base64_encode(TN_BASE64_URL_RAW, bytes, len, target + strlen(target));
    return request(w, "GET", target, HOST);
}

/* The DNS code of the answer in w->out. */
static int rcode(struct world *w)
{
    assert_true(said(w, "Content-Type: application/dns-message\r\n"));
    const uint8_t *body = memmem(tn_buf_data(&w->out), tn_buf_len(&w->out), "\r\n\r\n", 4);
    assert_non_null(body);
    assert_int_equal(body[4] << 8 | body[5], 0x1234);
    assert_true(body[6] & 0x80);
    return body[7] & 15;
}

static void ports(void **state)
{
    /* Computed with Go's hash/crc32 and zlib. */
    struct tn_ip four = tn_ip4(100, 64, 0, 1), six;
    assert_int_equal(tn_peerapi_port(&four, 0), 0xe444);
    tn_ip_parse("fd7a:115c:a1e0::40:1", &six); /* the same last three bytes */
    assert_int_equal(tn_peerapi_port(&six, 0), 0xe444);
    for (unsigned i = 1; i < TN_PEERAPI_PORT_TRIES; i++) assert_int_not_equal(tn_peerapi_port(&four, i), 0xe444);
    four = tn_ip4(100, 255, 0, 1);
    struct tn_ip wrapped = tn_ip4(100, 0, 0, 1);
    assert_int_equal(tn_peerapi_port(&four, 1), tn_peerapi_port(&wrapped, 0));
}

static void greeting(void **state)
{
    struct world w;
    start(&w, true);
    assert_int_equal(request(&w, "GET", "/", HOST), 200);
    assert_true(said(&w, "&lt;Jo &amp; &#34;Co&#34;&gt;&#39; (100.64.0.9)"));
    assert_true(said(&w, "You are the owner"));
    assert_false(said(&w, "Content-Security-Policy"));
    assert_int_equal(request(&w, "GET", "/", HOST "User-Agent: Mozilla/5.0\r\n"), 200);
    assert_true(said(&w, "Content-Security-Policy"));
    assert_int_equal(request(&w, "GET", "/v0/env", HOST), 404);
    assert_int_equal(request(&w, "GET", "/dns-queryx", HOST), 404);
    assert_int_equal(request(&w, "POST", "/", HOST), 405);
    stop(&w);
    start(&w, false);
    assert_int_equal(request(&w, "HEAD", "/", HOST), 200);
    assert_false(said(&w, "Hello"));
    stop(&w);
}

/* What a peer may have us keep until its request is whole. */
static void bodies_are_bounded(void **state)
{
    static const struct {
        const char *method, *target, *headers;
        int status;
    } rows[] = {
        {"POST", "/dns-query", HOST "Content-Length: 4097\r\n", 413},
        {"POST", "/dns-query", HOST "Content-Length: 4096\r\n", 0}, /* waited for */
        {"POST", "/dns-query", HOST "Transfer-Encoding: chunked\r\n", 0},
        {"GET", "/", HOST "Content-Length: 1\r\n", 413},
        {"POST", "/v0/put/file", HOST "Content-Length: 1000000\r\n", 413},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct world w;
        start(&w, true);
        assert_int_equal(request(&w, rows[i].method, rows[i].target, rows[i].headers), rows[i].status);
        if (strstr(rows[i].headers, "chunked")) {
            char chunk[16 + 512];
            int n = snprintf(chunk, sizeof chunk, "200\r\n");
            memset(chunk + n, 'x', 512);
            memcpy(chunk + n + 512, "\r\n", 2);
            for (int k = 0; k < 9; k++) assert_int_equal(request_raw(&w, chunk, (size_t)n + 512 + 2), k < 8 ? 0 : 413);
        }
        stop(&w);
    }
}

static void lured_browsers_are_refused(void **state)
{
    struct world w;
    struct tn_peerapi_stats stats;
    static const char *const bad[] = {
        "Host: example.com\r\n",
        "Host: 100.64.0.1\r\n",
        "Host: 100.64.0.2:80\r\n",
        "Host: peer:80\r\n",
        "Host: \r\n",
        "Host: [100.64.0.1]:80\r\n",
        HOST "Origin: http://evil.test\r\n",
        HOST "Referer: http://evil.test/\r\n",
        HOST "Origin: null\r\n",
        "Host: 127.0.0.1:80\r\n",
    };
    static const char *const good[] = {HOST, "Host: peer\r\n", "Host: [fd7a:115c:a1e0::1]:40000\r\n",
                                       HOST "Origin:\r\n"};
    start(&w, true);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (request(&w, "GET", "/", bad[i]) != 403) fail_msg("%s", bad[i]);
    assert_int_equal(request(&w, "GET", "/dns-query?dns=AAAA", bad[0]), 403);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (request(&w, "GET", "/", good[i]) != 200) fail_msg("%s", good[i]);
    tn_peerapi_stats(w.api, &stats);
    assert_int_equal(stats.invalid, sizeof bad / sizeof *bad + 1);
    stop(&w);
}

static void names_are_resolved(void **state)
{
    struct world w;
    start(&w, false);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(i ? get(&w, query, sizeof query) : post(&w, "application/dns-message", query, sizeof query),
                         0);
        assert_int_equal(w.query_len, sizeof query);
        assert_memory_equal(w.query, query, sizeof query);
        uint8_t answer[sizeof query];
        memcpy(answer, query, sizeof query);
        answer[2] |= 0x80;
        w.answer(w.arg, 0, answer, sizeof answer);
        assert_int_equal(rcode(&w), 0);
        assert_true(said(&w, "HTTP/1.1 200 OK\r\n"));
    }
    struct tn_ip peer = tn_ip4(100, 64, 0, 9);
    assert_true(tn_ip_eq(&w.reached, &peer));
    assert_int_equal(w.asked, 2);
    assert_int_equal(w.closes, 0);
    stop(&w);
    assert_int_equal(w.canceled, 0);
}

static void who_may_resolve(void **state)
{
    struct world w;
    start(&w, false);
    w.internet = false;
    assert_int_equal(get(&w, query, sizeof query), 403);
    assert_true(said(&w, "DNS access denied"));
    assert_int_equal(w.asked, 0);
    stop(&w);
    start(&w, true);
    w.internet = false;
    assert_int_equal(get(&w, query, sizeof query), 0);
    assert_int_equal(w.asked, 1);
    stop(&w);
    assert_int_equal(w.canceled, 1);
}

static void filtered_and_failing_names(void **state)
{
    struct world w;
    struct tn_peerapi_stats stats;
    start(&w, false);
    w.set[0] = "other.test";
    w.set[1] = ".example.com";
    w.nset = 2;
    assert_int_equal(get(&w, query, sizeof query), 200);
    assert_int_equal(rcode(&w), 5);
    assert_int_equal(w.asked, 0);
    w.nset = 1;
    w.resolve_err = TN_E_POLICY; /* egress off */
    assert_int_equal(get(&w, query, sizeof query), 200);
    assert_int_equal(rcode(&w), 2);
    w.resolve_err = 0;
    assert_int_equal(get(&w, query, sizeof query), 0);
    w.answer(w.arg, TN_E_TIMEDOUT, NULL, 0);
    assert_int_equal(rcode(&w), 2);
    tn_peerapi_stats(w.api, &stats);
    assert_int_equal(stats.dns_failed, 2);
    assert_int_equal(stats.dns_filtered, 1);
    stop(&w);
}

static void bad_queries(void **state)
{
    struct world w;
    uint8_t answer[sizeof query];
    memcpy(answer, query, sizeof query);
    answer[2] |= 0x80;
    start(&w, false);
    assert_int_equal(post(&w, "text/plain", query, sizeof query), 400);
    assert_int_equal(post(&w, "application/dns-message", "", 0), 400);
    assert_int_equal(post(&w, "application/dns-message", query, sizeof query - 1), 400);
    assert_int_equal(post(&w, "application/dns-message", answer, sizeof answer), 400);
    assert_int_equal(get(&w, answer, sizeof answer), 400);
    assert_int_equal(request(&w, "GET", "/dns-query", HOST), 400);
    assert_int_equal(request(&w, "GET", "/dns-query?dns=", HOST), 400);
    assert_int_equal(request(&w, "GET", "/dns-query?dns=!!!", HOST), 400);
    assert_int_equal(request(&w, "GET", "/dns-query?dns=%zz", HOST), 400);
    assert_int_equal(request(&w, "GET", "/dns-query?q=example.com", HOST), 400);
    assert_int_equal(request(&w, "PUT", "/dns-query", HOST), 400);
    assert_int_equal(w.asked, 0);
    stop(&w);
}

static void a_client_that_leaves_cancels(void **state)
{
    struct world w;
    start(&w, false);
    assert_int_equal(get(&w, query, sizeof query), 0);
    stop(&w);
    assert_int_equal(w.canceled, 1);
    start(&w, false);
    assert_int_equal(get(&w, query, sizeof query), 0);
    tn_httpd_eof(tn_peerapi_conn_http(w.conn), 0); /* half-closed: it waits for the answer */
    w.answer(w.arg, TN_E_TIMEDOUT, NULL, 0);
    assert_int_equal(rcode(&w), 2);
    tn_httpd_timeout(tn_peerapi_conn_http(w.conn), 0);
    assert_int_equal(w.closes, 1);
    stop(&w);
    assert_int_equal(w.canceled, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports),
        cmocka_unit_test(greeting),
        cmocka_unit_test(bodies_are_bounded),
        cmocka_unit_test(lured_browsers_are_refused),
        cmocka_unit_test(names_are_resolved),
        cmocka_unit_test(who_may_resolve),
        cmocka_unit_test(filtered_and_failing_names),
        cmocka_unit_test(bad_queries),
        cmocka_unit_test(a_client_that_leaves_cancels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
