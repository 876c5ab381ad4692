/* Lookups: an answer, a name that is none, and letting go of one that hangs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "util/resolve.c"
#include <poll.h>

static int wait_for(struct tn_resolve *r, struct tn_addrport *out)
{
    struct pollfd p = {.fd = tn_resolve_fd(r), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 30000), 1);
    return tn_resolve_result(r, out, TN_RESOLVE_MAX);
}

static void literal_needs_no_server(void **state)
{
    struct tn_resolve *r;
    struct tn_addrport out[TN_RESOLVE_MAX];
    assert_int_equal(tn_resolve_start("127.0.0.1", 80, &r), 0);
    assert_int_equal(wait_for(r, out), 1);
    assert_int_equal(out[0].port, 80);
    assert_int_equal(out[0].ip.b[0], 127);
    tn_resolve_free(r);
}

static void no_such_name(void **state)
{
    struct tn_resolve *r;
    struct tn_addrport out[TN_RESOLVE_MAX];
    assert_int_equal(tn_resolve_start("a..b", 80, &r), 0);
    assert_int_equal(wait_for(r, out), TN_E_DNS);
    tn_resolve_free(r);
    char longname[300];
    memset(longname, 'a', sizeof longname);
    longname[299] = '\0';
    assert_int_equal(tn_resolve_start(longname, 80, &r), TN_E_INVAL);
    assert_int_equal(tn_resolve_start("", 80, &r), TN_E_INVAL);
}

static void let_go(void **state)
{
    struct tn_resolve *r;
    assert_int_equal(tn_resolve_start("127.0.0.1", 80, &r), 0);
    tn_resolve_free(r); /* the thread may still run: it frees the rest (LeakSanitizer looks) */
    usleep(200 * 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(literal_needs_no_server),
        cmocka_unit_test(no_such_name),
        cmocka_unit_test(let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
