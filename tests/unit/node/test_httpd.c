#include "node/httpd.c"

#include "util/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { SECOND = 1000000 };

/* A server whose handler writes down what it got and answers as told. */
struct world {
    struct tn_httpd *h;
    struct tn_buf out, log;
    struct tn_httpd_req *req; /* waiting for a later answer */
    bool later;
    int backlog; /* what write returns */
    unsigned closes, resumes, cancels, handled;
    size_t limit;
};

static void on_cancel(void *arg) { ((struct world *)arg)->cancels++; }

static void handle(void *ctx, struct tn_httpd_req *req, const struct tn_httpd_request *r, uint64_t now_us)
{
    struct world *w = ctx;
    w->handled++;
    tn_buf_printf(&w->log, "%s|%s|%s|%s|%.*s\n", r->method, r->path, r->query, r->host, (int)r->body_len,
                  r->body_len ? (const char *)r->body : "");
    if (w->later) {
        w->req = req;
        tn_httpd_on_cancel(req, on_cancel, w);
        return;
    }
    tn_httpd_respond(req, 200, "text/plain", NULL, "ok", 2);
    assert_string_equal(r->method, r->method); /* still ours to read */
}

static size_t limit_of(void *ctx, const struct tn_httpd_request *r)
{
    assert_null(r->body);
    return ((struct world *)ctx)->limit;
}

static int write_out(void *ctx, const void *bytes, size_t len)
{
    struct world *w = ctx;
    if (w->backlog < 0) return w->backlog;
    assert_int_equal(tn_buf_append(&w->out, bytes, len), 0);
    return w->backlog;
}
static void on_close(void *ctx) { ((struct world *)ctx)->closes++; }
static void on_resume(void *ctx) { ((struct world *)ctx)->resumes++; }

static void start(struct world *w)
{
    *w = (struct world){.limit = 64};
    tn_buf_init(&w->out, 1 << 20);
    tn_buf_init(&w->log, 1 << 20);
    struct tn_httpd_config config = {.handle = handle,
                                     .body_limit = limit_of,
                                     .write = write_out,
                                     .on_close = on_close,
                                     .on_resume = on_resume,
                                     .ctx = w};
    assert_int_equal(tn_httpd_new(&config, 0, &w->h), 0);
}
static void stop(struct world *w)
{
    tn_httpd_free(w->h);
    tn_buf_fini(&w->out);
    tn_buf_fini(&w->log);
}

static int input(struct world *w, const char *text, size_t len, uint64_t now)
{
    char *exact = malloc(len ? len : 1);
    assert_non_null(exact);
    memcpy(exact, text, len);
    int r = tn_httpd_input(w->h, exact, len, now);
    free(exact);
    return r;
}
static int send_text(struct world *w, const char *text) { return input(w, text, strlen(text), 0); }

static void buf_is(struct tn_buf *b, const char *want)
{
    if (tn_buf_len(b) != strlen(want) || (*want && memcmp(tn_buf_data(b), want, strlen(want)) != 0))
        fail_msg("got\n%.*s\nwant\n%s", (int)tn_buf_len(b), tn_buf_len(b) ? (char *)tn_buf_data(b) : "", want);
    tn_buf_consume(b, tn_buf_len(b));
}

#define OK "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

