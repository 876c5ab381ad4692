/* Runs a fuzz target over every file of the directories given: seeds as regression tests. Each input is copied to a heap
 * block of its exact size, so that AddressSanitizer sees a read past its end; then its truncated prefixes run too, all of a
 * message's, and at even distances those of a long conversation, whose cost grows with the square of its length. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEED_MAX = 1 << 20, PREFIXES_MAX = 1024 };

static void run(const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    if (!exact) abort();
    memcpy(exact, bytes, len);
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
}

static int run_file(const char *path)
{
    static uint8_t bytes[SEED_MAX];
    FILE *f = fopen(path, "rb");
    if (!f) return -1;
    size_t len = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    run(bytes, len);
    for (size_t n = 0, step = len / PREFIXES_MAX + 1; n < len; n += step) run(bytes, n);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            fprintf(stderr, "%s: can't open\n", argv[i]);
            return 1;
        }
        for (struct dirent *e; (e = readdir(dir));) {
            char path[4096];
            if (e->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            if (run_file(path) != 0) return 1;
            files++;
        }
        closedir(dir);
    }
    printf("%u seeds\n", files);
    return files == 0; /* a target without seeds is a mistake */
}
