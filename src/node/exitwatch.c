/* Watches the files that exit settings come from, by their directories: editors and orchestrators put a new file in place of
 * the old one. Events are collected for a moment, and only contents that differ from those that were read make a reload. A file that
 * is gone differs. What changed between the reading and the watching has no event: it is looked for once the watches stand. */
#include "node/exit.h"

#include "node/conffile.h"
#include "util/err.h"
#include "util/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIRS_MAX = 8, COALESCE_MS = 200 };

struct tn_exitwatch {
    struct tn_node *node;
    uv_timer_t timer;
    uv_fs_event_t dirs[DIRS_MAX];
    char names[DIRS_MAX][256];
    size_t ndirs;
    int handles;
    bool closing;
};

static bool differs(const char *path, size_t max, uint64_t print)
{
    char *text = NULL;
    size_t len = 0;
    int err = tn_file_read(path, max, &text, &len);
    uint64_t now = tn_exitset_print(text, len, err);
    if (!err) tn_wipe(text, len);
    if (!err) free(text);
    return now != print;
}

static bool something_differs(const struct tn_node *n)
{
    const struct tn_config *c = &n->config;
    if (c->config_file && differs(c->config_file, TN_CONFFILE_MAX, c->exit.config_print)) return true;
    for (size_t i = 0; i < c->exit.nfiles; i++)
        if (differs(c->exit.files[i].path, TN_SECRET_FILE_MAX, c->exit.files[i].print)) return true;
    return false;
}

static void look(uv_timer_t *t)
{
    struct tn_exitwatch *w = t->data;
    char why[200];
    if (something_differs(w->node)) (void)tn_exit_reload(w->node, false, why); /* what is wrong is in log and status */
}

static void look_soon(struct tn_exitwatch *w)
{
    if (!w->closing && !uv_is_active((uv_handle_t *)&w->timer)) uv_timer_start(&w->timer, look, COALESCE_MS, 0);
}

static void changed(uv_fs_event_t *h, const char *filename, int events, int status) { look_soon(h->data); }

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
    for (size_t i = 0; i < n->config.exit.nfiles; i++) watch_dir_of(w, n->config.exit.files[i].path);
    if (something_differs(n)) look_soon(w);
}

int tn_exitwatch_new(struct tn_node *n)
{
    struct tn_exitwatch *w = calloc(1, sizeof *w);
    if (!w) return TN_E_NOMEM;
    w->node = n;
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
