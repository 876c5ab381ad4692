/* Error codes: 0 is success, a negative value is one of enum tn_err.
 *
 * Codes that peers send (SOCKS replies, HTTP statuses, ICMP codes) are other types and are never returned through
 * these ints. What a caller does with a failure is one of three outcomes: drop this packet and count it, close this
 * connection with a reason, or fail the node and tell the user. */
#ifndef TN_UTIL_ERR_H
#define TN_UTIL_ERR_H

#include <errno.h>

/* name, value, text. Values below -4096 are ours; the others are negated errno values. */
#define TN_ERR_MAP(X)                                                                                             \
    X(NOMEM, -ENOMEM, "out of memory")                                                                            \
    X(INVAL, -EINVAL, "invalid argument")                                                                         \
    X(AGAIN, -EAGAIN, "would block")                                                                              \
    X(EXIST, -EEXIST, "already exists")                                                                           \
    X(NOENT, -ENOENT, "not found")                                                                                \
    X(ACCES, -EACCES, "permission denied")                                                                        \
    X(BUSY, -EBUSY, "busy")                                                                                       \
    X(NOSPC, -ENOSPC, "no room")                                                                                  \
    X(TIMEDOUT, -ETIMEDOUT, "timed out")                                                                          \
    X(CANCELED, -ECANCELED, "canceled")                                                                           \
    X(REFUSED, -ECONNREFUSED, "connection refused")                                                               \
    X(RESET, -ECONNRESET, "connection reset by peer")                                                             \
    X(PIPE, -EPIPE, "connection is closed for writing")                                                           \
    X(NOTCONN, -ENOTCONN, "not connected")                                                                        \
    X(HOSTUNREACH, -EHOSTUNREACH, "host unreachable")                                                             \
    X(NETUNREACH, -ENETUNREACH, "network unreachable")                                                            \
    X(ADDRINUSE, -EADDRINUSE, "address in use")                                                                   \
    X(MFILE, -EMFILE, "too many open files")                                                                      \
    X(IO, -EIO, "input/output error")                                                                             \
    X(MALFORMED, -4097, "malformed data")                                                                         \
    X(TOOBIG, -4098, "over a size limit")                                                                         \
    X(CRYPTO, -4099, "authentication failed")                                                                     \
    X(PROTO, -4100, "protocol error")                                                                             \
    X(CLOSED, -4101, "closed")                                                                                    \
    X(EOF, -4102, "end of stream")                                                                                \
    X(TLS, -4103, "TLS failure")                                                                                  \
    X(CERT, -4104, "certificate not accepted")                                                                    \
    X(AUTH, -4105, "credentials not accepted")                                                                    \
    X(NEEDLOGIN, -4106, "login required")                                                                         \
    X(POLICY, -4107, "refused by policy")                                                                         \
    X(LIMIT, -4108, "over a limit")                                                                               \
    X(UNSUPPORTED, -4109, "not supported")                                                                        \
    X(DNS, -4110, "name not resolved")                                                                            \
    X(STATE, -4111, "state file unusable")                                                                        \
    X(HTTP, -4112, "unexpected HTTP status")

enum tn_err {
    TN_OK = 0,
#define TN_ERR_ENUM(name, value, text) TN_E_##name = value,
    TN_ERR_MAP(TN_ERR_ENUM)
#undef TN_ERR_ENUM
};

/* English text without a trailing period; never NULL. Unknown errno values get strerror's text (thread-safe). */
const char *tn_err_text(int err);
/* The code's symbol, such as "TIMEDOUT"; "E<n>" style names are not made up: unknown values give "UNKNOWN". */
const char *tn_err_name(int err);

#endif
