#include "wire/dns.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* www.Example.com A IN, RD, ID 0x1234, with an OPT record behind. */
static const uint8_t query[] = {
    0x12, 0x34, 0x01, 0x00, 0,   1,   0, 0, 0, 0, 0, 1, 3, 'w', 'w', 'w', 7, 'E', 'x', 'a', 'm', 'p',
    'l',  'e',  3,    'c',  'o', 'm', 0, 0, 1, 0, 1, 0, 0, 41,  4,   208, 0, 0,   0,   0,   0,   0,
};
enum { QUESTION_END = 33 };

static int parse(const void *bytes, size_t len, struct tn_dnsmsg *m)
{
    static uint8_t *kept;
    free(kept);
    kept = malloc(len ? len : 1);
    assert_non_null(kept);
    if (len) memcpy(kept, bytes, len);
    int err = tn_dnsmsg_parse(kept, len, m);
    if (err) {
        free(kept);
        kept = NULL;
    }
    return err;
}

static void queries(void **state)
{
    (void)state;
    struct tn_dnsmsg m;
    char text[TN_DNSMSG_TEXT_MAX];
    assert_int_equal(tn_dnsmsg_parse(query, sizeof query, &m), 0);
    assert_int_equal(m.id, 0x1234);
    assert_int_equal(m.flags, TN_DNSMSG_RD);
    assert_int_equal(m.additional, 1);
    assert_int_equal(m.type, 1);
    assert_int_equal(m.class, 1);
    assert_int_equal(m.question_end, QUESTION_END);
    assert_int_equal(tn_dnsmsg_name_text(&m, text), 15);
    assert_string_equal(text, "www.example.com");
    for (size_t n = 0; n < sizeof query; n++)
        assert_int_equal(parse(query, n, &m), n < QUESTION_END ? TN_E_MALFORMED : 0);
    parse(NULL, 0, &m);
}

static void malformed_questions(void **state)
{
    (void)state;
    struct tn_dnsmsg m;
    uint8_t bad[sizeof query];
    static const struct { size_t at; uint8_t value; } edits[] = {
        {5, 0}, {5, 2}, {4, 1}, {12, 0xc0}, {12, 64}, {12, 60}, {28, 60}, {24, 255},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        memcpy(bad, query, sizeof bad);
        bad[edits[i].at] = edits[i].value;
        if (parse(bad, sizeof bad, &m) != TN_E_MALFORMED) fail_msg("edit %zu", i);
    }
    /* 255 bytes of name are the most: three labels of 63, then 61 or 62. */
    uint8_t name[12 + 300] = {[5] = 1};
    for (int i = 0; i < 3; i++) name[12 + 64 * i] = 63;
    name[12 + 192] = 61;
    assert_int_equal(parse(name, 12 + 255 + 4, &m), 0);
    assert_int_equal(m.name_len, 255);
    char text[TN_DNSMSG_TEXT_MAX];
    assert_int_equal(tn_dnsmsg_name_text(&m, text), (189 + 61) * 4 + 3);
    name[12 + 192] = 62;
    assert_int_equal(parse(name, sizeof name, &m), TN_E_MALFORMED);
    parse(NULL, 0, &m);
}

static void odd_names_as_text(void **state)
{
    (void)state;
    struct tn_dnsmsg m;
    char text[TN_DNSMSG_TEXT_MAX];
    static const uint8_t odd[] = {0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, 'a', '.', '\\', 200, 0, 0, 1, 0, 1};
    static const uint8_t root[] = {0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1};
    assert_int_equal(tn_dnsmsg_parse(odd, sizeof odd, &m), 0);
    tn_dnsmsg_name_text(&m, text);
    assert_string_equal(text, "a\\046\\092\\200");
    assert_int_equal(tn_dnsmsg_parse(root, sizeof root, &m), 0);
    assert_int_equal(tn_dnsmsg_name_text(&m, text), 0);
}

static void answers_are_compared(void **state)
{
    (void)state;
    struct tn_dnsmsg q, a;
    uint8_t bytes[sizeof query];
    memcpy(bytes, query, sizeof bytes);
    assert_int_equal(tn_dnsmsg_parse(query, sizeof query, &q), 0);
    static const struct { size_t at; uint8_t value; bool ok; } edits[] = {
        {2, 0x81, true}, {0, 9, true},     {17, 'e', true}, {2, 0x01, false}, {2, 0x81, true}, {2, 0xa1, false},
        {2, 0x81, true}, {13, 'v', false}, {13, 'W', true}, {30, 28, false},  {30, 1, true},   {32, 3, false},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        bytes[edits[i].at] = edits[i].value;
        assert_int_equal(tn_dnsmsg_parse(bytes, sizeof bytes, &a), 0);
        if (tn_dnsmsg_answers(&a, &q) != edits[i].ok) fail_msg("edit %zu", i);
    }
}

static void empty_answers(void **state)
{
    (void)state;
    struct tn_dnsmsg q, a;
    uint8_t out[64];
    assert_int_equal(tn_dnsmsg_parse(query, sizeof query, &q), 0);
    assert_int_equal(tn_dnsmsg_put_empty(&q, TN_DNSMSG_REFUSED, out, sizeof out), QUESTION_END);
    assert_int_equal(tn_dnsmsg_parse(out, QUESTION_END, &a), 0);
    assert_true(tn_dnsmsg_answers(&a, &q));
    assert_int_equal(a.id, 0x1234);
    assert_int_equal(a.flags, 0x8185);
    assert_int_equal(a.answers + a.authority + a.additional, 0);
    for (size_t n = 0; n < QUESTION_END; n++) assert_int_equal(tn_dnsmsg_put_empty(&q, 2, out, n), TN_E_NOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries),         cmocka_unit_test(malformed_questions), cmocka_unit_test(odd_names_as_text),
        cmocka_unit_test(answers_are_compared), cmocka_unit_test(empty_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
