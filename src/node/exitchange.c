/* Several settings of the exit's policy at once.
 *
 * One by one they would mean something in between: exit_egress host and an exit_proxy that turns out to be wrong, host until the
 * proxy's turn. So they are taken by a copy, and the copy's meaning is the new one once every one of them has been understood. */
#include "node/exitset.h"

#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int copy_files(struct tn_exitset *to, const struct tn_exitset *from)
{
    for (; to->nfiles < from->nfiles; to->nfiles++) {
        to->files[to->nfiles] = (struct tn_exitfile){strdup(from->files[to->nfiles].path), from->files[to->nfiles].print};
        if (!to->files[to->nfiles].path) return TN_E_NOMEM;
    }
    return 0;
}

/* What was read from files is not read again: the copy means the same. to is to be freed in any case. */
static int copy(struct tn_exitset *to, const struct tn_exitset *from)
{
    *to = *from;
    to->proxy_raw = NULL;
    to->pool = NULL;
    to->nfiles = 0;
    memset(to->files, 0, sizeof to->files);
    if (from->proxy_raw) to->proxy_raw = tn_secret_new(tn_secret_bytes(from->proxy_raw), tn_secret_len(from->proxy_raw));
    if (from->pool) to->pool = tn_egress_spec_copy(from->pool);
    if (!to->proxy_raw != !from->proxy_raw || !to->pool != !from->pool) return TN_E_NOMEM;
    return copy_files(to, from);
}

/* Off, until somebody says a proxy that can be used. */
static int cannot(struct tn_exitset *x, int err, const char *why)
{
    snprintf(x->defect, sizeof x->defect, "%.199s", why);
    x->proxy_said = true;
    return err;
}

int tn_exitset_change(struct tn_exitset *x, const struct tn_setting *settings, size_t n, char why[200])
{
    struct tn_exitset fresh;
    char ignored[200];
    size_t i = 0;
    int err = copy(&fresh, x);
    if (err) {
        snprintf(why, 200, "exit_proxy: out of memory");
        tn_exitset_fini(&fresh);
        return cannot(x, err, why);
    }
    while (i < n && (err = tn_exitset_set(&fresh, settings[i].option, settings[i].value, why)) == 0) i++;
    if (err) {
        tn_exitset_fini(&fresh);
        /* A file may have become readable by now. It was told as wrong, and is. */
        if (tn_exitset_set(x, settings[i].option, settings[i].value, ignored) == 0) (void)cannot(x, err, why);
        return err;
    }
    tn_exitset_fini(x);
    *x = fresh;
    return 0;
}
