#include "control/cjson.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

/* What jansson spends per value, measured roughly and rounded up. */
enum { COST_OBJECT = 256, COST_ARRAY = 128, COST_STRING = 80, COST_SEPARATOR = 40 };

struct gate {
    tn_cjson_read *read;
    void *arg;
    size_t cost, max_cost;
    unsigned depth;
    bool in_string, escaped, over;
};

static void count_in_string(struct gate *g, char c)
{
    if (g->escaped) g->escaped = false;
    else if (c == '\\') g->escaped = true;
    else if (c == '"') g->in_string = false;
}

static void count(struct gate *g, char c)
{
    g->cost++;
    if (g->in_string) {
        count_in_string(g, c);
        return;
    }
    switch (c) {
    case '"':
        g->in_string = true;
        g->cost += COST_STRING;
        break;
    case '{':
    case '[':
        g->cost += c == '{' ? COST_OBJECT : COST_ARRAY;
        if (++g->depth > TN_CJSON_DEPTH) g->over = true;
        break;
    case '}':
    case ']':
        if (g->depth > 0) g->depth--;
        break;
    case ',':
        g->cost += COST_SEPARATOR;
        break;
    }
}

static size_t through_gate(void *out, size_t cap, void *arg)
{
    struct gate *g = arg;
    size_t got = g->read(g->arg, out, cap);
    if (got == (size_t)-1) return got;
    for (size_t i = 0; i < got && !g->over; i++) {
        count(g, ((const char *)out)[i]);
        if (g->cost > g->max_cost) g->over = true;
    }
    return g->over ? (size_t)-1 : got;
}

int tn_cjson_load(tn_cjson_read *read, void *arg, size_t max_cost, json_t **out)
{
    struct gate g = {.read = read, .arg = arg, .max_cost = max_cost};
    json_error_t error;
    json_t *value = json_load_callback(through_gate, &g, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value) return g.over ? TN_E_TOOBIG : TN_E_MALFORMED;
    *out = value;
    return 0;
}

/* What is in memory passes the gate as a whole, and is parsed where it is. */
int tn_cjson_parse(const void *bytes, size_t len, size_t max_cost, json_t **out)
{
    struct gate g = {.max_cost = max_cost};
    json_error_t error;
    for (size_t i = 0; i < len && !g.over; i++) {
        count(&g, ((const char *)bytes)[i]);
        if (g.cost > max_cost) g.over = true;
    }
    if (g.over) return TN_E_TOOBIG;
    json_t *value = json_loadb(bytes, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value) return TN_E_MALFORMED;
    *out = value;
    return 0;
}

json_t *tn_cjson_get(const json_t *obj, const char *key)
{
    json_t *value = json_object_get(obj, key);
    return json_is_null(value) ? NULL : value;
}

bool tn_cjson_has_null(const json_t *obj, const char *key) { return json_is_null(json_object_get(obj, key)); }

json_t *tn_cjson_array(const json_t *obj, const char *key)
{
    json_t *value = json_object_get(obj, key);
    return json_is_array(value) ? value : NULL;
}

json_t *tn_cjson_object(const json_t *obj, const char *key)
{
    json_t *value = json_object_get(obj, key);
    return json_is_object(value) ? value : NULL;
}

const char *tn_cjson_text(const json_t *value)
{
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

const char *tn_cjson_string(const json_t *obj, const char *key) { return tn_cjson_text(json_object_get(obj, key)); }
int64_t tn_cjson_int(const json_t *obj, const char *key) { return json_integer_value(json_object_get(obj, key)); }
bool tn_cjson_bool(const json_t *obj, const char *key) { return json_is_true(json_object_get(obj, key)); }

int tn_cjson_tristate(const json_t *obj, const char *key)
{
    const json_t *value = json_object_get(obj, key);
    return json_is_boolean(value) ? json_is_true(value) : -1;
}

char *tn_cjson_dump(const json_t *value, size_t *len)
{
    const size_t flags = JSON_COMPACT | JSON_ENCODE_ANY;
    size_t need = json_dumpb(value, NULL, 0, flags);
    char *text = need ? malloc(need + 1) : NULL;
    if (!text) return NULL;
    *len = json_dumpb(value, text, need, flags);
    text[need] = '\0';
    return text;
}
