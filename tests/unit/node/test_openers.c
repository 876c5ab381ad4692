/* Who reads the sockets, and which runs arrive opened. The sockets, the threads and WireGuard are the test's. */
#include "../../../src/node/openers.c"
#include "util/cursor.h"
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { S = 1000 * 1000, SEGMENT = 1312, RUN = 20 * SEGMENT };

static struct fake {
    struct tn_node n;
    size_t longest;
    int begun, begin_err, slot, sessions_asked, opened, singly;
    bool ahead, leftover, polls, no_session;
    struct tn_udp_ahead_config config;
    uint64_t serial, opened_serial;
} f;

size_t tn_udp_longest(struct tn_udp *u)
{
    size_t l = f.longest;
    f.longest = 0;
    return l;
}
int tn_udp_ahead(struct tn_udp *u, const struct tn_udp_ahead_config *config)
{
    f.begun++;
    f.config = *config;
    f.ahead = !f.begin_err;
    return f.begin_err;
}
void tn_udp_ahead_stop(struct tn_udp *u) { f.ahead = false; }
bool tn_udp_is_ahead(const struct tn_udp *u) { return f.ahead || f.leftover; }
int tn_udp_ahead_slot(const struct tn_udp *u) { return f.slot; }
size_t tn_workpool_workers(const struct tn_workpool *p) { return 3; }
void tn_node_poll_udp(struct tn_node *n, bool on) { f.polls = on; }
void tn_node_wake(struct tn_node *n) {}
void *tn_workers_make(void *ctx) { return NULL; }
void tn_workers_rest(void *engine) {}
void tn_workers_unmake(void *engine) {}
size_t tn_wg_session_part(const uint8_t *run, size_t len, size_t segment) { return run[4] == 99 ? segment : len; }
uint32_t tn_wg_session_of(const uint8_t *run) { return tn_get_le32(run + 4); }
bool tn_wg_plan_open(struct tn_wg *wg, const uint8_t *run, size_t len, size_t segment, struct tn_wg_plan *plan, uint64_t now_us)
{
    f.sessions_asked++;
    *plan = (struct tn_wg_plan){.serial = ++f.serial, .key = {(uint8_t)f.serial}};
    return !f.no_session;
}
void tn_wg_open_planned(struct tn_aead_engine *e, const struct tn_wg_plan *plan, uint8_t *run, size_t len, size_t segment,
                        bool good[TN_WG_PLAN_MAX])
{
    assert_int_equal(plan->key[0], (uint8_t)plan->serial);
    good[0] = true;
}
void tn_wg_input_opened(struct tn_wg *wg, const struct tn_wg_plan *plan, uint8_t *run, size_t len, size_t segment,
                        const bool good[TN_WG_PLAN_MAX], uint64_t now_us)
{
    f.opened++;
    f.opened_serial = plan->serial;
    assert_true(good[0]);
}
void tn_wg_input_run(struct tn_wg *wg, uint8_t *run, size_t len, size_t segment, const struct tn_wg_from *from, uint64_t now_us)
{
    f.singly++;
}

static struct tn_openers *set_up(void)
{
    f = (struct fake){.polls = true, .slot = -1};
    f.n.udp = (struct tn_udp *)&f; /* never looked into */
    assert_int_equal(tn_openers_new(&f.n), 0);
    assert_null(f.n.openers); /* no workers */
    tn_openers_watch(&f.n, 1);
    assert_true(tn_openers_next_deadline(&f.n) == TN_NEVER);
    f.n.workers = (struct tn_workpool *)&f;
    assert_int_equal(tn_openers_new(&f.n), 0);
    return f.n.openers;
}

static void look(size_t longest, uint64_t now_us)
{
    f.longest = longest;
    tn_openers_watch(&f.n, now_us);
}

