/* util's containers, text forms and files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "util/buf.c"
#include "util/heap.c"
#include "util/htable.c"
#include "util/ip.c"
#include "util/siphash.c"
#include "util/text.c"
#include "util/cursor.h"
#include "util/file.h"
#include "util/log.h"
#include "util/rng.h"
#include "util/secret.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void ip_forms(void **state)
{
    static const struct {
        const char *text;
        int family;
    } good[] = {{"1.2.3.4", 4}, {"255.255.255.255", 4}, {"::", 6}, {"::1", 6}, {"fd7a:115c:a1e0::1", 6}, {"::ffff:1.2.3.4", 6}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct tn_ip ip;
        char buf[TN_IP_STRLEN];
        assert_int_equal(tn_ip_parse(good[i].text, &ip), 0);
        assert_int_equal(ip.family, good[i].family);
        assert_string_equal(tn_ip_format(&ip, buf), good[i].text);
    }
    static const char *const bad[] = {"", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", "::1%eth0", "g::", "1.2.3.4.5", ":::"};
    struct tn_ip ip;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(tn_ip_parse(bad[i], &ip), TN_E_MALFORMED);
}

/* The trap that the explicit family exists for. */
static void mapped_is_not_v4(void **state)
{
    struct tn_ip a, b;
    tn_ip_parse("1.2.3.4", &a);
    tn_ip_parse("::ffff:1.2.3.4", &b);
    assert_false(tn_ip_eq(&a, &b));
    struct tn_prefix p;
    tn_prefix_parse("1.2.0.0/16", &p);
    assert_true(tn_prefix_contains(&p, &a));
    assert_false(tn_prefix_contains(&p, &b));
    tn_prefix_parse("::/0", &p);
    assert_false(tn_prefix_contains(&p, &a));
}

static void addrport_forms(void **state)
{
    static const char *const good[] = {"1.2.3.4:5", "[::1]:65535", "[fd00::1]:0"};
    for (size_t i = 0; i < 3; i++) {
        struct tn_addrport ap;
        char buf[TN_ADDRPORT_STRLEN];
        assert_int_equal(tn_addrport_parse(good[i], &ap), 0);
        assert_string_equal(tn_addrport_format(&ap, buf), good[i]);
    }
    static const char *const bad[] = {"1.2.3.4", "1.2.3.4:", "::1:5", "[1.2.3.4]:5", "1.2.3.4:65536", "1.2.3.4:05", ":5", "[]:5",
                                      "[::1:5", "1.2.3.4:-1", "1.2.3.4:5x"};
    struct tn_addrport ap;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(tn_addrport_parse(bad[i], &ap), TN_E_MALFORMED);
}

static void prefixes_mask_and_contain(void **state)
{
    struct tn_prefix p;
    char buf[TN_PREFIX_STRLEN];
    assert_int_equal(tn_prefix_parse("10.1.255.7/17", &p), 0);
    assert_string_equal(tn_prefix_format(&p, buf), "10.1.128.0/17");
    struct tn_ip in, out;
    tn_ip_parse("10.1.200.1", &in);
    tn_ip_parse("10.1.127.255", &out);
    assert_true(tn_prefix_contains(&p, &in));
    assert_false(tn_prefix_contains(&p, &out));
    assert_int_equal(tn_prefix_parse("10.0.0.0/33", &p), TN_E_MALFORMED);
    assert_int_equal(tn_prefix_parse("10.0.0.0/", &p), TN_E_MALFORMED);
    assert_int_equal(tn_prefix_parse("::/129", &p), TN_E_MALFORMED);
    assert_int_equal(tn_prefix_parse("::1", &p), 0);
    assert_int_equal(p.bits, 128);
}

static void cursor_fails_once_and_for_all(void **state)
{
    uint8_t bytes[5] = {1, 2, 3, 4, 5};
    struct tn_rd r = tn_rd_init(bytes, sizeof bytes);
    assert_int_equal(tn_rd_be16(&r), 0x0102);
    struct tn_rd sub = tn_rd_sub(&r, 2);
    assert_int_equal(tn_rd_be32(&sub), 0);
    assert_false(tn_rd_ok(&sub));
    assert_int_equal(tn_rd_u8(&sub), 0);
    assert_true(tn_rd_ok(&r));
    assert_int_equal(tn_rd_u8(&r), 5);
    assert_true(tn_rd_done(&r));
    assert_null(tn_rd_take(&r, 1));
    assert_false(tn_rd_done(&r));
    uint8_t out[3];
    struct tn_wr w = tn_wr_init(out, sizeof out);
    tn_wr_be16(&w, 0xabcd);
    tn_wr_be16(&w, 1);
    assert_false(tn_wr_ok(&w));
    assert_int_equal(tn_wr_len(&w), 2);
}

