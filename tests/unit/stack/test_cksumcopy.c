/* Against the plain sum: every length around the block size, both alignments, values that carry. */
#include "stack/cksumcopy.c"
#include "wire/ip.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static void same_as_plain(void **state)
{
    enum { MAX = 3000 };
    uint8_t from[MAX + 1];
    uint32_t seed = 1;
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < sizeof from; i++)
            from[i] = kind == 0 ? 0xff : kind == 1 ? (uint8_t)((seed = seed * 1103515245 + 12345) >> 16) : 0;
        for (size_t len = 0; len <= MAX; len += len < 200 ? 1 : 37)
            for (size_t shift = 0; shift < 2; shift++) {
                uint8_t *to = malloc(len ? len : 1); /* exact */
                uint32_t sum = tn_cksum_copy(4711, to, from + shift, len);
                assert_int_equal(tn_cksum_fold(sum), tn_cksum_fold(tn_cksum_add(4711, from + shift, len)));
                if (len) assert_memory_equal(to, from + shift, len);
                free(to);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_plain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
