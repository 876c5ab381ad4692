/* Watches the files that exit settings come from, by their directories: editors and orchestrators put a new file in place of
 * the old one. Events are collected for a moment, and only contents that differ make a reload. A file that is gone differs. */
#include "node/exit.h"

#include "util/err.h"
#include "util/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIRS_MAX = 8, COALESCE_MS = 200, READ_MAX = 1024 * 1024 };

struct tn_exitwatch {
    struct tn_node *node;
    struct tn_hashkey key;
    uint64_t print; /* of all contents */
    uv_timer_t timer;
    uv_fs_event_t dirs[DIRS_MAX];
    char names[DIRS_MAX][256];
    size_t ndirs;
    int handles;
    bool closing;
};

static uint64_t print_of(const struct tn_exitwatch *w, const char *path)
{
    char *text;
    size_t len;
    int err = tn_file_read(path, READ_MAX, &text, &len);
    if (err) return tn_siphash(&w->key, &err, sizeof err);
    uint64_t h = tn_siphash(&w->key, text, len);
    tn_wipe(text, len);
    free(text);
    return h;
}

static uint64_t print_all(const struct tn_exitwatch *w)
{
    const struct tn_config *c = &w->node->config;
    uint64_t h = 0;
    if (c->config_file) h = print_of(w, c->config_file);
    for (size_t i = 0; i < c->exit.nfiles; i++) h = h * 31 + print_of(w, c->exit.files[i]);
    return h;
}

static void look(uv_timer_t *t)
{
    struct tn_exitwatch *w = t->data;
    char why[200];
    if (print_all(w) != w->print) (void)tn_exit_reload(w->node, false, why); /* what is wrong is in log and status */
}

static void changed(uv_fs_event_t *h, const char *filename, int events, int status)
{
    struct tn_exitwatch *w = h->data;
    if (!w->closing && !uv_is_active((uv_handle_t *)&w->timer)) uv_timer_start(&w->timer, look, COALESCE_MS, 0);
}

static bool watched(const struct tn_exitwatch *w, const char *dir)
{
    for (size_t i = 0; i < w->ndirs; i++)
        if (!strcmp(w->names[i], dir)) return true;
    return false;
}

static void watch_dir_of(struct tn_exitwatch *w, const char *path)
{
    const char *slash = strrchr(path, '/');
    char dir[256];
    int len = slash ? (int)(slash - path) + (slash == path) : 1;
    if (len >= (int)sizeof dir) return;
    snprintf(dir, sizeof dir, "%.*s", len, slash ? path : ".");
    if (watched(w, dir) || w->ndirs == DIRS_MAX) return;
    uv_fs_event_t *h = &w->dirs[w->ndirs];
    if (!h->data) {
        if (uv_fs_event_init(&w->node->loop, h) != 0) return;
        h->data = w;
        w->handles++;
    }
    if (uv_fs_event_start(h, changed, dir, 0) != 0) {
        tn_logf(&w->node->log, TN_LOG_WARN, "egress", "%s can't be watched for changes", dir);
        return;
    }
    strcpy(w->names[w->ndirs++], dir);
}

void tn_exitwatch_again(struct tn_node *n)
{
    struct tn_exitwatch *w = n->exitwatch;
    if (!w) return;
    for (size_t i = 0; i < w->ndirs; i++) uv_fs_event_stop(&w->dirs[i]);
    w->ndirs = 0;
    if (n->config.config_file) watch_dir_of(w, n->config.config_file);
    for (size_t i = 0; i < n->config.exit.nfiles; i++) watch_dir_of(w, n->config.exit.files[i]);
    w->print = print_all(w);
}

int tn_exitwatch_new(struct tn_node *n)
{
    struct tn_exitwatch *w = calloc(1, sizeof *w);
    if (!w) return TN_E_NOMEM;
    w->node = n;
    tn_rng_fill(&n->rng, &w->key, sizeof w->key);
    uv_timer_init(&n->loop, &w->timer);
    w->timer.data = w;
    w->handles = 1;
    n->exitwatch = w;
    tn_exitwatch_again(n);
    return 0;
}

static void closed(uv_handle_t *h)
{
    struct tn_exitwatch *w = h->data;
    if (--w->handles == 0) free(w);
}

void tn_exitwatch_free(struct tn_node *n)
{
    struct tn_exitwatch *w = n->exitwatch;
    if (!w) return;
    n->exitwatch = NULL;
    w->closing = true;
    for (size_t i = 0; i < DIRS_MAX; i++)
        if (w->dirs[i].data) uv_close((uv_handle_t *)&w->dirs[i], closed);
    uv_close((uv_handle_t *)&w->timer, closed);
}
