/* The home pick against the rules of net/netcheck addReportHistoryAndSetPreferredDERP. The rows that start with
 * "go:" are situations and outcomes of Go's own test of it (v1.102.5), told again as data. */
#include "../../../src/path/home.c"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define SEC UINT64_C(1000000)
#define MS 1000u

struct step {
    uint64_t after_us;               /* since the step before */
    struct tn_home_latency now[4];   /* region 0 ends */
    int want;
    bool heard_old;                  /* a frame from the home so far came just now */
    uint64_t heard_ago_us;           /* ... or this long ago, 0: never */
};
struct table {
    const char *name;
    const char *scores;              /* HomeParams.RegionScore */
    struct step steps[6];            /* want -1 ends */
};

static struct tn_derp_map *map_with(const char *scores, const char *region2)
{
    char text[1024];
    struct tn_derp_map *m = NULL;
#define NODES "\"Nodes\":[{\"HostName\":\"h\"}]"
    snprintf(text, sizeof text,
             "{\"HomeParams\":{\"RegionScore\":{%s}},\"Regions\":{\"1\":{" NODES "},\"2\":{" NODES "%s},\"3\":{" NODES "},"
             "\"4\":{\"NoMeasureNoHome\":true," NODES "},\"5\":{\"Avoid\":true," NODES "},\"6\":{\"Nodes\":[]}}}",
             scores ? scores : "", region2);
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    assert_int_equal(tn_derp_map_parse(json, NULL, &m), 0);
    json_decref(json);
    return m;
}

static const struct table tables[] = {
    {"go: first reading", NULL, {{0, {{1, 2000 * MS}, {2, 3000 * MS}}, 1}, {.want = -1}}},
    {"go: with two", NULL, {{0, {{1, 2000 * MS}, {2, 3000 * MS}}, 1}, {SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1},
                            {.want = -1}}},
    {"but the best recent is not in the current report: it is not picked", NULL,
     {{0, {{1, 2000 * MS}, {2, 3000 * MS}}, 1}, {2 * SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1},
      {3 * SEC, {{2, 3000 * MS}}, 2},
      {.want = -1}}},
    {"best current is worse than an older report of the same region", NULL,
     {{0, {{1, 2000 * MS}, {2, 3000 * MS}}, 1}, {50 * SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1},
      {60 * SEC, {{1, 4000 * MS}, {2, 1000 * MS}}, 2}, {.want = -1}}},
    {"old reports expire", NULL,
     {{0, {{1, 10 * MS}, {2, 40 * MS}}, 1}, {306 * SEC, {{1, 40 * MS}, {2, 20 * MS}}, 2}, {.want = -1}}},
    {"old reports within 305 s do not", NULL,
     {{0, {{1, 10 * MS}, {2, 40 * MS}}, 1}, {305 * SEC, {{1, 40 * MS}, {2, 20 * MS}}, 1}, {.want = -1}}},
    {"hysteresis: two thirds", NULL, {{0, {{1, 100 * MS}, {2, 400 * MS}}, 1},
                                      {400 * SEC, {{1, 100 * MS}, {2, 80 * MS}}, 1},
      {400 * SEC, {{1, 100 * MS}, {2, 60 * MS}}, 2}, {.want = -1}}},
    {"hysteresis: under 10 ms is no reason", NULL,
     {{0, {{1, 4 * MS}, {2, 5 * MS}}, 1}, {400 * SEC, {{1, 11 * MS}, {2, 2 * MS}}, 1},
      {400 * SEC, {{1, 14 * MS}, {2, 2 * MS}}, 2},
      {.want = -1}}},
    {"the home answers no probe and no frame: left", NULL, {{0, {{1, 4 * MS}, {2, 5 * MS}}, 1},
                                                            {SEC, {{2, 50 * MS}}, 2}, {.want = -1}}},
    {"a frame since the check began keeps it", NULL,
     {{0, {{1, 4 * MS}, {2, 5 * MS}}, 1}, {SEC, {{2, 50 * MS}}, 1, true}, {.want = -1}}},
    {"a frame within 8 s keeps it", NULL,
     {{0, {{1, 4 * MS}, {2, 5 * MS}}, 1}, {60 * SEC, {{2, 50 * MS}}, 1, false, 7 * SEC},
      {60 * SEC, {{2, 50 * MS}}, 2, false, 9 * SEC},
      {.want = -1}}},
    {"nothing answers: kept while keepalives came", NULL,
     {{0, {{1, 4 * MS}}, 1}, {300 * SEC, {{0}}, 1, false, 119 * SEC}, {300 * SEC, {{0}}, 0, false, 121 * SEC},
      {.want = -1}}},
    {"go: the home is back", NULL,
     {{0, {{1, 2000 * MS}, {2, 3000 * MS}}, 1}, {SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1},
      {2 * SEC, {{2, 3000 * MS}}, 2},
      {3 * SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1}, {.want = -1}}},
    {"go: things clean up", NULL,
     {{0, {{1, 1000 * MS}, {2, 2000 * MS}}, 1}, {600 * SEC, {{3, 3000 * MS}}, 3}, {.want = -1}}},
    {"go: no switch", NULL,
     {{0, {{1, 4000 * MS}, {2, 5000 * MS}}, 1}, {SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1}, {.want = -1}}},
    {"go: no switch, absolute", NULL,
     {{0, {{1, 4 * MS}, {2, 5 * MS}}, 1}, {SEC, {{1, 4 * MS}, {2, 1 * MS}}, 1}, {.want = -1}}},
    {"go: switch", NULL,
     {{0, {{1, 4000 * MS}, {2, 5000 * MS}}, 1}, {SEC, {{1, 4000 * MS}, {2, 1000 * MS}}, 2}, {.want = -1}}},
    {"go: no switch, percent", NULL,
     {{0, {{1, 34 * MS}, {2, 35 * MS}}, 1}, {SEC, {{1, 34 * MS}, {2, 23 * MS}}, 1}, {.want = -1}}},
    {"go: home params", "\"1\":0.66666", {{SEC, {{1, 10000 * MS}, {2, 8000 * MS}}, 1}, {.want = -1}}},
    {"go: home params, high latency", "\"1\":0.66666", {{SEC, {{1, 100000 * MS}, {2, 10000 * MS}}, 2}, {.want = -1}}},
    {"go: home params, invalid", "\"1\":0,\"2\":-1.0", {{SEC, {{1, 4000 * MS}, {2, 5000 * MS}}, 1}, {.want = -1}}},
    {"go: saw traffic", NULL,
     {{0, {{1, 2000 * MS}, {2, 3000 * MS}}, 1}, {2 * SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1},
      {2 * SEC, {{2, 3000 * MS}}, 1, true}, {.want = -1}}},
    {"go: saw traffic too long ago", NULL,
     {{0, {{1, 2000 * MS}, {2, 3000 * MS}}, 1}, {2 * SEC, {{1, 4000 * MS}, {2, 3000 * MS}}, 1},
      {2 * SEC, {{2, 3000 * MS}}, 2, false, 8 * SEC + 1}, {.want = -1}}},
    {"nothing at all", NULL, {{0, {{0}}, 0}, {.want = -1}}},
    {"scores: below one draws", "\"2\":0.5", {{0, {{1, 100 * MS}, {2, 150 * MS}}, 2}, {.want = -1}}},
    {"scores: above one repels, the old home's too", "\"1\":4",
     {{0, {{1, 100 * MS}, {2, 300 * MS}}, 2}, {.want = -1}}},
    {"NoMeasureNoHome, unknown and empty regions are no candidates", NULL,
     {{0, {{4, 1 * MS}, {9, 1 * MS}, {6, 1 * MS}, {3, 90 * MS}}, 3}, {.want = -1}}},
    {"Avoid only when nothing else answers, and it is left again", NULL,
     {{0, {{5, 1 * MS}}, 5}, {SEC, {{5, 1 * MS}, {3, 90 * MS}}, 3}, {.want = -1}}},
    {"equal latencies: the lower id, whatever the order", NULL, {{0, {{1, 5 * MS}, {2, 5 * MS}}, 1}, {.want = -1}}},
};

