/* A configuration file: any bytes. Whatever is wrong with it, it is never host mode by accident: without an exit_egress line that
 * says host there is none, and after an error it is OFF. Files that it names are not read (file: is refused here by what the
 * bytes can name: nothing that exists). */
#include "node/conffile.c"
#include "node/exitset.c"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct taking {
    struct tn_exitset x;
    bool host;
    char why[200];
};

static int take(void *ctx, const struct tn_confline *l)
{
    struct taking *t = ctx;
    if (!strcmp(l->kind, "proxy") || !strcmp(l->kind, "rule")) {
        if (l->key && !strcmp(l->key, "url") && strncmp(l->value, "file:", 5) == 0) return TN_E_INVAL;
        return tn_exitset_line(&t->x, l, t->why);
    }
    if (*l->kind || !l->key) return TN_E_NOENT;
    t->host |= !strcmp(l->key, "exit_egress") && !strcmp(l->value, "host");
    if (!strcmp(l->key, "exit_proxy") && strncmp(l->value, "file:", 5) == 0) return TN_E_INVAL;
    return tn_exitset_set(&t->x, l->key, l->value, t->why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct taking t = {.host = false};
    char why[128], *text = malloc(size + 1);
    unsigned line;
    const char *missing;
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    tn_exitset_init(&t.x);
    int err = tn_conffile_parse(text, size, take, &t, &line, why);
    if (!err && t.x.pool && !t.x.proxy_raw) err = tn_egress_spec_check(t.x.pool, t.why);
    if (err) snprintf(t.x.defect, sizeof t.x.defect, "fuzz");
    enum tn_egress_mode mode = tn_exitset_mode(&t.x, &missing);
    if (mode == TN_EGRESS_HOST && (err || !t.host || t.x.pool)) abort();
    if (err && mode != TN_EGRESS_OFF) abort();
    struct tn_egress_spec *s = mode == TN_EGRESS_OFF ? NULL : tn_exitset_spec(&t.x, mode);
    if (s && (tn_egress_spec_check(s, t.why) != 0 || s->mode != mode)) abort();
    tn_egress_spec_free(s);
    tn_exitset_fini(&t.x);
    free(text);
    return 0;
}