static void test_who_reads(void **state)
{
    set_up();
    uint64_t now = S;
    look(RUN, now); /* the loop has time */
    f.n.hand_over = true;
    look(LONG - 1, now);
    assert_true(f.begun == 0 && f.polls);
    assert_true(tn_openers_next_deadline(&f.n) == TN_NEVER);
    look(LONG, now);
    assert_true(f.begun == 1 && f.ahead && !f.polls);
    assert_int_equal(f.config.threads, 3);
    assert_true(tn_openers_next_deadline(&f.n) == now + QUIET_US);
    look(RUN, now + QUIET_US - 1);
    look(0, now + QUIET_US);
    assert_true(f.begun == 1 && f.ahead); /* there was something in between */
    now += 2 * QUIET_US;
    f.leftover = true;
    look(0, now);
    assert_true(!f.ahead && !f.polls); /* what they have read is not taken in yet */
    look(RUN, now);
    assert_true(f.begun == 1 && !f.polls);
    f.leftover = false;
    look(0, now);
    assert_true(f.polls);
    look(RUN, now);
    assert_true(f.begun == 2 && !f.polls);
    f.n.hand_over = false; /* the loop has time again */
    look(RUN, now + QUIET_US);
    assert_true(!f.ahead && f.polls);
    f.n.hand_over = true;
    f.begin_err = TN_E_NOMEM;
    look(RUN, now += S);
    look(RUN, now + 1);
    assert_true(f.begun == 3 && f.polls);
    f.begin_err = 0;
    look(RUN, now + AGAIN_US);
    assert_true(f.begun == 4 && !f.polls);
    tn_openers_free(&f.n);
    assert_null(f.n.openers);
}

static uint8_t run[RUN];

/* A run of a session as a thread and then the loop see it. */
static void comes(uint32_t session, unsigned slot, size_t len)
{
    memcpy(run + 4, &(uint8_t[4]){session & 255, session >> 8 & 255, 0, 0}, 4);
    open_run(&f.n, NULL, slot, run, len, SEGMENT);
    f.slot = (int)slot;
    tn_openers_input(&f.n, run, len, SEGMENT, NULL, 1);
    f.slot = -1;
}

static void test_opened(void **state)
{
    set_up();
    f.n.hand_over = true;
    look(RUN, S);
    comes(7, 2, RUN);
    assert_true(f.singly == 1 && f.opened == 0 && f.sessions_asked == 1); /* unknown, and known from now on */
    comes(7, 3, RUN);
    assert_true(f.singly == 1 && f.opened == 1 && f.opened_serial == 1);
    comes(7, 3, 7 * SEGMENT);
    assert_true(f.singly == 2 && f.sessions_asked == 1); /* short */
    comes(99, 4, RUN);
    comes(99, 4, RUN);
    assert_true(f.singly == 4 && f.opened == 1); /* not of one session */
    f.no_session = true;
    comes(8, 5, RUN);
    comes(8, 5, RUN);
    assert_true(f.singly == 6 && f.opened == 1);
    f.no_session = false;
    tn_openers_input(&f.n, run, RUN, SEGMENT, NULL, 1); /* read by the loop */
    assert_int_equal(f.singly, 7);
    open_run(&f.n, NULL, 6, run, RUN, SEGMENT);
    comes(7, 1, RUN);
    assert_int_equal(f.opened, 2);
    f.slot = 1;
    uint8_t other[RUN] = {4, 0, 0, 0, 7}; /* something else that comes up while the run is taken in */
    tn_openers_input(&f.n, other, RUN, SEGMENT, NULL, 1);
    assert_true(f.opened == 2 && f.singly == 8);
    comes(7, 1, RUN);
    assert_int_equal(f.opened, 3);
    f.slot = 1;
    tn_openers_input(&f.n, run, RUN, SEGMENT, NULL, 1); /* the same bytes once more, opened by nobody */
    assert_true(f.opened == 3 && f.singly == 9);
    tn_openers_free(&f.n);
}

static bool is_known(uint32_t session)
{
    struct tn_wg_plan plan;
    return find(f.n.openers, session, &plan);
}

/* Keys are forgotten: the oldest for new ones, all of them after a while, and when the threads rest. */
static void test_forgets(void **state)
{
    struct tn_openers *o = set_up();
    struct tn_wg_plan none[KEYS] = {0};
    f.n.hand_over = true;
    look(RUN, S);
    assert_false(is_known(0));
    for (uint32_t i = 100; i < 100 + KEYS; i++) comes(i, 0, RUN);
    for (uint32_t i = 100; i < 100 + KEYS; i++) assert_true(is_known(i));
    comes(300, 0, RUN);
    assert_true(is_known(300) && is_known(101) && !is_known(100));
    for (uint64_t now = S; now < S + FORGET_US; now += QUIET_US / 2) look(RUN, now);
    assert_true(is_known(300));
    look(RUN, S + FORGET_US);
    assert_memory_equal(o->plan, none, sizeof none);
    comes(300, 0, RUN);
    assert_true(is_known(300));
    look(0, S + FORGET_US + QUIET_US);
    assert_false(f.ahead);
    assert_memory_equal(o->plan, none, sizeof none);
    comes(300, 0, RUN); /* a leftover that nobody opened */
    assert_memory_equal(o->plan, none, sizeof none);
    tn_openers_free(&f.n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_reads),
        cmocka_unit_test(test_opened),
        cmocka_unit_test(test_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
