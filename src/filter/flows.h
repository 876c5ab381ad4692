/* UDP and SCTP flows that we started, so that their replies pass without a rule. As Go's filterState: the 512 most
 * recently used, without expiry. Memory grows with the flows and is reused from then on. */
#ifndef TN_FILTER_FLOWS_H
#define TN_FILTER_FLOWS_H

#include "util/htable.h"
#include "util/ip.h"
#include "util/list.h"
#include "util/siphash.h"

enum { TN_FILTER_FLOWS_MAX = 512 };

/* One flow as its replies look: from and to. Padding-free, hashed as memory. */
struct tn_flow_key {
    uint8_t src[16], dst[16];
    uint16_t sport, dport;
    uint16_t proto, family;
};

struct tn_flows {
    struct tn_htable table;
    struct tn_list recent; /* most recently used first */
    struct tn_hashkey key; /* ports and addresses are the peers' choice */
};

void tn_flows_init(struct tn_flows *f, const struct tn_hashkey *key);
void tn_flows_fini(struct tn_flows *f);
/* Remembers the flow; when memory is short it is not remembered. */
void tn_flows_note(struct tn_flows *f, const struct tn_flow_key *reply);
bool tn_flows_seen(struct tn_flows *f, const struct tn_flow_key *reply);

#endif