static void run(const struct table *t)
{
    struct tn_home h = {0};
    struct tn_derp_map *m = map_with(t->scores, "");
    uint64_t now_us = 1000 * SEC;
    int old = 0;
    for (const struct step *s = t->steps; s->want >= 0; s++) {
        now_us += s->after_us;
        struct tn_home_question q = {.map = m, .now = s->now, .old = old, .start_us = now_us - SEC};
        while (q.nnow < 4 && s->now[q.nnow].region) q.nnow++;
        if (s->heard_old) q.old_heard_us = now_us;
        if (s->heard_ago_us) q.old_heard_us = now_us - s->heard_ago_us;
        int got = tn_home_pick(&h, &q, now_us);
        if (got != s->want) fail_msg("%s: step %d: got %d, want %d", t->name, (int)(s - t->steps), got, s->want);
        old = got;
    }
    tn_home_fini(&h);
    tn_derp_map_free(m);
}

static void test_table(void **state)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) run(&tables[i]);
}

static bool not_two(void *ctx, int region) { return region != 2; }

static void test_unusable_regions(void **state)
{
    struct tn_home h = {0};
    struct tn_derp_map *m = map_with(NULL, "");
    struct tn_home_latency now[] = {{1, 90 * MS}, {2, 5 * MS}};
    struct tn_home_question q = {.map = m, .now = now, .nnow = 2, .old = 2, .old_heard_us = SEC, .usable = not_two};
    assert_int_equal(tn_home_pick(&h, &q, 2 * SEC), 1);
    q.nnow = 0;
    assert_int_equal(tn_home_pick(&h, &q, 2 * SEC), 0);
    tn_home_fini(&h);
    tn_derp_map_free(m);
}

static void test_history_is_bounded(void **state)
{
    struct tn_home h = {0};
    struct tn_derp_map *m = map_with(NULL, "");
    struct tn_home_latency now[] = {{1, 90 * MS}, {2, 95 * MS}};
    struct tn_home_question q = {.map = m, .now = now, .nnow = 2};
    for (int i = 0; i < 5000; i++) tn_home_pick(&h, &q, 1000 * SEC + i);
    assert_int_equal(h.count, SAMPLES_MAX);
    assert_int_equal(tn_home_best(&h, 1), 90 * MS);
    tn_home_pick(&h, &q, 2000 * SEC);
    assert_int_equal(h.count, 2);
    tn_home_fini(&h);
    tn_derp_map_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_unusable_regions),
        cmocka_unit_test(test_history_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
