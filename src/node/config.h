/* The node's settings: one table of options by name, for the C API, the command line and the LocalAPI's prefs. */
#ifndef TN_NODE_CONFIG_H
#define TN_NODE_CONFIG_H

#include "egress/subnet.h"
#include "node/exitset.h"
#include "stack/stack.h"
#include "util/log.h"
#include "util/secret.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tn_config_said { /* bits: preferences given explicitly, which beat those kept in the state directory */
    TN_SAID_LOGIN_SERVER = 1, TN_SAID_HOSTNAME = 2, TN_SAID_EXIT_NODE = 4, TN_SAID_ACCEPT_ROUTES = 8,
};

struct tn_config {
    unsigned said;
    char *state_dir, *login_server, *hostname, *exit_node, *exit_dns, *socket, *socks5_server, *tun; /* NULL: default */
    struct tn_secret *auth_key;
    bool relay_only, port_mapping, tun_dns;
    bool ephemeral, accept_routes, advertise_exit_node, exit_node_allow_lan, exit_proxy_udp;
    enum tn_config_aaaa { TN_AAAA_AUTO, TN_AAAA_YES, TN_AAAA_NO } exit_dns_aaaa; /* are exit clients told of IPv6 addresses? */
    bool exit_withdraw; /* while no proxy works, control is told that we are no exit node */
    bool exit_check_off;
    char *exit_check;  /* URL for the check that the node does by itself; NULL: the default */
    bool exit_breaker; /* a proxy that does not answer is left alone for a while */
    struct tn_egress_route *routes; /* advertise_routes */
    size_t nroutes;
    uint16_t port;
    int workers; /* TN_WORKERS_AUTO, or their number */
    size_t tcp_buffer_size; /* 0: automatic */
    enum tn_congestion tcp_congestion;
    enum tn_log_level log_level;

    struct tn_exitset exit; /* exit egress: what options said (until a configuration file says it) */
    char *config_file;      /* NULL: none */
    /* Live settings as options gave them, beside the file: what holds when the file does not say them. */
    struct tn_config_said_beside {
        char *value;
        bool behind_file;   /* said after the file was: it holds whatever the file says */
    } beside[7];
};

/* Settings that a reload takes while the node runs, beside those of exitset.h. Bits. */
enum tn_config_live {
    TN_LIVE_EXIT_NODE = 1, TN_LIVE_ROUTES = 2, TN_LIVE_PROXY_UDP = 4, TN_LIVE_DNS = 8, TN_LIVE_DNS_AAAA = 16,
    TN_LIVE_CHECK = 32, TN_LIVE_WITHDRAW = 64,
};

#define TN_DEFAULT_LOGIN_SERVER "https://controlplane.tailscale.com"
#define TN_DEFAULT_EXIT_DNS "https://1.1.1.1/dns-query"

void tn_config_init(struct tn_config *c);
void tn_config_fini(struct tn_config *c);
/* why gets one line on failure (never a secret). TN_E_NOENT: unknown option, TN_E_INVAL: bad value, or a file error for file:
 * forms. A bad exit_proxy is an error and also leaves the egress OFF. */
int tn_config_set(struct tn_config *c, const char *option, const char *value, char why[200]);
/* Reads the configuration file: every setting of it, as tn_config_set takes it, and its sections. An error has the file's name
 * and the line in why, and leaves the egress OFF. */
int tn_config_read_file(struct tn_config *c, const char *path, char why[200]);
/* Reads what is said about exit traffic anew: the file, and the files that hold secrets. fresh (to be freed) has it in any
 * case: OFF after an error. Other settings than the live ones are checked, and not to be taken. */
int tn_config_reread(const struct tn_config *c, struct tn_config *fresh, char why[200]);
/* Settings of a running node, live ones and those of exitset.h, of which a later one beats an earlier one: all are taken, or none.
 * Then c->exit has what is said of the policy, the live ones are remembered as tn_config_set does it, and fresh (to be freed in any
 * case) has what they amount to now. After an error nothing is another, except that a policy that can't be used is OFF, as the bad
 * option alone would have it: something was meant. *policy: c->exit is to be put in force. TN_E_NOENT without words: not a setting
 * of a running node. */
int tn_config_change(struct tn_config *c, const struct tn_setting *settings, size_t n, struct tn_config *fresh, bool *policy,
                     char why[200]);
/* Moves fresh's live settings here; which of them differ. */
unsigned tn_config_take_live(struct tn_config *c, struct tn_config *fresh);
/* The mode these settings amount to; missing (may be NULL) names the setting that is lacking when it is OFF. */
enum tn_egress_mode tn_config_egress(const struct tn_config *c, const char **missing);

#endif
