#include "control/mapsplit.h"
#include "util/err.h"

#include <string.h>

void tn_mapsplit_init(struct tn_mapsplit *s, tn_cjson_read *read, void *read_arg)
{
    *s = (struct tn_mapsplit){.read = read, .read_arg = read_arg};
    tn_buf_init(&s->element, TN_MAPSPLIT_NODE_MAX);
}

void tn_mapsplit_fini(struct tn_mapsplit *s) { tn_buf_fini(&s->element); }

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static bool key_is(const struct tn_mapsplit *s, const char *name)
{
    return s->key_len == strlen(name) && memcmp(s->key, name, s->key_len) == 0;
}

/* --- what passes --- */

static void pass_in_string(struct tn_mapsplit *s, char c)
{
    bool closes = !s->escaped && c == '"';
    if (!closes && s->depth == 1 && s->want_key) {
        if (c == '\\') s->key_len = TN_MAPSPLIT_KEY_MAX + 1; /* whatever it means, it is not written as we want it */
        if (s->key_len < TN_MAPSPLIT_KEY_MAX) s->key[s->key_len] = c;
        if (s->key_len <= TN_MAPSPLIT_KEY_MAX) s->key_len++;
    }
    s->in_string = !closes;
    s->escaped = !s->escaped && c == '\\';
}

/* The bracket of a list that is to be cut out? A name that comes twice would be two truths. */
static void open_array(struct tn_mapsplit *s)
{
    static const char *const names[TN_MAPSPLIT_LISTS] = {"Peers", "PeersChanged"};
    for (int i = 0; s->depth == 1 && s->key_ended && i < TN_MAPSPLIT_LISTS; i++) {
        if (!key_is(s, names[i])) continue;
        if (s->seen[i]) s->err = TN_E_MALFORMED;
        s->seen[i] = s->cutting = s->first = true;
        s->list = (enum tn_mapsplit_list)i;
        s->comma = false;
    }
}

static void pass(struct tn_mapsplit *s, char c)
{
    if (s->in_string) {
        pass_in_string(s, c);
        return;
    }
    bool was_key = s->key_ended;
    if (!is_space(c)) s->key_ended = false;
    switch (c) {
    case '"':
        s->in_string = true;
        s->escaped = false;
        if (s->depth == 1 && s->want_key) s->key_len = 0;
        break;
    case ':':
        if (s->depth != 1) break;
        s->key_ended = s->want_key;
        s->want_key = false;
        break;
    case ',':
        if (s->depth == 1) s->want_key = true;
        break;
    case '{':
        if (++s->depth == 1) s->want_key = true;
        break;
    case '[':
        s->key_ended = was_key;
        open_array(s);
        s->key_ended = false;
        if (!s->cutting) s->depth++;
        break;
    case '}':
    case ']':
        if (s->depth > 0) s->depth--;
        break;
    }
}

/* --- what is cut out --- */

/* Between two elements; true for the bracket that ends the list, which passes. */
static bool between(struct tn_mapsplit *s, char c)
{
    if (is_space(c)) return false;
    if (c == ']' && !s->comma) {
        s->cutting = false;
        return true;
    }
    if (c == ',' && !s->first && !s->comma) s->comma = true;
    else if (c == '{' && (s->first || s->comma)) s->element_depth = 1;
    else s->err = TN_E_MALFORMED;
    return false;
}

/* Goes on in an element: to its end, or as far as there are bytes. */
static void scan_element(struct tn_mapsplit *s)
{
    while (s->at < s->have && s->element_depth > 0) {
        char c = s->in[s->at++];
        if (s->in_string) {
            if (s->escaped) s->escaped = false;
            else if (c == '\\') s->escaped = true;
            else if (c == '"') s->in_string = false;
        } else if (c == '"') {
            s->in_string = true;
        } else if (c == '{' || c == '[') {
            s->element_depth++;
        } else if (c == '}' || c == ']') {
            s->element_depth--;
        }
    }
}

/* The element that goes on at `start`: handed over if it ends, else kept. */
static void take_element(struct tn_mapsplit *s, size_t start)
{
    const char *text = s->in + start;
    scan_element(s);
    size_t len = s->at - start;
    bool ends = s->element_depth == 0;
    if (!ends || tn_buf_len(&s->element) > 0) {
        s->err = tn_buf_append(&s->element, text, len);
        text = (const char *)tn_buf_data(&s->element);
        len = tn_buf_len(&s->element);
    }
    if (s->err || !ends) return;
    s->first = s->comma = false;
    s->err = s->node(s->ctx, s->list, text, len);
    tn_buf_consume(&s->element, tn_buf_len(&s->element));
}

size_t tn_mapsplit_read(void *arg, void *out, size_t cap)
{
    struct tn_mapsplit *s = arg;
    char *to = out;
    size_t n = 0;
    while (n < cap && !s->err) {
        if (s->at == s->have) {
            if (n > 0) return n;
            s->have = s->read(s->read_arg, s->in, sizeof s->in);
            s->at = 0;
            if (s->have == (size_t)-1) s->have = 0, s->err = TN_E_MALFORMED;
            else if (s->have == 0 && s->cutting) s->err = TN_E_MALFORMED;
            if (s->have == 0) break;
        }
        if (s->element_depth > 0) {
            take_element(s, s->at);
        } else if (s->cutting) {
            char c = s->in[s->at++];
            if (between(s, c)) to[n++] = c;
            else if (s->element_depth > 0) take_element(s, s->at - 1);
        } else {
            to[n] = s->in[s->at++];
            pass(s, to[n++]);
        }
    }
    return s->err ? (size_t)-1 : n;
}
