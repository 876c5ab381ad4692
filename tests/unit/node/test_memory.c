/* What the machine and the control groups say, from directories made up as they are. */
#include "node/memory.c"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB (1024ull * 1024)

static char root[32];

static void put(const char *path, const char *text)
{
    char full[500];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = '\0';
        assert_true(mkdir(full, 0700) == 0 || errno == EEXIST);
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_root(void **state)
{
    strcpy(root, "/tmp/test_memory.XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int unlink_one(const char *path, const struct stat *st, int what, struct FTW *w) { return remove(path); }
static int remove_root(void **state) { return nftw(root, unlink_one, 8, FTW_DEPTH | FTW_PHYS); }

static const char machine[] = "MemFree:  1 kB\nMemTotal:        4194304 kB\nMemAvailable: 1 kB\n";

static void nothing_is_known(void **state)
{
    assert_int_equal(tn_memory_limit(root), 0);
    put("proc/meminfo", "MemTotal: lots\nMemTotal: 99999999999999999999999 kB\n");
    put("proc/self/cgroup", "\n:\n::\nx\n0:\n0::\n0::relative\n1:memory\n");
    assert_int_equal(tn_memory_limit(root), 0);
    assert_int_equal(tn_memory_tcp_budget(0), 256 * MIB);
}

static void the_machine_alone(void **state)
{
    put("proc/meminfo", machine);
    assert_int_equal(tn_memory_limit(root), 4096 * MIB);
    put("proc/self/cgroup", "0::/\n");
    put("sys/fs/cgroup/memory.max", "max\n");
    assert_int_equal(tn_memory_limit(root), 4096 * MIB);
}

static void version_2(void **state)
{
    put("proc/meminfo", machine);
    put("proc/self/cgroup", "0::/system.slice/tailnet.service\n");
    put("sys/fs/cgroup/system.slice/tailnet.service/memory.max", "max\n");
    put("sys/fs/cgroup/system.slice/memory.max", "1073741824\n"); /* of a group above */
    assert_int_equal(tn_memory_limit(root), 1024 * MIB);
    put("sys/fs/cgroup/system.slice/tailnet.service/memory.high", "536870912\n"); /* beyond it everything gets slow */
    assert_int_equal(tn_memory_limit(root), 512 * MIB);
    put("sys/fs/cgroup/system.slice/tailnet.service/memory.max", "134217728\n");
    assert_int_equal(tn_memory_limit(root), 128 * MIB);
}

/* A container whose path is not that of its mount. */
static void version_2_in_a_container(void **state)
{
    put("proc/meminfo", machine);
    put("proc/self/cgroup", "0::/docker/0123\n");
    put("sys/fs/cgroup/memory.max", "67108864\n");
    assert_int_equal(tn_memory_limit(root), 64 * MIB);
    put("sys/elsewhere/memory.max", "4096\n");
    put("proc/self/cgroup", "0::/../../elsewhere\n");
    assert_int_equal(tn_memory_limit(root), 64 * MIB);
}

static void version_1(void **state)
{
    put("proc/meminfo", machine);
    put("proc/self/cgroup", "9:name=systemd:/\n5:devices,memory:/box\n4:notmemory,memoryx:/other\n0::/\n");
    put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "268435456\n");
    put("sys/fs/cgroup/memory/other/memory.limit_in_bytes", "4096\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* how it says: none */
    assert_int_equal(tn_memory_limit(root), 256 * MIB);
}

static void a_share_of_it(void **state)
{
    assert_int_equal(tn_memory_tcp_budget(2048 * MIB), 256 * MIB);
    assert_int_equal(tn_memory_tcp_budget(1 * MIB), 8 * MIB);
    assert_int_equal(tn_memory_tcp_budget(UINT64_MAX), 1024 * MIB);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_known), TEST(the_machine_alone), TEST(version_2), TEST(version_2_in_a_container), TEST(version_1),
        TEST(a_share_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
