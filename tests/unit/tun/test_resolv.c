/* The resolver file, taken over and given back, whatever it was and however we ended. */
#include "tun/resolv.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static const struct tn_ip service = {4, {100, 100, 100, 100}};
static char dir[64], path[128], backup[160];

static int setup(void **state)
{
    strcpy(dir, "/tmp/tn-resolv-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/resolv.conf", dir);
    snprintf(backup, sizeof backup, "%s.before-tailnet", path);
    return 0;
}

static int teardown(void **state)
{
    char other[160];
    snprintf(other, sizeof other, "%s/stub", dir);
    (void)unlink(path);
    (void)unlink(backup);
    (void)unlink(other);
    assert_int_equal(rmdir(dir), 0); /* nothing else is left */
    return 0;
}

static void put(const char *where, const char *text)
{
    FILE *f = fopen(where, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void assert_text(const char *where, const char *text)
{
    char *got;
    size_t len;
    assert_int_equal(tn_file_read(where, 1000, &got, &len), 0);
    assert_string_equal(got, text);
    free(got);
}

static void set(void) { assert_int_equal(tn_resolv_set(path, &service, 1, "tailnet.test"), 0); }
static void restore(void) { assert_int_equal(tn_resolv_restore(path), 0); }

static void set_and_restored(void **state)
{
    struct stat before, after;
    put(path, "nameserver 192.0.2.1\n");
    chmod(path, 0640);
    stat(path, &before);
    set();
    assert_true(is_ours(path));
    char *text;
    size_t len;
    assert_int_equal(tn_file_read(path, 1000, &text, &len), 0);
    assert_non_null(strstr(text, "\nnameserver 100.100.100.100\nsearch tailnet.test\n"));
    free(text);
    stat(path, &after);
    assert_int_equal(after.st_mode & 0777, 0644);
    set(); /* again, as when the domain changes: the user's stays aside */
    assert_text(backup, "nameserver 192.0.2.1\n");
    restore();
    stat(path, &after);
    assert_true(after.st_ino == before.st_ino && after.st_mode == before.st_mode); /* the very file */
    assert_text(path, "nameserver 192.0.2.1\n");
    assert_false(exists(backup));
    restore(); /* once more changes nothing */
    assert_text(path, "nameserver 192.0.2.1\n");
}

static void a_link_stays_a_link(void **state)
{
    char stub[160], target[160] = "";
    snprintf(stub, sizeof stub, "%s/stub", dir);
    put(stub, "nameserver 127.0.0.53\n");
    assert_int_equal(symlink("stub", path), 0);
    set();
    assert_text(stub, "nameserver 127.0.0.53\n"); /* what it led to is not written */
    struct tn_resolv_facts f;
    tn_resolv_read(path, &f);
    assert_int_equal(f.nservers, 1);
    restore();
    assert_int_equal(readlink(path, target, sizeof target - 1), 4);
    assert_string_equal(target, "stub");
}

static void none_was_there(void **state)
{
    set();
    assert_true(is_ours(path));
    restore();
    assert_false(exists(path));
}

/* Somebody wrote over ours: theirs counts, also at the next start and end. */
static void written_over(void **state)
{
    put(path, "nameserver 192.0.2.1\n");
    set();
    put(path, "nameserver 192.0.2.2\n");
    restore();
    assert_text(path, "nameserver 192.0.2.2\n");
    assert_false(exists(backup));
    set();
    put(path, "nameserver 192.0.2.3\n");
    set(); /* the newer one is put aside */
    assert_text(backup, "nameserver 192.0.2.3\n");
    restore();
    assert_text(path, "nameserver 192.0.2.3\n");
}

/* Killed after each step of set. */
static void crashes(void **state)
{
    put(path, "nameserver 192.0.2.1\n");
    assert_int_equal(put_aside(path, backup, false), 0);
    restore();
    assert_text(path, "nameserver 192.0.2.1\n");
    assert_false(exists(backup));
    set();
    restore(); /* by the next start */
    assert_text(path, "nameserver 192.0.2.1\n");
}

/* Where the file is a mount it is written in place, and the backup must be no other name of it. */
static void in_place(void **state)
{
    static const char text[] = TN_RESOLV_MARK "\nnameserver 100.100.100.100\n";
    put(path, "nameserver 192.0.2.1\n");
    assert_int_equal(put_aside(path, backup, false), 0);
    assert_int_equal(write_in_place(path, backup, text, strlen(text)), 0);
    assert_text(path, text);
    assert_text(backup, "nameserver 192.0.2.1\n");
    restore();
    assert_text(path, "nameserver 192.0.2.1\n");
}

static void reading(void **state)
{
    struct tn_resolv_facts f;
    put(path, "# nameserver 192.0.2.9\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver nonsense\nnameserver\n"
              "nameserver 100.100.100.100\ndomain a.test\nsearch b.test  c.test\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n");
    tn_resolv_read(path, &f);
    assert_int_equal(f.nservers, 3);
    assert_int_equal(f.servers[1].ip.family, 6);
    assert_int_equal(f.servers[2].ip.b[3], 2);
    assert_int_equal(f.servers[0].port, 53);
    assert_string_equal(f.search, "b.test c.test");
    set();
    tn_resolv_read(path, &f); /* not ours */
    assert_int_equal(f.nservers, 3);
    restore();
    unlink(path);
    tn_resolv_read(path, &f);
    assert_int_equal(f.nservers, 0);
}

static void behind_the_stub(void **state)
{
    char uplinks[160];
    struct tn_resolv_facts f;
    snprintf(uplinks, sizeof uplinks, "%s/stub", dir);
    put(uplinks, "nameserver 192.0.2.1\nnameserver 100.100.100.100\nnameserver 192.0.2.2\nsearch other.test\n");
    put(path, "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home.test\n");
    tn_resolv_read(path, &f);
    tn_resolv_behind_stub(&f, uplinks);
    assert_int_equal(f.nservers, 2); /* and never ourselves */
    assert_int_equal(f.servers[1].ip.b[3], 2);
    assert_string_equal(f.search, "home.test");
    put(uplinks, "# none\n");
    tn_resolv_read(path, &f);
    tn_resolv_behind_stub(&f, uplinks);
    assert_int_equal(f.nservers, 0);
    put(path, "nameserver 127.0.0.1\n"); /* another resolver of the host: it is asked */
    tn_resolv_read(path, &f);
    tn_resolv_behind_stub(&f, uplinks);
    assert_true(f.nservers == 1 && f.servers[0].ip.b[3] == 1);
    unlink(uplinks);
    put(path, "nameserver 127.0.0.53\n");
    tn_resolv_read(path, &f);
    tn_resolv_behind_stub(&f, uplinks);
    assert_true(f.nservers == 1 && f.servers[0].ip.b[3] == 53);
}

static void can_not(void **state)
{
    char longest[300];
    memset(longest, 'a', sizeof longest - 1);
    longest[299] = '\0';
    assert_int_equal(tn_resolv_set(longest, &service, 1, ""), TN_E_INVAL);
    assert_int_not_equal(tn_resolv_set("/nonexistent/resolv.conf", &service, 1, ""), 0);
    char search[3000];
    memset(search, 'b', sizeof search - 1);
    search[2999] = '\0';
    put(path, "x\n");
    assert_int_equal(tn_resolv_set(path, &service, 1, search), TN_E_TOOBIG);
    assert_text(path, "x\n");
    assert_false(exists(backup));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(set_and_restored), T(a_link_stays_a_link), T(none_was_there), T(written_over),
                                       T(crashes),          T(in_place),            T(reading),        T(behind_the_stub),
                                       T(can_not)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
