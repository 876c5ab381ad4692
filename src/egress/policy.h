/* The policy: OFF, HOST or PROXY, and why it is OFF. */
#ifndef TN_EGRESS_POLICY_H
#define TN_EGRESS_POLICY_H

#include "egress/egress.h"

struct tn_policy {
    enum tn_egress_mode mode;
    struct tn_proxy *proxy; /* owned; non-NULL exactly in PROXY mode */
    bool rejected;          /* OFF because the last setting was not valid */
};

void tn_policy_init(struct tn_policy *p); /* OFF */
void tn_policy_fini(struct tn_policy *p); /* wipes the proxy */
/* Takes proxy in every case. 0, or TN_E_POLICY and OFF. */
int tn_policy_set(struct tn_policy *p, enum tn_egress_mode mode, struct tn_proxy *proxy);
const char *tn_policy_describe(const struct tn_policy *p, char buf[400]);

#endif