static void buf_holds_its_cap(void **state)
{
    struct tn_buf b;
    uint8_t big[3000] = {0};
    tn_buf_init(&b, 5000);
    assert_int_equal(tn_buf_append(&b, big, 3000), 0);
    assert_int_equal(tn_buf_append(&b, big, 3000), TN_E_TOOBIG);
    assert_int_equal(tn_buf_len(&b), 3000);
    for (int i = 0; i < 1000; i++) { /* slides along without growing beyond the cap */
        memset(big, i, 2000);
        assert_int_equal(tn_buf_append(&b, big, 2000), 0);
        tn_buf_consume(&b, 2000);
        assert_true(b.cap <= 5000);
    }
    assert_int_equal(tn_buf_data(&b)[2999], (uint8_t)999);
    tn_buf_consume(&b, 3000);
    tn_buf_fini(&b);
}

struct item {
    struct tn_hnode node;
    uint64_t key;
    bool seen;
};
static bool item_eq(const struct tn_hnode *n, const void *key)
{
    return ((const struct item *)n)->key == *(const uint64_t *)key;
}
static void see(struct tn_hnode *n, void *arg)
{
    struct item *i = (struct item *)n;
    assert_false(i->seen);
    i->seen = true;
    if (i->key % 2) tn_htable_remove(arg, n);
}

static void htable_grows_and_shrinks(void **state)
{
    enum { N = 5000 };
    static struct item items[N];
    struct tn_htable t;
    struct tn_hashkey k = {{1, 2}};
    tn_htable_init(&t);
    for (uint64_t i = 0; i < N; i++) {
        items[i].key = i;
        assert_int_equal(tn_htable_insert(&t, &items[i].node, tn_siphash(&k, &i, sizeof i)), 0);
    }
    tn_htable_each(&t, see, &t); /* removes the odd ones while it walks */
    assert_int_equal(t.count, N / 2);
    for (uint64_t i = 0; i < N; i++) {
        struct tn_hnode *found = tn_htable_find(&t, tn_siphash(&k, &i, sizeof i), item_eq, &i);
        assert_true(i % 2 ? found == NULL : found == &items[i].node);
        assert_true(items[i].seen);
    }
    for (uint64_t i = 0; i < N; i += 2) tn_htable_remove(&t, &items[i].node);
    assert_int_equal(t.count, 0);
    assert_true(t.mask < 64);
    tn_htable_fini(&t);
}

static void heap_orders_against_naive(void **state)
{
    enum { N = 500 };
    static struct tn_timer timers[N];
    uint64_t seed = 7;
    struct tn_rng rng = tn_rng_seeded(&seed);
    struct tn_heap h;
    tn_heap_init(&h);
    memset(timers, 0, sizeof timers);
    for (int step = 0; step < 20000; step++) {
        struct tn_timer *t = &timers[tn_rng_below(&rng, N)];
        switch (tn_rng_below(&rng, 4)) {
        case 0: assert_int_equal(tn_timer_arm(&h, t, tn_rng_below(&rng, 2) ? TN_NEVER : 500), 0); break;
        case 1: assert_int_equal(tn_timer_arm(&h, t, tn_rng_below(&rng, 1000)), 0); break;
        case 2: tn_timer_stop(&h, t); break;
        case 3: tn_heap_pop_due(&h, tn_rng_below(&rng, 200)); break;
        }
        uint64_t least = TN_NEVER;
        size_t armed = 0, live = 0;
        for (int i = 0; i < N; i++) {
            if (!tn_timer_armed(&timers[i])) continue;
            armed++;
            live += timers[i].at_us != TN_NEVER;
            assert_ptr_equal(h.slot[timers[i].index - 1].timer, &timers[i]);
            if (timers[i].at_us < least) least = timers[i].at_us;
        }
        assert_int_equal(armed, h.count);
        assert_int_equal(live, h.live);
        assert_int_equal(least, tn_heap_next(&h));
    }
    for (int i = 0; i < N; i++) tn_timer_stop(&h, &timers[i]);
    assert_true(h.cap <= 16);
    tn_heap_fini(&h);
}

