/* The HTTP server and the PeerAPI with each allocation failing in turn: an error response or an end of the
 * connection, never a crash, a leak or a handler left waiting. */
#include "../failalloc.h"

#include "util/buf.c"
#include "dns/message.c"
#include "node/httpd.c"
#include "node/peerapi.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static bool yes(void *ctx, const struct tn_ip *ip) { return true; }
static unsigned ok; /* responses with status 200 */
static int write_out(void *ctx, const void *bytes, size_t len)
{
    ok += len > 12 && memcmp(bytes, "HTTP/1.1 200", 12) == 0;
    return 0;
}
static void closed(void *ctx) { ++*(unsigned *)ctx; }

static void (*waiting)(void *arg, int err, const uint8_t *bytes, size_t len);
static void *waiting_arg;
static int resolve_later(void *ctx, const struct tn_ip *src, const uint8_t *query, size_t len, uint64_t now_us,
                         void (*answer)(void *arg, int err, const uint8_t *bytes, size_t len), void *arg,
                         void **handle)
{
    waiting = answer;
    waiting_arg = arg;
    *handle = ctx;
    return 0;
}
static void cancel_it(void *ctx, void *handle) { waiting = NULL; }

static void converse(void *arg)
{
    static const char text[] =
        "GET / HTTP/1.1\r\nHost: peer\r\n\r\n"
        "POST /dns-query HTTP/1.1\r\nHost: peer\r\nContent-Type: application/dns-message\r\nTransfer-Encoding: "
        "chunked\r\n\r\n"
        "11\r\n\0\1\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1\r\n0\r\n\r\n"
        "GET /dns-query?dns=AAABAAABAAAAAAAAAAABAAE HTTP/1.1\r\nHost: peer\r\n\r\n";
    unsigned closes = 0;
    struct tn_peerapi_config config = {
        .is_own = yes, .may_reach_internet = yes, .resolve = resolve_later, .cancel = cancel_it};
    struct tn_peerapi_peer peer = {.user = "<u>"};
    struct tn_httpd_config io = {.write = write_out, .on_close = closed, .ctx = &closes};
    struct tn_ip remote = tn_ip4(100, 64, 0, 9);
    struct tn_peerapi *api;
    struct tn_peerapi_conn *c;
    waiting = NULL;
    if (tn_peerapi_new(&config, &api) != 0) return;
    if (tn_peerapi_conn_new(api, &remote, &peer, &io, 0, &c) == 0) {
        struct tn_httpd *h = tn_peerapi_conn_http(c);
        tn_httpd_input(h, text, sizeof text - 1, 0);
        for (int i = 0; i < 3; i++) {
            if (waiting && !closes) waiting(waiting_arg, TN_E_TIMEDOUT, NULL, 0);
            waiting = NULL;
            tn_httpd_timeout(h, 1);
        }
        assert_true(closes <= 1);
        tn_peerapi_conn_free(c);
    }
    tn_peerapi_free(api);
}

static void every_allocation_fails_once(void **state)
{
    long n = 0;
    while (ok = 0, failalloc_run(n, converse, NULL)) n++;
    assert_int_equal(ok, 3); /* the run that met no failure */
    assert_true(n > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
