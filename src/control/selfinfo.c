#include "control/selfinfo.h"
#include "util/err.h"

#include <string.h>

static void set_text(json_t *o, const char *key, const char *value)
{
    if (value && *value) json_object_set_new(o, key, json_string(value));
}

static void set_flag(json_t *o, const char *key, bool value)
{
    if (value) json_object_set_new(o, key, json_true());
}

static void set_tristate(json_t *o, const char *key, int8_t value)
{
    if (value >= 0) json_object_set_new(o, key, json_boolean(value));
}

int tn_selfinfo_init(struct tn_selfinfo *s)
{
    *s = (struct tn_selfinfo){.hostinfo = json_object(), .endpoints = json_array(), .endpoint_types = json_array()};
    return s->hostinfo && s->endpoints && s->endpoint_types ? 0 : TN_E_NOMEM;
}

void tn_selfinfo_fini(struct tn_selfinfo *s)
{
    json_decref(s->hostinfo);
    json_decref(s->netinfo);
    json_decref(s->endpoints);
    json_decref(s->endpoint_types);
    *s = (struct tn_selfinfo){0};
}

/* Takes the new value over. */
static int replace(json_t **slot, json_t *now)
{
    if (!now) return TN_E_NOMEM;
    int changed = !*slot || !json_equal(*slot, now);
    json_decref(*slot);
    *slot = now;
    return changed;
}

/* Servers sort nodes by Go's names of architectures. */
static const char *go_arch(const char *machine)
{
    if (!machine) return NULL;
    if (strcmp(machine, "x86_64") == 0) return "amd64";
    if (strcmp(machine, "aarch64") == 0) return "arm64";
    if (strncmp(machine, "arm", 3) == 0) return "arm";
    if (strlen(machine) == 4 && machine[0] == 'i' && strcmp(machine + 2, "86") == 0) return "386";
    return machine;
}

static void add_service(json_t *services, const char *proto, uint16_t port)
{
    if (port) json_array_append_new(services, json_pack("{s:s, s:i}", "Proto", proto, "Port", (int)port));
}

static json_t *make_services(const struct tn_control_host *h)
{
    json_t *services = json_array();
    add_service(services, "peerapi4", h->peerapi4);
    add_service(services, "peerapi6", h->peerapi6);
    if (h->peerapi_dns_proxy) add_service(services, "peerapi-dns-proxy", 1); /* always port 1: it means "yes" */
    return services;
}

static void set_list(json_t *o, const char *key, json_t *list_owned)
{
    if (json_array_size(list_owned) > 0) json_object_set(o, key, list_owned);
    json_decref(list_owned);
}

int tn_selfinfo_set_host(struct tn_selfinfo *s, const struct tn_control_host *h)
{
    json_t *o = json_object(), *routes = json_array(), *tags = json_array();
    set_text(o, "IPNVersion", h->ipn_version);
    set_text(o, "BackendLogID", h->backend_log_id);
    set_text(o, "OS", "linux");
    set_text(o, "OSVersion", h->os_version);
    set_text(o, "App", h->app);
    set_text(o, "Hostname", h->hostname);
    set_flag(o, "ShieldsUp", h->shields_up);
    set_text(o, "Machine", h->machine);
    set_text(o, "GoArch", go_arch(h->machine));
    for (size_t i = 0; i < h->nroutable_ips; i++) {
        char text[TN_PREFIX_STRLEN];
        json_array_append_new(routes, json_string(tn_prefix_format(&h->routable_ips[i], text)));
    }
    set_list(o, "RoutableIPs", routes);
    for (size_t i = 0; i < h->nrequest_tags; i++) json_array_append_new(tags, json_string(h->request_tags[i]));
    set_list(o, "RequestTags", tags);
    set_list(o, "Services", make_services(h));
    json_object_set_new(o, "Userspace", json_boolean(h->userspace));
    json_object_set_new(o, "UserspaceRouter", json_boolean(h->userspace));
    set_text(o, "ExitNodeID", h->exit_node_id);
    return replace(&s->hostinfo, o);
}

int tn_selfinfo_set_netinfo(struct tn_selfinfo *s, const struct tn_control_netinfo *ni)
{
    json_t *o = json_object(), *latency = json_object();
    set_tristate(o, "MappingVariesByDestIP", ni->mapping_varies_by_dest);
    set_tristate(o, "WorkingIPv6", ni->working_ipv6);
    set_tristate(o, "OSHasIPv6", ni->os_has_ipv6);
    set_tristate(o, "WorkingUDP", ni->working_udp);
    set_tristate(o, "UPnP", ni->upnp);
    set_tristate(o, "PMP", ni->pmp);
    set_tristate(o, "PCP", ni->pcp);
    if (ni->preferred_derp) json_object_set_new(o, "PreferredDERP", json_integer(ni->preferred_derp));
    for (size_t i = 0; i < ni->nlatency && i < sizeof ni->latency / sizeof *ni->latency; i++)
        json_object_set_new(latency, ni->latency[i].name, json_real(ni->latency[i].seconds));

    json_t *before = s->netinfo ? json_copy(s->netinfo) : NULL;
    if (before) json_object_del(before, "DERPLatency");
    int changed = !before || !json_equal(before, o);
    json_decref(before);
    if (json_object_size(latency) > 0) json_object_set(o, "DERPLatency", latency);
    json_decref(latency);
    int err = replace(&s->netinfo, o);
    return err < 0 ? err : changed;
}

int tn_selfinfo_set_endpoints(struct tn_selfinfo *s, const struct tn_control_endpoint *eps, size_t n)
{
    json_t *addrs = json_array(), *types = json_array();
    for (size_t i = 0; i < n; i++) {
        char text[TN_ADDRPORT_STRLEN];
        json_array_append_new(addrs, json_string(tn_addrport_format(&eps[i].addr, text)));
        json_array_append_new(types, json_integer(eps[i].type));
    }
    int a = replace(&s->endpoints, addrs), b = replace(&s->endpoint_types, types);
    if (a < 0 || b < 0) return TN_E_NOMEM;
    return a || b;
}

json_t *tn_selfinfo_hostinfo(const struct tn_selfinfo *s)
{
    json_t *whole = json_copy(s->hostinfo);
    if (whole && s->netinfo) json_object_set(whole, "NetInfo", s->netinfo);
    return whole;
}
