#include "dev/admin.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>

enum { VALUE_MAX = 1024 };

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Control characters are refused: the values go into request lines. */
static bool decode(const char *text, size_t len, char out[VALUE_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            if (len - i < 3 || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0) return false;
            c = hex(text[i + 1]) * 16 + hex(text[i + 2]);
            i += 2;
        }
        if (c < ' ' || c == 0x7f || n == VALUE_MAX - 1) return false;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return true;
}

/* The query's value, or "" when absent or malformed. */
static const char *query(const struct tn_http1_head *head, const char *name, char out[VALUE_MAX])
{
    const char *end = head->target + head->target_len, *p = memchr(head->target, '?', head->target_len);
    size_t want = strlen(name);
    out[0] = '\0';
    while (p && ++p < end) {
        const char *amp = memchr(p, '&', (size_t)(end - p));
        size_t len = (size_t)((amp ? amp : end) - p);
        if (len > want && memcmp(p, name, want) == 0 && p[want] == '=') {
            if (!decode(p + want + 1, len - want - 1, out)) out[0] = '\0';
            return out;
        }
        p = amp;
    }
    return out;
}

static bool allowed(const struct tn_dev_ctlport *p, const struct tn_http1_head *head)
{
    static const char bearer[] = "Bearer ";
    size_t len, skip = sizeof bearer - 1;
    const char *text = tn_http1_find(head, "Authorization", &len);
    if (!text || len < skip || memcmp(text, bearer, skip) != 0) return false;
    struct tn_secret *given = tn_secret_new(text + skip, len - skip);
    bool same = given && tn_secret_eq(given, p->auth_key);
    tn_secret_free(given);
    return same;
}

static void list_nodes(struct tn_dev_ctlport *p, struct tn_dev_web *w, struct tn_dev_now now)
{
    json_t *all = json_array();
    TN_LIST_EACH (l, &p->registry->nodes)
        json_array_append_new(all, tn_dev_maps_node(p->tailnet, TN_CONTAINER(l, struct tn_dev_node, link), false,
                                                    now.unix_s));
    char *text = all ? json_dumps(all, JSON_INDENT(1)) : NULL;
    if (text) tn_dev_web_answer(w, 200, "application/json", "", text, strlen(text));
    else tn_dev_web_text(w, 500, "out of memory");
    free(text);
    json_decref(all);
}

static void c2n(struct tn_dev_ctlport *p, struct tn_dev_node *n, struct tn_dev_web *w,
                const struct tn_http1_head *head, struct tn_dev_now now)
{
    char method[VALUE_MAX], path[VALUE_MAX], body[VALUE_MAX], raw[4 * VALUE_MAX];
    query(head, "method", method);
    query(head, "path", path);
    query(head, "body", body);
    if (path[0] != '/' || strchr(path, ' ') || strchr(method, ' ')) {
        tn_dev_web_text(w, 400, "bad path or method");
        return;
    }
    int len = snprintf(raw, sizeof raw, "%s %s HTTP/1.1\r\nHost: c2n\r\nContent-Length: %zu\r\n\r\n%s",
                       *method ? method : "GET", path, strlen(body), body);
    tn_dev_ctl_c2n(p->ctl, n, raw, (size_t)len, tn_dev_web_reply(w), now);
}

static void ping(struct tn_dev_ctlport *p, struct tn_dev_node *n, struct tn_dev_web *w,
                 const struct tn_http1_head *head, struct tn_dev_now now)
{
    char types[VALUE_MAX], ip[VALUE_MAX];
    struct tn_ip parsed;
    query(head, "types", types);
    query(head, "ip", ip);
    if (*types && tn_ip_parse(ip, &parsed) != 0) tn_dev_web_text(w, 400, "types needs ip");
    else tn_dev_ctl_ping(p->ctl, n, types, ip, tn_dev_web_reply(w), now);
}

void tn_dev_admin(struct tn_dev_ctlport *p, struct tn_dev_web *w, const struct tn_http1_head *head,
                  struct tn_dev_now now)
{
    char name[VALUE_MAX];
    bool post = tn_dev_web_method_is(head, "POST");
    struct tn_dev_node *n = tn_dev_registry_by_name(p->registry, query(head, "node", name));
    if (!allowed(p, head)) tn_dev_web_text(w, 401, "the auth key is needed as bearer token\n");
    else if (!post && tn_dev_web_method_is(head, "GET") && tn_dev_web_path_is(head, "/dev/nodes"))
        list_nodes(p, w, now);
    else if (!post) tn_dev_web_text(w, 405, "POST required\n");
    else if (!n) tn_dev_web_text(w, 404, "no such node\n");
    else if (tn_dev_web_path_is(head, "/dev/ping")) ping(p, n, w, head, now);
    else if (tn_dev_web_path_is(head, "/dev/c2n")) c2n(p, n, w, head, now);
    else if (tn_dev_web_path_is(head, "/dev/expire")) {
        tn_dev_ctl_expire(p->ctl, n, now);
        tn_dev_web_text(w, 200, "expired\n");
    } else if (tn_dev_web_path_is(head, "/dev/remove")) {
        tn_dev_ctl_remove(p->ctl, n, now);
        tn_dev_web_text(w, 200, "removed\n");
    } else {
        tn_dev_web_text(w, 404, "not found\n");
    }
}
