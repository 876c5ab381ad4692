/* Which changes of the watched files are noticed: all of them, whenever they come, and each once. */
#include "node/exitwatch.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <unistd.h>

static struct fake {
    unsigned reloads;
    const char *path, *meanwhile; /* the file gets this text once, between the reading and the watching */
} fake;

static void put(const char *path, const char *text)
{
    char other[64];
    snprintf(other, sizeof other, "%s.new", path);
    FILE *f = fopen(other, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(rename(other, path), 0);
}

static void read_again(struct tn_node *n)
{
    struct tn_config fresh;
    char why[200];
    (void)tn_config_reread(&n->config, &fresh, why);
    tn_exitset_fini(&n->config.exit);
    n->config.exit = fresh.exit;
    tn_exitset_init(&fresh.exit);
    tn_config_fini(&fresh);
    if (fake.meanwhile) put(fake.path, fake.meanwhile);
    fake.meanwhile = NULL;
}

int tn_exit_reload(struct tn_node *n, bool cut, char why[200])
{
    fake.reloads++;
    read_again(n);
    tn_exitwatch_again(n);
    return 0;
}

static void over(uv_timer_t *t) { uv_stop(t->loop); }

static void run_for(struct tn_node *n, unsigned ms)
{
    uv_timer_t t;
    uv_timer_init(&n->loop, &t);
    uv_timer_start(&t, over, ms, 0);
    uv_run(&n->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(&n->loop, UV_RUN_NOWAIT);
}

static void begin(struct tn_node *n, const char *option, const char *value)
{
    char why[200];
    *n = (struct tn_node){0};
    fake = (struct fake){0};
    assert_int_equal(uv_loop_init(&n->loop), 0);
    tn_config_init(&n->config);
    assert_int_equal(tn_config_set(&n->config, option, value, why), 0);
}

static void end(struct tn_node *n)
{
    tn_exitwatch_free(n);
    uv_run(&n->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&n->loop), 0);
    tn_config_fini(&n->config);
}

static const char *proxy(const struct tn_node *n) { return n->config.exit.pool->proxies[0].proxy->host; }

/* By an option that names the file, and by a configuration file. */
static void noticed(const char *option, const char *prefix, const char *text)
{
    char path[] = "/tmp/tn-watch-XXXXXX", value[64], texts[5][64];
    struct tn_node n;
    close(mkstemp(path));
    snprintf(value, sizeof value, "%s%s", prefix, path);
    for (int i = 0; i < 5; i++) snprintf(texts[i], sizeof texts[i], text, i);
    put(path, texts[0]);
    begin(&n, option, value);
    put(path, texts[1]); /* after it was read, before anybody watches */
    assert_int_equal(tn_exitwatch_new(&n), 0);
    run_for(&n, 600);
    assert_int_equal(fake.reloads, 1);
    assert_string_equal(proxy(&n), "10.0.0.1");
    put(path, texts[2]);
    fake.path = path;
    fake.meanwhile = texts[3]; /* while it is read: not lost, though no further event may come */
    run_for(&n, 900);
    assert_int_equal(fake.reloads, 3);
    assert_string_equal(proxy(&n), "10.0.0.3");
    put(path, texts[3]); /* the same again is no change */
    run_for(&n, 600);
    assert_int_equal(fake.reloads, 3);
    unlink(path);
    run_for(&n, 600);
    assert_int_equal(fake.reloads, 4);
    assert_int_equal(tn_config_egress(&n.config, NULL), TN_EGRESS_OFF);
    put(path, texts[4]);
    run_for(&n, 600);
    assert_int_equal(fake.reloads, 5);
    assert_string_equal(proxy(&n), "10.0.0.4");
    end(&n);
    unlink(path);
}

static void by_option(void **state) { noticed("exit_proxy", "file:", "socks5://10.0.0.%d:1\n"); }
static void by_config_file(void **state) { noticed("config", "", "[proxy a]\nurl = socks5://10.0.0.%d:1\n"); }

/* Settings that name another file now: what it held when it was read is what counts. */
static void named_now(void **state)
{
    char path[] = "/tmp/tn-watch-XXXXXX", secret[] = "/tmp/tn-watch-XXXXXX", text[96];
    struct tn_node n;
    close(mkstemp(path));
    close(mkstemp(secret));
    put(secret, "socks5://10.0.0.1:1\n");
    snprintf(text, sizeof text, "[proxy a]\nurl = file:%s\n", secret);
    put(path, "[proxy a]\nurl = socks5://10.0.0.9:1\n");
    begin(&n, "config", path);
    assert_int_equal(tn_exitwatch_new(&n), 0);
    put(path, text);
    fake.path = secret;
    fake.meanwhile = "socks5://10.0.0.2:1\n";
    run_for(&n, 900);
    assert_int_equal(fake.reloads, 2);
    assert_string_equal(proxy(&n), "10.0.0.2");
    end(&n);
    unlink(path);
    unlink(secret);
}

/* A pipe gives its text once: it is not read to see whether it still has it. */
static void pipes(void **state)
{
    char value[64];
    struct tn_node n;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "socks5://10.0.0.1:1\n", 20), 20);
    close(fds[1]);
    snprintf(value, sizeof value, "file:/proc/self/fd/%d", fds[0]);
    begin(&n, "exit_proxy", value);
    assert_int_equal(tn_exitwatch_new(&n), 0);
    run_for(&n, 600);
    assert_int_equal(fake.reloads, 0);
    assert_string_equal(proxy(&n), "10.0.0.1");
    end(&n);
    close(fds[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_option),
        cmocka_unit_test(by_config_file),
        cmocka_unit_test(named_now),
        cmocka_unit_test(pipes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
