/* The breaker through its whole life, and the sessions that templates make. */
#include "egress/breaker.c"
#include "egress/template.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { S = 1000000 };

static void test_opens_and_closes(void **state)
{
    struct tn_breaker b = {0};
    assert_int_equal(tn_breaker_says(&b, 0), TN_BREAKER_CLOSED);
    assert_false(tn_breaker_failure(&b, false, 0));
    assert_false(tn_breaker_failure(&b, false, 0));
    assert_false(tn_breaker_success(&b)); /* not in a row any more */
    for (int i = 0; i < TN_BREAKER_FAILS - 1; i++) assert_false(tn_breaker_failure(&b, false, 10 * S));
    assert_int_equal(tn_breaker_says(&b, 10 * S), TN_BREAKER_CLOSED);
    assert_true(tn_breaker_failure(&b, false, 10 * S));
    assert_int_equal(tn_breaker_says(&b, 10 * S), TN_BREAKER_OPEN);
    assert_false(tn_breaker_failure(&b, false, 10 * S)); /* dials that began before change nothing */
    assert_int_equal(tn_breaker_says(&b, 11 * S - 1), TN_BREAKER_OPEN);
    assert_int_equal(tn_breaker_says(&b, 11 * S), TN_BREAKER_TRIAL);
    tn_breaker_try(&b, 11 * S);
    assert_int_equal(tn_breaker_says(&b, 11 * S), TN_BREAKER_OPEN); /* one at a time */
    assert_true(tn_breaker_failure(&b, false, 12 * S));
    assert_int_equal(tn_breaker_says(&b, 14 * S - 1), TN_BREAKER_OPEN);
    assert_int_equal(tn_breaker_says(&b, 14 * S), TN_BREAKER_TRIAL);
    tn_breaker_try(&b, 14 * S);
    assert_true(tn_breaker_success(&b));
    assert_int_equal(tn_breaker_says(&b, 14 * S), TN_BREAKER_CLOSED);
}

static void test_pauses_are_bounded(void **state)
{
    struct tn_breaker b = {0};
    uint64_t now = 0;
    for (int i = 0; i < 40; i++) {
        if (tn_breaker_says(&b, now) == TN_BREAKER_TRIAL) tn_breaker_try(&b, now);
        tn_breaker_failure(&b, i % 2, now);
        now += TN_BREAKER_AUTH_MAX_US;
        assert_int_not_equal(tn_breaker_says(&b, now), TN_BREAKER_OPEN);
    }
    b = (struct tn_breaker){0};
    assert_true(tn_breaker_failure(&b, true, 0)); /* credentials: at once */
    assert_true(b.auth);
    tn_breaker_try(&b, 5 * S);
    assert_int_equal(tn_breaker_says(&b, 5 * S + TN_BREAKER_TRIAL_US), TN_BREAKER_TRIAL); /* a trial that got lost */
}

static const char *fill_user(const char *url, struct tn_template_who who, char out[600])
{
    static const struct tn_hashkey key = {{3, 4}};
    struct tn_proxy *p, *filled;
    char why[128];
    assert_int_equal(tn_proxy_parse(url, strlen(url), &p, why), 0);
    assert_true(p->templated);
    filled = tn_template_fill(p, &key, &who);
    assert_non_null(filled);
    snprintf(out, 600, "%s/%s", tn_secret_bytes(filled->user), tn_secret_bytes(filled->pass));
    tn_proxy_free(filled);
    tn_proxy_free(p);
    return out;
}

static void test_sessions(void **state)
{
    char a[600], b[600];
    struct tn_template_who who = {.peer = 11, .user = 5};
    static const char peer[] = "socks5://cust-{peer}:x@h:1", user[] = "http://cust:{user}@h:1", epoch[] = "socks5://e{epoch}:x@h:1";
    fill_user(peer, who, a);
    assert_int_equal(strlen(a), 5 + TN_TEMPLATE_TOKEN + 2);
    assert_int_equal(strspn(a + 5, "0123456789abcdefghijklmnopqrstuvwxyz"), TN_TEMPLATE_TOKEN);
    assert_string_equal(fill_user(peer, who, b), a); /* lasts */
    who.user = 6;
    assert_string_equal(fill_user(peer, who, b), a);
    who.peer = 12;
    assert_string_not_equal(fill_user(peer, who, b), a);
    who = (struct tn_template_who){.peer = 11, .peer_epoch = 1};
    assert_string_not_equal(fill_user(peer, who, b), a); /* rotated */
    who = (struct tn_template_who){.peer = 11, .epoch = 1};
    assert_string_not_equal(fill_user(peer, who, b), a);
    who = (struct tn_template_who){.peer = 1, .user = 5};
    fill_user(user, who, a);
    who.peer = 2;
    assert_string_equal(fill_user(user, who, b), a); /* a user's devices share it */
    who = (struct tn_template_who){.peer_epoch = 4, .epoch = 38};
    assert_string_equal(fill_user(epoch, who, b), "e42/x");
}

/* What is filled in must fit too: 255 bytes in SOCKS5. */
static void test_length(void **state)
{
    char url[400], why[128];
    struct tn_proxy *p;
    for (size_t n = 240; n <= 250; n++) {
        snprintf(url, sizeof url, "socks5://%.*s{peer}:x@h:1", (int)n, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        int err = tn_proxy_parse(url, strlen(url), &p, why);
        assert_int_equal(err == 0, n + TN_TEMPLATE_TOKEN <= 255);
        if (!err) tn_proxy_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens_and_closes), cmocka_unit_test(test_pauses_are_bounded), cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
