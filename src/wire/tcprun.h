/* Consecutive segments of one TCP flow among packets that arrived together: what may be judged and taken in as one. */
#ifndef TN_WIRE_TCPRUN_H
#define TN_WIRE_TCPRUN_H

#include <stddef.h>
#include <sys/uio.h>

/* How many of the n > 0 packets (each of exactly its IP length) from the first on make a run; at least 1. In a run of more
 * than one all have the same addresses, ports, TTL, class, acknowledgment, window and options, no IP options, no
 * extension headers and no fragment, no flags but ACK and, on the last, PSH; sequence numbers continue and every packet
 * has payload. So what is decided by the first packet's headers, sequence number aside, holds for all. Checksums are not
 * looked at. */
size_t tn_tcp_run(const struct iovec *packets, size_t n);

#endif
