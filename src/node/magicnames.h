/* MagicDNS without I/O: what the netmap itself answers, and who is to be asked for the rest (tailcfg.DNSConfig).
 *
 *     names of nodes, ExtraRecords      from the netmap; the domain's other names don't exist
 *     addresses of the tailnet (PTR)    from the netmap
 *     Routes, the longest suffix        its servers; none: the suffix is the netmap's, and the name doesn't exist
 *     everything else                   Resolvers; else the exit node in use; else the host's own servers */
#ifndef TN_NODE_MAGICNAMES_H
#define TN_NODE_MAGICNAMES_H

#include "control/netmap.h"

enum { TN_MAGIC_SERVERS_MAX = 8, TN_MAGIC_ANSWER_MAX = 1232 };

enum tn_magic_way {
    TN_MAGIC_NONE,     /* no question at all: no answer */
    TN_MAGIC_ANSWERED, /* out has the answer */
    TN_MAGIC_SERVERS,  /* servers are to be asked, in this order */
    TN_MAGIC_DEFAULT,  /* the exit node in use, or the host's own servers */
};

struct tn_magic_verdict {
    enum tn_magic_way way;
    uint8_t out[TN_MAGIC_ANSWER_MAX];
    size_t len;
    struct tn_addrport servers[TN_MAGIC_SERVERS_MAX];
    size_t nservers;
};

void tn_magicnames_ask(const struct tn_netmap *m, const uint8_t *query, size_t len, struct tn_magic_verdict *v);
/* The tailnet's domains, for a search list: separated by spaces. */
void tn_magicnames_search(const struct tn_netmap *m, char *out, size_t cap);

#endif
