/* The registry as one JSON object: {"version": 1, "next_id": n, "last_host": n, "nodes": [...]}. Loading checks
 * everything before it is believed: a file that was cut or edited wrongly stops the start instead of giving two nodes
 * one address. */
#include "dev/registry.h"
#include "util/err.h"

#include <string.h>

enum { FORMAT = 1 };
#define ID_MAX ((json_int_t)1 << 52) /* some readers of tailcfg keep ids in doubles */

static json_t *dump_node(const struct tn_dev_node *n)
{
    char key[TN_KEY_STRLEN], machine[TN_KEY_STRLEN], disco[TN_KEY_STRLEN];
    return json_pack("{s:I, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:b, s:O}", "id", (json_int_t)n->id,
                     "key", tn_node_public_format(&n->key, key), "machine",
                     tn_machine_public_format(&n->machine, machine), "disco",
                     tn_disco_public_format(&n->disco, disco), "name", n->name, "host", (int)n->host, "home_derp",
                     n->home_derp, "cap", n->cap, "created", (json_int_t)n->created, "last_seen",
                     (json_int_t)n->last_seen, "expiry", (json_int_t)n->expiry, "ephemeral", (int)n->ephemeral,
                     "hostinfo", n->hostinfo);
}

json_t *tn_dev_registry_dump(const struct tn_dev_registry *r)
{
    json_t *nodes = json_array();
    if (!nodes) return NULL;
    TN_LIST_EACH (l, &r->nodes) {
        const struct tn_dev_node *n = TN_CONTAINER(l, struct tn_dev_node, link);
        if (!n->phantom && json_array_append_new(nodes, dump_node(n)) != 0) {
            json_decref(nodes);
            return NULL;
        }
    }
    return json_pack("{s:i, s:I, s:i, s:o}", "version", FORMAT, "next_id", (json_int_t)r->next_id, "last_host",
                     (int)r->last_host, "nodes", nodes);
}

/* What json_unpack leaves unchecked: ranges, key texts, uniqueness. */
static int load_node(struct tn_dev_registry *r, json_t *v)
{
    const char *key, *machine, *disco, *name;
    json_int_t id, created, last_seen, expiry;
    int host, home, cap, ephemeral;
    json_t *hostinfo;
    if (json_unpack(v, "{s:I, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:b, s:o}", "id", &id, "key", &key,
                    "machine", &machine, "disco", &disco, "name", &name, "host", &host, "home_derp", &home, "cap",
                    &cap, "created", &created, "last_seen", &last_seen, "expiry", &expiry, "ephemeral", &ephemeral,
                    "hostinfo", &hostinfo) != 0)
        return TN_E_STATE;
    struct tn_node_public k;
    struct tn_machine_public m;
    struct tn_disco_public d;
    char label[TN_DEV_LABEL_MAX + 1];
    if (tn_node_public_parse(key, &k) || tn_machine_public_parse(machine, &m) || tn_disco_public_parse(disco, &d))
        return TN_E_STATE;
    tn_dev_label(name, label);
    if (strcmp(label, name) != 0 || tn_dev_registry_by_name(r, name) || !json_is_object(hostinfo)) return TN_E_STATE;
    if (id < r->next_id || id >= ID_MAX || host < 1 || host > UINT16_MAX) return TN_E_STATE; /* ids ascend */
    if (tn_dev_registry_host_taken(r, (uint16_t)host)) return TN_E_STATE;

    r->next_id = id;
    struct tn_dev_node *n;
    int err = tn_dev_registry_add(r, &m, &k, name, created, &n);
    if (err) return err == TN_E_NOMEM ? err : TN_E_STATE;
    tn_dev_node_set_host(r, n, (uint16_t)host);
    n->disco = d;
    n->home_derp = home;
    n->cap = cap;
    n->last_seen = last_seen;
    n->expiry = expiry;
    n->ephemeral = ephemeral;
    json_decref(n->hostinfo);
    n->hostinfo = json_incref(hostinfo);
    return 0;
}

static int load_all(struct tn_dev_registry *r, const json_t *dump)
{
    int version, last_host;
    json_int_t next_id;
    json_t *nodes, *v;
    size_t i;
    if (json_unpack((json_t *)dump, "{s:i, s:I, s:i, s:o}", "version", &version, "next_id", &next_id, "last_host",
                    &last_host, "nodes", &nodes) != 0)
        return TN_E_STATE;
    if (version != FORMAT || !json_is_array(nodes) || last_host < 0 || last_host > UINT16_MAX) return TN_E_STATE;
    json_array_foreach (nodes, i, v) {
        int err = load_node(r, v);
        if (err) return err;
    }
    if (next_id < r->next_id || next_id > ID_MAX) return TN_E_STATE;
    r->next_id = next_id;
    r->last_host = (uint16_t)last_host;
    return 0;
}

int tn_dev_registry_load(struct tn_dev_registry *r, const json_t *dump)
{
    int err = load_all(r, dump);
    if (err) {
        tn_dev_registry_fini(r);
        tn_list_init(&r->nodes);
        tn_htable_init(&r->by_key);
        tn_htable_init(&r->by_machine);
        tn_htable_init(&r->by_name);
        r->next_id = 1;
        r->last_host = 0;
    }
    return err;
}
