/* Wall-clock times as the wire writes them, to and from Unix seconds. No clock is read here. */
#ifndef TN_CONTROL_WHEN_H
#define TN_CONTROL_WHEN_H

#include <stdint.h>

enum { TN_WHEN_STRLEN = 24 };
/* 2023-01-10: a clock before this is wrong and judges nothing (ipnlocal/expiry.go flagExpiredPeersEpoch). */
#define TN_WHEN_SANE INT64_C(1673373066)

/* RFC 3339 with any offset; fractions are cut. Go's zero time ("0001-01-01T00:00:00Z", or anything before year 2)
 * gives 0, which is "none" here. TN_E_MALFORMED leaves out alone. */
int tn_when_parse(const char *text, int64_t *out);
/* "2024-05-06T07:08:09Z"; 0 gives Go's zero time. Returns buf. */
const char *tn_when_format(int64_t unix_s, char buf[TN_WHEN_STRLEN]);
/* The one HTTP date form still sent (RFC 9110 IMF-fixdate): "Sun, 06 Nov 1994 08:49:37 GMT". */
int tn_when_parse_http(const char *text, int64_t *out);

#endif
