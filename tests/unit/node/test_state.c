/* The state directory: made, kept, locked; and never destroyed by what is wrong with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "node/state.c"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char dir[32], path[64];
static struct tn_rng rng;

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/tn-state-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/" STATE_FILE, dir);
    rng = tn_rng_system();
    return 0;
}

static int remove_dir(void **state)
{
    char lock[64];
    snprintf(lock, sizeof lock, "%s/" LOCK_FILE, dir);
    unlink(lock);
    unlink(path);
    return rmdir(dir); /* fails when a temporary was left behind */
}

static void kept_over_a_restart(void **state)
{
    struct tn_state a, b;
    char why[200];
    assert_int_equal(tn_state_open(&a, dir, &rng, why), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    tn_node_private_generate(&a.identity.node, &rng);
    assert_int_equal(tn_state_save(&a), 0);
    struct tn_control_identity id = a.identity;
    char log_id[65];
    strcpy(log_id, a.log_id);
    assert_int_equal(tn_state_open(&b, dir, &rng, why), TN_E_BUSY);
    assert_non_null(strstr(why, "another node"));
    tn_state_close(&a);
    assert_int_equal(tn_state_open(&b, dir, &rng, why), 0);
    assert_memory_equal(&b.identity, &id, sizeof id);
    assert_string_equal(b.log_id, log_id);
    tn_state_close(&b);
}

static void rotations_are_kept(void **state)
{
    struct tn_state s;
    char why[200];
    assert_int_equal(tn_state_open(&s, dir, &rng, why), 0);
    assert_int_equal(tn_state_set_epoch(&s, 7, 1), 0);
    assert_int_equal(tn_state_set_epoch(&s, 0, 3), 0);
    assert_int_equal(tn_state_set_epoch(&s, UINT64_C(1) << 62, UINT32_MAX), 0);
    assert_int_equal(tn_state_set_epoch(&s, 7, 2), 0);
    tn_state_close(&s);
    assert_int_equal(tn_state_open(&s, dir, &rng, why), 0);
    assert_int_equal(s.exit_epoch, 3);
    assert_int_equal(s.nexit_epochs, 2);
    assert_true(s.exit_epochs[0].peer == 7 && s.exit_epochs[0].epoch == 2);
    assert_true(s.exit_epochs[1].peer == UINT64_C(1) << 62 && s.exit_epochs[1].epoch == UINT32_MAX);
    char *saved = s.path;
    s.path = NULL; /* the rest is not written each time */
    for (uint64_t peer = 100; peer < 100 + TN_STATE_EPOCHS_MAX; peer++) assert_int_equal(tn_state_set_epoch(&s, peer, 1), 0);
    s.path = saved;
    assert_int_equal(s.nexit_epochs, TN_STATE_EPOCHS_MAX);
    assert_int_equal(s.exit_epochs[0].peer, 100); /* those noted first have made room */
    assert_int_equal(tn_state_save(&s), 0);
    tn_state_close(&s);
    assert_int_equal(tn_state_open(&s, dir, &rng, why), 0);
    assert_int_equal(s.nexit_epochs, TN_STATE_EPOCHS_MAX);
    tn_state_close(&s);
    static const char *const bad[] = {"[]", "{\"all\": -1}", "{\"all\": 4294967296}", "{\"0\": 1}", "{\"-1\": 1}", "{\"1x\": 1}",
                                      "{\"\": 1}", "{\"1\": \"1\"}", "{\"99999999999999999999\": 1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *o = json_loads(bad[i], 0, NULL);
        struct tn_state t = {.lock_fd = -1};
        if (take_epochs(&t, o) != TN_E_STATE) fail_msg("%s was taken", bad[i]);
        json_decref(o);
        tn_state_close(&t);
    }
}

static void write_file(const char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    close(fd);
}

/* Every truncated prefix of a good file, and some other damage: an error, and the file byte for byte as it was. */
static void damage_is_left_alone(void **state)
{
    struct tn_state s;
    char why[200], *good, *after;
    size_t len, after_len;
    assert_int_equal(tn_state_open(&s, dir, &rng, why), 0);
    tn_state_close(&s);
    assert_int_equal(tn_file_read(path, STATE_MAX, &good, &len), 0);
    for (size_t n = 0; n + 1 < len; n++) {
        write_file(good, n);
        assert_int_equal(tn_state_open(&s, dir, &rng, why), TN_E_STATE);
        assert_non_null(strstr(why, "left as it is"));
        assert_int_equal(tn_file_read(path, STATE_MAX, &after, &after_len), 0);
        assert_int_equal(after_len, n);
        assert_memory_equal(after, good, n);
        free(after);
    }
    static const char *const bad[] = {"[]", "{}", "{\"version\":2}", "{\"version\":1,\"machine_key\":\"privkey:00\"}", "null"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(bad[i], strlen(bad[i]));
        assert_int_equal(tn_state_open(&s, dir, &rng, why), TN_E_STATE);
    }
    char *huge = calloc(1, STATE_MAX + 1);
    write_file(huge, STATE_MAX + 1);
    assert_int_equal(tn_state_open(&s, dir, &rng, why), TN_E_STATE);
    free(huge);
    free(good);
}

static void preferences_merge(void **state)
{
    struct tn_state s;
    struct tn_config c;
    char why[200];
    tn_config_init(&c);
    assert_int_equal(tn_state_open(&s, dir, &rng, why), 0);
    assert_int_equal(tn_config_set(&c, "hostname", "one", why), 0);
    assert_int_equal(tn_config_set(&c, "accept_routes", "true", why), 0);
    assert_int_equal(tn_config_set(&c, "advertise_exit_node", "true", why), 0);
    assert_int_equal(tn_state_merge_prefs(&s, &c), 0);
    tn_state_close(&s);
    tn_config_fini(&c);
    assert_int_equal(tn_state_open(&s, dir, &rng, why), 0);
    assert_int_equal(tn_config_set(&c, "hostname", "two", why), 0); /* said: wins */
    assert_int_equal(tn_state_merge_prefs(&s, &c), 0);
    assert_string_equal(c.hostname, "two");
    assert_true(c.accept_routes);        /* not said: remembered */
    assert_false(c.advertise_exit_node); /* being an exit node is said at every start */
    assert_int_equal(tn_config_egress(&c, NULL), TN_EGRESS_OFF); /* never remembered */
    tn_config_fini(&c);
    tn_state_close(&s);
}

/* Nothing can be written: what is unchanged goes on, what changed is an error, and the file is the one from before. */
static void full_disk(void **state)
{
    struct tn_state s;
    struct tn_config c;
    char why[200], *before, *after;
    size_t len, after_len;
    struct rlimit old, none;
    tn_config_init(&c);
    assert_int_equal(tn_state_open(&s, dir, &rng, why), 0);
    assert_int_equal(tn_config_set(&c, "hostname", "one", why), 0);
    assert_int_equal(tn_state_merge_prefs(&s, &c), 0);
    assert_int_equal(tn_file_read(path, STATE_MAX, &before, &len), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    assert_int_equal(tn_state_merge_prefs(&s, &c), 0);
    assert_int_equal(tn_config_set(&c, "hostname", "two", why), 0);
    int err = tn_state_merge_prefs(&s, &c);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0); /* cmocka may write to a file too */
    assert_int_equal(err, -EFBIG);
    assert_int_equal(tn_file_read(path, STATE_MAX, &after, &after_len), 0);
    assert_int_equal(after_len, len);
    assert_memory_equal(after, before, len);
    free(before);
    free(after);
    tn_state_close(&s);
    tn_config_fini(&c);
}

static void impossible_directories(void **state)
{
    struct tn_state s;
    char why[200];
    static const char *const dirs[] = {"/proc/none", "/proc/none/deeper", "/proc/version", "/proc/version/x", ""};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) { /* never a node that silently keeps nothing */
        assert_true(tn_state_open(&s, dirs[i], &rng, why) < 0);
        assert_true(why[0]);
    }
}

static void without_a_directory(void **state)
{
    struct tn_state a, b;
    char why[200];
    assert_int_equal(tn_state_open(&a, NULL, &rng, why), 0);
    assert_int_equal(tn_state_open(&b, NULL, &rng, why), 0);
    assert_memory_not_equal(&a.identity.machine, &b.identity.machine, 32);
    tn_state_close(&a);
    tn_state_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rotations_are_kept, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(kept_over_a_restart, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(damage_is_left_alone, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(preferences_merge, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(full_disk, make_dir, remove_dir),
        cmocka_unit_test(impossible_directories),
        cmocka_unit_test(without_a_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
