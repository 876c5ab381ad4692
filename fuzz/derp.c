/* DERP frames: a stream is split and parsed; what parses must have its views inside the input. */
#include "util/err.h"
#include "wire/derp.h"
#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_view(const struct tn_derp_frame *f, const uint8_t *p, size_t len)
{
    if (p) assert(p >= f->body && len <= f->len && (size_t)(p - f->body) <= f->len - len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile uint8_t sink; /* reads every byte a caller might read */
    while (size) {
        struct tn_derp_frame f;
        long used = tn_derp_frame_split(data, size, 4096, &f);
        if (used <= 0) return 0;
        assert((size_t)used <= size && f.len <= 4096);
        if (tn_derp_frame_parse(&f) == 0) {
            check_view(&f, f.key, 32);
            check_view(&f, f.key2, 32);
            check_view(&f, f.data, f.data_len);
            for (size_t i = 0; f.key && i < 32; i++) sink ^= f.key[i];
            for (size_t i = 0; f.data && i < f.data_len; i++) sink ^= f.data[i];
        }
        data += used;
        size -= (size_t)used;
    }
    return 0;
}
