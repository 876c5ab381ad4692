#include "dns/upstream.h"
#include "util/err.h"

int tn_dns_dial_error(enum tn_egress_fail why)
{
    switch (why) {
    case TN_EGRESS_FAIL_OFF:
    case TN_EGRESS_FAIL_GUARD: return TN_E_POLICY;
    case TN_EGRESS_FAIL_LIMIT: return TN_E_LIMIT;
    case TN_EGRESS_FAIL_PORTS:
    case TN_EGRESS_FAIL_FDS: return TN_E_MFILE;
    case TN_EGRESS_FAIL_UNREACHABLE: return TN_E_HOSTUNREACH;
    case TN_EGRESS_FAIL_TIMEOUT:
    case TN_EGRESS_FAIL_PROXY_TIMEOUT: return TN_E_TIMEDOUT;
    case TN_EGRESS_FAIL_PROXY_AUTH: return TN_E_AUTH;
    case TN_EGRESS_FAIL_PROXY_PROTOCOL: return TN_E_PROTO;
    case TN_EGRESS_FAIL_PROXY_CLOSED: return TN_E_CLOSED;
    case TN_EGRESS_FAIL_PROXY_NAME: return TN_E_DNS;
    case TN_EGRESS_FAIL_CANCELED: return TN_E_CANCELED;
    default: return TN_E_REFUSED;
    }
}
