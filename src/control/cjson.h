/* JSON from the control server: bounded parsing, and accessors that take "absent", null and the wrong type alike.
 *
 * Parsing pulls bytes through a gate that counts nesting and what the values will cost in memory, so that neither the
 * parser's recursion nor its heap can be driven by a few hostile bytes ("[[[[", "{},{},{},"). */
#ifndef TN_CONTROL_CJSON_H
#define TN_CONTROL_CJSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_CJSON_DEPTH = 64, /* the deepest known message (SSH policy, DERP map) nests under 12 */
};

/* Gives up to cap bytes; 0 at the end, (size_t)-1 to stop with an error. */
typedef size_t tn_cjson_read(void *arg, void *out, size_t cap);

/* One JSON value and nothing after it. max_cost bounds an estimate of the parsed value's memory, in bytes (about
 * the text plus 80 per string, 128 per array, 256 per object). 0 and *out owned by the caller; TN_E_MALFORMED,
 * TN_E_TOOBIG. */
int tn_cjson_load(tn_cjson_read *read, void *arg, size_t max_cost, json_t **out);
int tn_cjson_parse(const void *bytes, size_t len, size_t max_cost, json_t **out);

/* All take any value (also NULL) as obj. get: NULL for absent and for null. */
json_t *tn_cjson_get(const json_t *obj, const char *key);
bool tn_cjson_has_null(const json_t *obj, const char *key); /* present and null */
json_t *tn_cjson_array(const json_t *obj, const char *key);  /* NULL unless an array */
json_t *tn_cjson_object(const json_t *obj, const char *key); /* NULL unless an object */
const char *tn_cjson_string(const json_t *obj, const char *key); /* NULL unless a string without NUL characters */
int64_t tn_cjson_int(const json_t *obj, const char *key);        /* 0 unless an integer */
bool tn_cjson_bool(const json_t *obj, const char *key);          /* false unless true */
int tn_cjson_tristate(const json_t *obj, const char *key);       /* 1, 0, or -1 when it is no boolean */
const char *tn_cjson_text(const json_t *value);                  /* the string itself, same rule; NULL */

/* Compact text with a NUL behind it, in one allocation that never moved: a caller with secrets in it can wipe them
 * all. Freed by the caller. NULL when memory is short. */
char *tn_cjson_dump(const json_t *value, size_t *len);

#endif
