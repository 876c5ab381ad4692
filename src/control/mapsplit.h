/* Takes the peers out of a map response on its way to the JSON parser, and hands over the text of each.
 *
 * A large tailnet's response is one JSON object of which nearly all is the array Peers. Parsed as a whole it costs ten
 * times what is kept of it, all of it at once. So the elements of the top-level arrays Peers and PeersChanged are cut
 * out here, each is parsed alone, and the parser behind sees the arrays empty.
 *
 * What is recognised is exactly `"Peers"` or `"PeersChanged"` as a key of the outermost object with an array behind it.
 * Anything else passes: a name written with escapes, a null, an array deeper down; the merge reads what it finds in the
 * tree as well. What passes is checked by the parser; what is cut out, here (commas, brackets, objects) and by the parser
 * of each element. */
#ifndef TN_CONTROL_MAPSPLIT_H
#define TN_CONTROL_MAPSPLIT_H

#include "control/cjson.h"
#include "util/buf.h"

enum tn_mapsplit_list { TN_MAPSPLIT_PEERS, TN_MAPSPLIT_CHANGED, TN_MAPSPLIT_LISTS };

enum {
    TN_MAPSPLIT_NODE_MAX = 1 << 20, /* text of one node: one with a thousand routes and as many capabilities is a tenth */
    TN_MAPSPLIT_KEY_MAX = 15,
    TN_MAPSPLIT_CHUNK = 4096,
};

struct tn_mapsplit {
    tn_cjson_read *read; /* the whole text */
    void *read_arg;
    /* One element, an object; dead on return. Non-zero ends the reading. */
    int (*node)(void *ctx, enum tn_mapsplit_list list, const char *text, size_t len);
    void *ctx;

    int err; /* TN_E_MALFORMED, TN_E_TOOBIG, TN_E_NOMEM or node's; 0: none */
    char in[TN_MAPSPLIT_CHUNK];
    size_t at, have;

    unsigned depth;              /* of what passed and is open */
    bool in_string, escaped;
    bool want_key, key_ended;    /* in the outermost object: a string here is a key; its colon has come */
    char key[TN_MAPSPLIT_KEY_MAX];
    size_t key_len;              /* TN_MAPSPLIT_KEY_MAX + 1: another name */
    bool cutting;                /* inside of a list */
    enum tn_mapsplit_list list;
    bool seen[TN_MAPSPLIT_LISTS];
    bool first, comma;           /* no element came yet; a comma is behind the last one */
    unsigned element_depth;      /* 0: between two elements */
    struct tn_buf element;
};

void tn_mapsplit_init(struct tn_mapsplit *s, tn_cjson_read *read, void *read_arg);
void tn_mapsplit_fini(struct tn_mapsplit *s);
/* A tn_cjson_read of the rest. arg: the struct tn_mapsplit. */
size_t tn_mapsplit_read(void *arg, void *out, size_t cap);

#endif