static void siphash_vector(void **state)
{
    struct tn_hashkey key = {{0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL}}; /* the paper's appendix A */
    uint8_t msg[15];
    for (int i = 0; i < 15; i++) msg[i] = (uint8_t)i;
    assert_true(tn_siphash(&key, msg, 15) == 0xa129ca6149be45e5ULL);
}

static void base64_round_trip(void **state)
{
    static const char *const std[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"}; /* RFC 4648 section 10 */
    for (size_t n = 0; n < 7; n++) {
        char text[16];
        uint8_t out[16];
        tn_base64_encode(TN_BASE64_STD, "foobar", n, text);
        assert_string_equal(text, std[n]);
        assert_int_equal(tn_base64_decode(TN_BASE64_STD, text, strlen(text), out, sizeof out), n);
        assert_memory_equal(out, "foobar", n);
    }
    uint8_t out[8];
    assert_int_equal(tn_base64_decode(TN_BASE64_STD, "Zg=", 3, out, 8), TN_E_MALFORMED);
    assert_int_equal(tn_base64_decode(TN_BASE64_STD, "Zh==", 4, out, 8), TN_E_MALFORMED); /* not canonical */
    assert_int_equal(tn_base64_decode(TN_BASE64_STD, "Z*==", 4, out, 8), TN_E_MALFORMED);
    assert_int_equal(tn_base64_decode(TN_BASE64_URL_RAW, "_-8", 3, out, 8), 2);
    assert_int_equal(tn_base64_decode(TN_BASE64_STD, "Zm9vYmFy", 8, out, 5), TN_E_NOSPC);
}

static char last_line[1100];
static void keep_line(void *ctx, enum tn_log_level level, const char *module, const char *line) { strcpy(last_line, line); }

static void log_lines_cant_be_forged(void **state)
{
    struct tn_log log = {.write = keep_line, .max = TN_LOG_INFO};
    tn_logf(&log, TN_LOG_INFO, "m", "peer said %s", "x\r\nerror: \x1b[31m\x7f");
    assert_string_equal(last_line, "peer said x??error: ?[31m?");
    tn_logf(&log, TN_LOG_DEBUG, "m", "quiet");
    assert_string_not_equal(last_line, "quiet");
}

static void files_are_replaced_whole(void **state)
{
    char dir[] = "/tmp/tn-util-XXXXXX", path[64], *text;
    size_t len;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/f", dir);
    assert_int_equal(tn_file_read(path, 10, &text, &len), TN_E_NOENT);
    assert_int_equal(tn_file_replace(path, "hello", 5), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(tn_file_read(path, 5, &text, &len), 0);
    assert_string_equal(text, "hello");
    free(text);
    assert_int_equal(tn_file_read(path, 4, &text, &len), TN_E_TOOBIG);
    int lock = tn_dir_lock(dir, "lock");
    assert_true(lock >= 0);
    assert_int_equal(tn_dir_lock(dir, "lock"), TN_E_BUSY);
    close(lock);
    lock = tn_dir_lock(dir, "lock");
    assert_true(lock >= 0);
    close(lock);
    char lockpath[64];
    snprintf(lockpath, sizeof lockpath, "%s/lock", dir);
    unlink(lockpath);
    unlink(path);
    assert_int_equal(rmdir(dir), 0); /* no temporary was left behind */
}

static void secrets_compare_and_limit(void **state)
{
    struct tn_secret *a = tn_secret_new("key", 3), *b = tn_secret_new("key", 3), *c = tn_secret_new("kez", 3);
    assert_true(tn_secret_eq(a, b));
    assert_false(tn_secret_eq(a, c));
    assert_string_equal(tn_secret_bytes(a), "key");
    assert_null(tn_secret_new("", TN_SECRET_MAX + 1));
    tn_secret_free(a);
    tn_secret_free(b);
    tn_secret_free(c);
    tn_secret_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ip_forms),
        cmocka_unit_test(mapped_is_not_v4),
        cmocka_unit_test(addrport_forms),
        cmocka_unit_test(prefixes_mask_and_contain),
        cmocka_unit_test(cursor_fails_once_and_for_all),
        cmocka_unit_test(buf_holds_its_cap),
        cmocka_unit_test(htable_grows_and_shrinks),
        cmocka_unit_test(heap_orders_against_naive),
        cmocka_unit_test(siphash_vector),
        cmocka_unit_test(base64_round_trip),
        cmocka_unit_test(log_lines_cant_be_forged),
        cmocka_unit_test(files_are_replaced_whole),
        cmocka_unit_test(secrets_compare_and_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
