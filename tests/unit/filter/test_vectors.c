/* What Go's filter said to the same rules and packets (tests/peers/filtervectors). */
#include "filter/filter.h"
#include "util/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { LINE_MAX_LEN = 8192, SETS_MIN = 30, PACKETS_MIN = 500 };
static const char *path;

static bool has_cap(void *ctx, const char *cap) { return strcmp(cap, "yes") == 0; }

static struct tn_filter *begin(const char *text)
{
    static const char *const ours[] = {"100.64.0.1/32", "fd7a:115c:a1e0::1/128", "10.1.0.0/24", "2001:db8::/64",
                                       "169.254.169.254/32"};
    struct tn_prefix routes[sizeof ours / sizeof *ours];
    struct tn_filter *f = tn_filter_new();
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_true(f && json);
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) assert_int_equal(tn_prefix_parse(ours[i], &routes[i]), 0);
    assert_int_equal(tn_filter_set_local(f, NULL, 0, routes, sizeof ours / sizeof *ours, NULL, 0), 0);
    assert_int_equal(tn_filter_set_rules(f, json), 0);
    json_decref(json);
    return f;
}

static void agrees_with_go(void **state)
{
    static char line[LINE_MAX_LEN], rules[LINE_MAX_LEN];
    unsigned sets = 0, packets = 0, accepted = 0;
    struct tn_filter *f = NULL;
    FILE *in = fopen(path, "r");
    if (!in) fail_msg("%s: can't open", path);
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "rules ", 6) == 0) {
            tn_filter_free(f);
            snprintf(rules, sizeof rules, "%s", line + 6);
            f = begin(rules);
            sets++;
            continue;
        }
        bool out = strncmp(line, "out ", 4) == 0;
        char *hex = line + (out ? 4 : 3), *verdict = strchr(hex, ' ');
        assert_true(f && (out || verdict));
        if (verdict) *verdict++ = '\0';
        size_t len = strlen(hex) / 2;
        uint8_t *bytes = malloc(len);
        assert_non_null(bytes);
        assert_int_equal(tn_hex_decode(hex, bytes, len), 0);
        if (out) {
            tn_filter_out(f, bytes, len);
        } else {
            enum tn_filter_reason why;
            struct tn_filter_peer peer = {.has_cap = has_cap};
            bool ok = tn_filter_in(f, bytes, len, &peer, &why) == TN_ACCEPT, want = strcmp(verdict, "accept") == 0;
            if (ok != want)
                fail_msg("set %u: %s: Go says %s, reason here %d\nrules %s", sets, hex, verdict, why, rules);
            packets++;
            accepted += want;
        }
        free(bytes);
    }
    fclose(in);
    tn_filter_free(f);
    assert_true(sets >= SETS_MIN && packets >= PACKETS_MIN && accepted > packets / 10);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_go)};
    if (argc < 2) return 1;
    path = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
