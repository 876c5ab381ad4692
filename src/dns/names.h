/* Which name did this peer mean by this address? What the answers of exit clients said lately, so that a proxy can be asked
 * for the name (SOCKS5 ATYP 3, CONNECT host:port) and not for the address: it then finds the server that is near to
 * itself.
 *
 * Told only when it is unambiguous: one name for that address and peer, within the answer's time. It is a hint and
 * nothing that permission may hang on: whoever runs a name's DNS can make it point to any address. */
#ifndef TN_DNS_NAMES_H
#define TN_DNS_NAMES_H

#include "util/ip.h"
#include "util/rng.h"

struct tn_dns_names;

struct tn_dns_names *tn_dns_names_new(const struct tn_rng *rng);
void tn_dns_names_free(struct tn_dns_names *n);
/* name: text in lower case without trailing dot. What is no host name (RFC 1123, with '_') is not kept. No memory: nothing
 * is kept. */
void tn_dns_names_learn(struct tn_dns_names *n, uint64_t peer, const struct tn_ip *ip, const char *name, uint32_t ttl_s,
                        uint64_t now_us);
/* The name, valid until the next call here; NULL: none, or more than one. */
const char *tn_dns_names_find(struct tn_dns_names *n, uint64_t peer, const struct tn_ip *ip, uint64_t now_us);
void tn_dns_names_forget_peer(struct tn_dns_names *n, uint64_t peer);
size_t tn_dns_names_count(const struct tn_dns_names *n);

#endif