static void simple_requests(void **state)
{
    struct world w;
    start(&w);
    assert_int_equal(send_text(&w, "GET /a%20b/c?d=e%26 HTTP/1.1\r\nHost: h:1\r\n\r\n"), 0);
    buf_is(&w.log, "GET|/a b/c|d=e%26|h:1|\n");
    buf_is(&w.out, OK);
    send_text(&w, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    buf_is(&w.log, "POST|/||h|hello\n");
    buf_is(&w.out, OK);
    send_text(&w, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    buf_is(&w.log, "POST|/||h|abcde\n");
    buf_is(&w.out, OK);
    send_text(&w, "GET http://auth:9/p?q HTTP/1.1\r\nHost: other\r\n\r\n");
    buf_is(&w.log, "GET|/p|q|auth:9|\n");
    send_text(&w, "GET http://auth HTTP/1.1\r\nHost: other\r\n\r\nOPTIONS * HTTP/1.1\r\nHost:\r\n\r\n");
    buf_is(&w.log, "GET|/||auth|\nOPTIONS|*|||\n");
    assert_int_equal(w.closes, 0);
    tn_buf_consume(&w.out, tn_buf_len(&w.out));
    send_text(&w, "HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    buf_is(&w.out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
    assert_int_equal(w.closes, 1);
    unsigned handled = w.handled;
    assert_int_equal(send_text(&w, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"), 0); /* after the end: ignored */
    assert_int_equal(w.handled, handled);
    stop(&w);
}

static void http10(void **state)
{
    struct world w;
    start(&w);
    send_text(&w, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    buf_is(&w.out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: "
                   "keep-alive\r\n\r\nok");
    send_text(&w, "GET / HTTP/1.0\r\n\r\n");
    buf_is(&w.out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    assert_int_equal(w.closes, 1);
    stop(&w);
}

static void pipelined_in_any_pieces(void **state)
{
    const char *text = "\r\nGET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: "
                       "3\r\n\r\nxyz"
                       "PUT /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: "
                       "x\r\n\r\nGET /4 HTTP/1.1\r\nHost: h\r\n\r\n";
    for (size_t step = 1; step <= strlen(text); step++) {
        struct world w;
        start(&w);
        for (size_t at = 0; at < strlen(text); at += step)
            assert_int_equal(input(&w, text + at, step < strlen(text) - at ? step : strlen(text) - at, 0), 0);
        buf_is(&w.log, "GET|/1||h|\nPOST|/2||h|xyz\nPUT|/3||h|ab\nGET|/4||h|\n");
        buf_is(&w.out, OK OK OK OK);
        stop(&w);
    }
}

static void defects_end_the_connection(void **state)
{
    static const struct { const char *text; int status; } bad[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
        {"hello\r\n\r\n", 400},
        {"\x16\x03\x01", 400},
        {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
         "chunked\r\n\r\n41\r\n0123456789012345678901234567890123456789012345678901234567890123456789",
         413},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: the-worst\r\n\r\n", 417},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct world w;
        char want[32];
        start(&w);
        send_text(&w, bad[i].text);
        send_text(&w, "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        snprintf(want, sizeof want, "HTTP/1.1 %d ", bad[i].status);
        if (w.handled || w.closes != 1 || tn_buf_len(&w.out) < 13 || memcmp(tn_buf_data(&w.out), want, 13) != 0)
            fail_msg("case %zu: %u closes, %.*s", i, w.closes, (int)tn_buf_len(&w.out), (char *)tn_buf_data(&w.out));
        assert_true(tn_httpd_next_deadline(w.h) == TN_NEVER);
        stop(&w);
    }
    struct world w;
    start(&w);
    static char big[TN_HTTPD_HEAD_MAX + 1];
    memset(big, 'a', sizeof big);
    memcpy(big, "GET / HTTP/1.1\r\nA: ", 19);
    assert_int_equal(input(&w, big, sizeof big, 0), 0);
    assert_true(memcmp(tn_buf_data(&w.out), "HTTP/1.1 431 ", 13) == 0);
    assert_int_equal(w.closes, 1);
    stop(&w);
}

static void expect_100(void **state)
{
    struct world w;
    start(&w);
    send_text(&w, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n");
    buf_is(&w.out, "HTTP/1.1 100 Continue\r\n\r\n");
    send_text(&w, "hi");
    buf_is(&w.out, OK);
    /* did not wait */
    send_text(&w, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi");
    buf_is(&w.out, OK);
    send_text(&w, "GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n");
    buf_is(&w.out, OK);
    stop(&w);
}

static void later_answers(void **state)
{
    struct world w;
    start(&w);
    w.later = true;
    assert_int_equal(send_text(&w, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"), 0);
    assert_true(tn_httpd_next_deadline(w.h) == TN_NEVER); /* the handler's own business */
    assert_int_equal(send_text(&w, "GET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3"), 1); /* stop reading */
    buf_is(&w.log, "GET|/1||h|\n");
    tn_httpd_respond(w.req, 204, NULL, "X: y\r\n", NULL, 0);
    buf_is(&w.out, "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n");
    assert_int_equal(w.resumes, 1);
    assert_true(tn_httpd_next_deadline(w.h) == 0); /* the rest waits for somebody who knows the time */
    tn_httpd_timeout(w.h, SECOND);
    buf_is(&w.log, "GET|/2||h|\n");
    tn_httpd_eof(w.h, SECOND); /* half-closed: the answer is still wanted */
    assert_int_equal(w.closes, 0);
    tn_httpd_error(w.req, 404, "no such thing");
    assert_true(tn_httpd_next_deadline(w.h) == 0);
    tn_httpd_timeout(w.h, SECOND);
    buf_is(&w.out, "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: "
                   "nosniff\r\n"
                   "Content-Length: 14\r\n\r\nno such thing\n");
    assert_int_equal(w.closes, 1);
    assert_int_equal(w.cancels, 0);
    stop(&w);
    start(&w);
    w.later = true;
    send_text(&w, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    stop(&w);
    assert_int_equal(w.cancels, 1);
}

static void input_ahead_is_bounded(void **state)
{
    struct world w;
    static char ahead[TN_HTTPD_AHEAD_MAX];
    start(&w);
    w.later = true;
    send_text(&w, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(input(&w, ahead, sizeof ahead, 0), 1);
    assert_int_equal(w.closes, 0);
    assert_int_equal(input(&w, ahead, 1, 0), TN_E_TOOBIG);
    assert_int_equal(w.closes, 1);
    stop(&w);
    assert_int_equal(w.cancels, 1);
}

static void streams(void **state)
{
    struct world w;
    start(&w);
    w.later = true;
    send_text(&w, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    tn_httpd_stream_start(w.req, 200, "application/json", NULL, NULL, NULL);
    assert_int_equal(tn_httpd_stream_write(w.req, "hello", 5), 0);
    assert_int_equal(tn_httpd_stream_write(w.req, "", 0), 0);
    w.backlog = 1;
    assert_int_equal(tn_httpd_stream_write(w.req, "0123456789abcdef", 16), 1);
    w.backlog = 0;
    tn_httpd_stream_end(w.req);
    buf_is(&w.out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
    send_text(&w, "HEAD /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(w.handled, 1); /* not before the backlog is gone */
    tn_httpd_drained(w.h, 0);
    assert_int_equal(w.handled, 2);
    tn_httpd_stream_start(w.req, 200, NULL, NULL, NULL, NULL);
    tn_httpd_stream_write(w.req, "x", 1);
    tn_httpd_stream_end(w.req);
    buf_is(&w.out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    send_text(&w, "GET /3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    tn_httpd_stream_start(w.req, 200, NULL, NULL, on_cancel, &w);
    tn_httpd_stream_write(w.req, "raw", 3);
    w.h->backlog = true;
    tn_httpd_drained(w.h, 0);
    assert_int_equal(w.cancels, 1); /* here: the drain callback */
    tn_httpd_stream_end(w.req);
    buf_is(&w.out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nraw");
    assert_int_equal(w.closes, 1);
    stop(&w);
    start(&w);
    w.later = true;
    send_text(&w, "GET /4 HTTP/1.1\r\nHost: h\r\n\r\n");
    tn_httpd_stream_start(w.req, 200, NULL, NULL, NULL, NULL);
    w.backlog = TN_E_RESET;
    assert_int_equal(tn_httpd_stream_write(w.req, "x", 1), TN_E_RESET);
    assert_int_equal(tn_httpd_stream_write(w.req, "x", 1), TN_E_CLOSED);
    assert_int_equal(w.closes, 1);
    stop(&w);
    assert_int_equal(w.cancels, 1);
}

static void large_bodies(void **state)
{
    struct world w;
    static char body[200000];
    char head[128];
    start(&w);
    w.limit = sizeof body;
    w.later = true;
    snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", sizeof body);
    send_text(&w, head);
    memset(body, 'b', sizeof body);
    assert_int_equal(input(&w, body, sizeof body, 0), 0);
    assert_int_equal(w.handled, 1);
    assert_int_equal(tn_buf_len(&w.log), 11 + sizeof body);
    tn_httpd_respond(w.req, 200, NULL, NULL, body, sizeof body);
    assert_int_equal(tn_buf_len(&w.out), strlen("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n") + sizeof body);
    stop(&w);
}

static void timeouts(void **state)
{
    struct world w;
    start(&w);
    assert_true(tn_httpd_next_deadline(w.h) == HEAD_TIMEOUT_US); /* nothing at all came */
    tn_httpd_timeout(w.h, HEAD_TIMEOUT_US);
    buf_is(&w.out, "");
    assert_int_equal(w.closes, 1);
    stop(&w);
    start(&w);
    input(&w, "GET", 3, SECOND); /* a head that never ends, dripping */
    input(&w, " ", 1, 10 * SECOND);
    assert_true(tn_httpd_next_deadline(w.h) == SECOND + HEAD_TIMEOUT_US);
    tn_httpd_timeout(w.h, SECOND + HEAD_TIMEOUT_US - 1);
    assert_int_equal(w.closes, 0);
    tn_httpd_timeout(w.h, SECOND + HEAD_TIMEOUT_US);
    assert_true(memcmp(tn_buf_data(&w.out), "HTTP/1.1 408 ", 13) == 0);
    assert_int_equal(w.closes, 1);
    stop(&w);
    start(&w);
    send_text(&w, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx");
    assert_true(tn_httpd_next_deadline(w.h) == BODY_TIMEOUT_US);
    tn_httpd_timeout(w.h, BODY_TIMEOUT_US);
    assert_true(memcmp(tn_buf_data(&w.out), "HTTP/1.1 408 ", 13) == 0);
    stop(&w);
    start(&w);
    input(&w, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 27, SECOND);
    assert_true(tn_httpd_next_deadline(w.h) == SECOND + IDLE_TIMEOUT_US);
    buf_is(&w.out, OK);
    tn_httpd_timeout(w.h, SECOND + IDLE_TIMEOUT_US);
    buf_is(&w.out, "");
    assert_int_equal(w.closes, 1);
    stop(&w);
}

static void ends_of_input(void **state)
{
    static const char *const partial[] = {"", "GET", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx"};
    for (size_t i = 0; i < 3; i++) {
        struct world w;
        start(&w);
        send_text(&w, partial[i]);
        tn_httpd_eof(w.h, 0);
        assert_int_equal(w.closes, 1);
        assert_int_equal(w.handled, 0);
        buf_is(&w.out, "");
        stop(&w);
    }
    struct world w;
    start(&w);
    w.backlog = TN_E_PIPE; /* a peer that can't be written to */
    send_text(&w, "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(w.handled, 1);
    assert_int_equal(w.closes, 1);
    stop(&w);
    assert_int_equal(w.cancels, 0);
}

static void query_params(void **state)
{
    char out[16];
    const char *q = "a=1&dns=x%2By+z&dns=2&empty=&flag&ab=3&bad=%4";
    assert_int_equal(tn_httpd_query_param(q, "dns", out, sizeof out), 5);
    assert_string_equal(out, "x+y z");
    assert_int_equal(tn_httpd_query_param(q, "ab", out, sizeof out), 1);
    assert_int_equal(tn_httpd_query_param(q, "empty", out, sizeof out), 0);
    assert_int_equal(tn_httpd_query_param(q, "flag", out, sizeof out), 0);
    assert_int_equal(tn_httpd_query_param(q, "b", out, sizeof out), -1);
    assert_int_equal(tn_httpd_query_param("", "b", out, sizeof out), -1);
    assert_int_equal(tn_httpd_query_param(q, "bad", out, sizeof out), TN_E_MALFORMED);
    assert_int_equal(tn_httpd_query_param("x=%00", "x", out, sizeof out), TN_E_MALFORMED);
    assert_int_equal(tn_httpd_query_param("x=0123456789012345", "x", out, sizeof out), TN_E_NOSPC);
    assert_int_equal(tn_httpd_query_param("x=012345678901234", "x", out, sizeof out), 15);
    assert_string_equal(tn_httpd_status_text(799), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_requests), cmocka_unit_test(http10), cmocka_unit_test(pipelined_in_any_pieces),
        cmocka_unit_test(defects_end_the_connection), cmocka_unit_test(expect_100), cmocka_unit_test(later_answers),
        cmocka_unit_test(input_ahead_is_bounded), cmocka_unit_test(streams), cmocka_unit_test(large_bodies),
        cmocka_unit_test(timeouts), cmocka_unit_test(ends_of_input), cmocka_unit_test(query_params),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
