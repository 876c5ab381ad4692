/* What was said about exit traffic, and what it amounts to. The one place where settings become a mode.
 *
 * Settings come from options (flags, tailnet_set, LocalAPI) or from a configuration file, and secrets from files that either
 * may name. All of it can be read anew at any time; whatever is wrong with it then, it is OFF. */
#ifndef TN_NODE_EXITSET_H
#define TN_NODE_EXITSET_H

#include "egress/egress.h"
#include "util/secret.h"
#include <stdbool.h>
#include <stddef.h>

struct tn_exitset {
    int egress_said;             /* exit_egress: -1 nothing said, else enum tn_egress_mode */
    int forward_said;            /* forward_exit_egress: -1 nothing said, 0 or 1 */
    bool proxy_said;             /* exit_proxy or a [proxy] was given, valid or not */
    bool names;                  /* exit_names, for the proxies of exit_proxy */
    struct tn_secret *proxy_raw; /* exit_proxy as it was given */
    struct tn_egress_spec *pool; /* proxies and rules; NULL: none, or not valid */
    char defect[200];            /* which setting can't be used, or where it is, and why; never credentials */
    struct tn_exitfile {
        char *path;
        uint64_t print;          /* of what was read (tn_exitset_print) */
    } files[8];                  /* that secrets were read from, to be watched; more are read, not watched */
    size_t nfiles;
    uint64_t config_print;       /* the same of the configuration file */
};

enum { TN_SECRET_FILE_MAX = 32 * 1024 }; /* a key, or the URLs of a pool */

void tn_exitset_init(struct tn_exitset *x);
void tn_exitset_fini(struct tn_exitset *x);
/* A bad value is an error and also means OFF. option: exit_proxy, exit_egress, forward_exit_egress, exit_names;
 * TN_E_NOENT for another. why never repeats a secret. */
int tn_exitset_set(struct tn_exitset *x, const char *option, const char *value, char why[200]);
/* Several of them, of which a later one beats an earlier one: all or none. The one that is wrong is taken alone then, so that OFF
 * is all that it can bring: no other of them is in force without it. */
struct tn_setting {
    const char *option, *value;
};
int tn_exitset_change(struct tn_exitset *x, const struct tn_setting *settings, size_t n, char why[200]);
/* Reads what exit_proxy names (file:PATH) anew. */
int tn_exitset_again(struct tn_exitset *x, char why[200]);
/* A line of a [proxy NAME] or [rule] section. */
struct tn_confline;
int tn_exitset_line(struct tn_exitset *x, const struct tn_confline *l, char why[200]);
/* The mode these settings amount to; missing (may be NULL) names the setting that is lacking when it is OFF. */
enum tn_egress_mode tn_exitset_mode(const struct tn_exitset *x, const char **missing);
/* A spec for the egress, the caller's. NULL: no memory. */
struct tn_egress_spec *tn_exitset_spec(const struct tn_exitset *x, enum tn_egress_mode mode);

/* A secret given in place or as file:PATH; surrounding white space of a file is not part of it. *out NULL for empty. print (may be
 * NULL) gets that of the file's contents. */
int tn_secret_read(const char *option, const char *value, struct tn_secret **out, uint64_t *print, char why[200]);
/* Of a file's contents, or of the error that reading it gave: tells whether they are still those that settings were made of. */
uint64_t tn_exitset_print(const char *text, size_t len, int err);

#endif
