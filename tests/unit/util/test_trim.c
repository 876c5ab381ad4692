#include "util/trim.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>

static void headers(void **state)
{
    struct mapping m = {0};
    assert_true(parse_header("55d0-66d0 r-xp 00001000 08:01 1234                       /usr/lib/x.so\n", &m));
    assert_true(m.code && m.start == 0x55d0 && m.end == 0x66d0);
    assert_true(parse_header("55d0-66d0 r-xp 00000000 00:00 0                          [vdso]\n", &m));
    assert_false(m.code); /* of no file */
    assert_true(parse_header("55d0-66d0 rw-p 00001000 08:01 1234 /usr/lib/x.so\n", &m));
    assert_false(m.code);
    assert_true(parse_header("55d0-66d0 r--p 00001000 08:01 1234 /usr/lib/x.so\n", &m));
    assert_false(m.code); /* relocated constants would lose their relocation */
    assert_false(parse_header("Rss:                 100 kB\n", &m));
    assert_false(parse_header("VmFlags: rd ex mr mw me sd\n", &m));
}

static void changed_code_stays(void **state)
{
    struct mapping m = {.code = true, .start = 1, .end = 2}; /* madvise of this would fail, too */
    assert_int_equal(consider(&m, "Rss:        100 kB\n"), 0);
    assert_int_equal(m.resident_kb, 100);
    assert_int_equal(consider(&m, "Anonymous:    4 kB\n"), 0);
    assert_false(m.code);
}

static void only_the_code_that_is_meant(void **state)
{
    int local = 0;
    assert_int_equal(tn_trim_code(&local), 0);
    assert_int_equal(tn_trim_code(NULL), 0);
    size_t own = tn_trim_code((const void *)(uintptr_t)only_the_code_that_is_meant);
    assert_true(own > 0);
    assert_true(tn_trim_memory() > own);
}

static void private_pages_are_seen(void **state)
{
    size_t n = 0;
    const uint64_t clean[] = {PAGE_PRESENT | PAGE_OF_FILE, PAGE_OF_FILE, 0, PAGE_PRESENT | PAGE_OF_FILE | 42};
    assert_true(count_pages(clean, 4, &n));
    assert_int_equal(n, 2);
    assert_false(count_pages(&(uint64_t){PAGE_PRESENT}, 1, &n));
    assert_false(count_pages(&(uint64_t){PAGE_SWAPPED}, 1, &n));
    /* Changed, as a debugger would. */
    struct mapping m;
    uintptr_t at = (uintptr_t)private_pages_are_seen;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *start = (void *)(at & ~(page - 1));
    assert_true(find_code(at, &m) && clean_pages(&m, page) > 0);
    if (mprotect(start, page, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) skip(); /* not allowed here */
    *(volatile uint8_t *)at = *(volatile uint8_t *)at;
    assert_int_equal(mprotect(start, page, PROT_READ | PROT_EXEC), 0);
    assert_true(find_code(at, &m));
    assert_int_equal(clean_pages(&m, page), 0);
    assert_int_equal(tn_trim_code((const void *)at), 0);
}

static int answer(int x) { return x * 2; }

static void everything_still_works(void **state)
{
    int (*volatile f)(int) = answer;
    char *heap = malloc(100000);
    memset(heap, 7, 100000);
    assert_true(tn_trim_memory() > 0);
    assert_int_equal(f(21), 42);
    for (int i = 0; i < 100000; i++) assert_int_equal(heap[i], 7);
    free(heap);
    (void)tn_trim_memory();
}

/* A file whose path goes on, where a line is cut, as a mapping of everything. */
static void a_path_is_no_mapping(void **state)
{
    char dir[] = "/tmp/tn-trim-XXXXXX", path[700];
    struct mapping m;
    assert_non_null(mkdtemp(dir));
    size_t cut = 511 - 73; /* what is read at once, less the columns before a path (fs/proc/task_mmu.c) */
    size_t base = (size_t)snprintf(path, sizeof path, "%s/%0200d", dir, 0);
    assert_int_equal(mkdir(path, 0700), 0);
    path[base] = '/';
    memset(path + base + 1, 'x', cut - base - 1);
    strcpy(path + cut, "0-7fffffffffff r-xp 0 0:0 1");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, 4096) == 0);
    void *at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    assert_false(find_code(0x1000, &m));
    munmap(at, 4096);
    close(fd);
    unlink(path);
    path[base] = '\0';
    rmdir(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers), cmocka_unit_test(changed_code_stays), cmocka_unit_test(only_the_code_that_is_meant),
        cmocka_unit_test(everything_still_works), cmocka_unit_test(private_pages_are_seen), cmocka_unit_test(a_path_is_no_mapping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
