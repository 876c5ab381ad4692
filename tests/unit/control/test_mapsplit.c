/* What is cut out of a map response and what passes, however the text is cut into pieces. */
#include "control/mapsplit.c"

#include "util/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static const char *text;
static size_t piece, at;
static char got[4096]; /* "P{..} C{..} " */
static int node_err;

static size_t read_text(void *arg, void *out, size_t cap)
{
    size_t left = strlen(text) - at, n = left < piece ? left : piece;
    if (n > cap) n = cap;
    memcpy(out, text + at, n);
    at += n;
    return n;
}

static int on_node(void *ctx, enum tn_mapsplit_list list, const char *bytes, size_t len)
{
    size_t used = strlen(got);
    snprintf(got + used, sizeof got - used, "%c%.*s ", "PC"[list], (int)len, bytes);
    return node_err;
}

/* 0 and what passed. */
static int split(const char *json, size_t in_pieces, size_t out_pieces, char *rest)
{
    struct tn_mapsplit s;
    size_t n = 0, more;
    text = json;
    piece = in_pieces;
    at = 0;
    got[0] = '\0';
    tn_mapsplit_init(&s, read_text, NULL);
    s.node = on_node;
    while ((more = tn_mapsplit_read(&s, rest + n, out_pieces)) != 0 && more != (size_t)-1) n += more;
    rest[n] = '\0';
    int err = s.err;
    assert_true((more == (size_t)-1) == (err != 0));
    tn_mapsplit_fini(&s);
    return err;
}

static void test_what_is_cut(void **state)
{
    static const struct {
        const char *json, *rest, *nodes;
    } rows[] = {
        {"{}", "{}", ""},
        {"", "", ""},
        {"[1,2]", "[1,2]", ""},
        {"{\"Peers\":[]}", "{\"Peers\":[]}", ""},
        {"{\"Peers\":[{}]}", "{\"Peers\":[]}", "P{} "},
        {"{\"Node\":{\"ID\":1},\"Peers\":[{\"ID\":2},{\"ID\":3}],\"Domain\":\"d\"}", "{\"Node\":{\"ID\":1},\"Peers\":[],\"Domain\":\"d\"}",
         "P{\"ID\":2} P{\"ID\":3} "},
        {"{\"PeersChanged\":[{\"a\":[1,{\"b\":2}]}],\"PeersRemoved\":[4]}", "{\"PeersChanged\":[],\"PeersRemoved\":[4]}",
         "C{\"a\":[1,{\"b\":2}]} "},
        {" { \"Peers\" : [ {} , {} ] } ", " { \"Peers\" : [] } ", "P{} P{} "},
        /* Brackets, quotes and backslashes in strings of elements. */
        {"{\"Peers\":[{\"a\":\"}]\\\"{\\\\\"},{\"b\":\"\\\\\\\"\"}]}", "{\"Peers\":[]}", "P{\"a\":\"}]\\\"{\\\\\"} P{\"b\":\"\\\\\\\"\"} "},
        /* Not the outermost object's, not a key, not an array, not this name. */
        {"{\"x\":{\"Peers\":[{}]}}", "{\"x\":{\"Peers\":[{}]}}", ""},
        {"{\"x\":[{\"Peers\":[{}]}]}", "{\"x\":[{\"Peers\":[{}]}]}", ""},
        {"{\"x\":\"Peers\",\"y\":[{}]}", "{\"x\":\"Peers\",\"y\":[{}]}", ""},
        {"{\"Peers\":null,\"y\":[{}]}", "{\"Peers\":null,\"y\":[{}]}", ""},
        {"{\"Peers\":{\"a\":[{}]}}", "{\"Peers\":{\"a\":[{}]}}", ""},
        {"{\"Peer\":[{}],\"PeersX\":[{}],\"PeersChangedPatch\":[{}]}", "{\"Peer\":[{}],\"PeersX\":[{}],\"PeersChangedPatch\":[{}]}", ""},
        {"{\"Pee\\u0072s\":[{}]}", "{\"Pee\\u0072s\":[{}]}", ""}, /* the merge finds it in the tree */
        {"{\"Peers\\\\\":[{}]}", "{\"Peers\\\\\":[{}]}", ""},
        {"{\"a\":\"\\\"Peers\\\":[{}]\"}", "{\"a\":\"\\\"Peers\\\":[{}]\"}", ""},
        {"[\"Peers\",[{}]]", "[\"Peers\",[{}]]", ""},
        {"{\"PeersChanged\":[{}],\"Peers\":[{}]}", "{\"PeersChanged\":[],\"Peers\":[]}", "C{} P{} "},
    };
    static char rest[4096];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (size_t in = 1; in < 40; in++) {
            for (size_t out = 1; out < 40; out += 6) {
                if (split(rows[i].json, in, out, rest) != 0) fail_msg("refused: %s", rows[i].json);
                assert_string_equal(rest, rows[i].rest);
                assert_string_equal(got, rows[i].nodes);
            }
        }
    }
}

static void test_what_is_malformed(void **state)
{
    static const char *const rows[] = {
        "{\"Peers\":[1]}", "{\"Peers\":[null]}", "{\"Peers\":[\"{}\"]}", "{\"Peers\":[[]]}", "{\"Peers\":[,{}]}",
        "{\"Peers\":[{},]}", "{\"Peers\":[{},,{}]}", "{\"Peers\":[{}{}]}", "{\"Peers\":[{}", "{\"Peers\":[", "{\"Peers\":[{\"a",
        "{\"Peers\":[{\"a\\", "{\"Peers\":[{},", "{\"Peers\":[}]}", "{\"Peers\":[{}],\"Peers\":[{}]}", "{\"Peers\":[],\"Peers\":[]}",
    };
    static char rest[4096];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t in = 1; in < 30; in++)
            if (split(rows[i], in, 64, rest) != TN_E_MALFORMED) fail_msg("taken: %s", rows[i]);
}

static void test_ends(void **state)
{
    static char rest[4096];
    node_err = -77;
    assert_int_equal(split("{\"Peers\":[{},{}]}", 5, 64, rest), -77);
    assert_string_equal(got, "P{} "); /* and no more */
    node_err = 0;
    /* One that is longer than any. */
    size_t len = TN_MAPSPLIT_NODE_MAX + 100;
    char *longest = malloc(len + 1);
    memset(longest, 'a', len);
    memcpy(longest, "{\"Peers\":[{\"x\":\"", 16);
    longest[len] = '\0';
    assert_int_equal(split(longest, 4096, 4096, rest), TN_E_TOOBIG);
    free(longest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_is_cut), cmocka_unit_test(test_what_is_malformed),
                                       cmocka_unit_test(test_ends)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
