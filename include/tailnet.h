/* libtailnet: make this program a node of a tailnet (a network compatible with Tailscale), in-process and without root.
 *
 *     tailnet *t;
 *     tailnet_new(&t);
 *     tailnet_set(t, "hostname", "demo");
 *     tailnet_set(t, "state_dir", "/var/lib/demo");
 *     tailnet_set(t, "auth_key", getenv("TS_AUTHKEY"));
 *     if (tailnet_up(t, 30000) == 0) {
 *         int fd;
 *         if (tailnet_dial(t, "tcp", "server:80", 10000, &fd) == 0) { ... read(fd), write(fd), poll, close(fd) ... }
 *     }
 *     tailnet_close(t);
 *
 * Threads: one thread per started node, made by tailnet_start or tailnet_up and gone when tailnet_close returns, and for
 * each name looked up (server, relay, proxy) a thread that ends with the lookup: one under way may outlive tailnet_close
 * until the resolver gives up, with one descriptor, so do not dlclose the library right after. libuv makes a pipe (two
 * descriptors, close-on-exec) for the process with its first loop and keeps it. Every
 * function may be called from any thread, except that tailnet_close must be the last call for its node, and nothing may
 * be called from inside a log callback. Blocking functions take a timeout in milliseconds: 0 polls, negative waits for
 * ever; tailnet_cancel ends all that wait.
 *
 * Errors: 0 is success, failures are negative. tailnet_strerror has a text for each code, tailnet_error the detail of the
 * node's last failure. Ownership: strings passed in are copied; strings passed out are freed with tailnet_free.
 *
 * fork: a child process may use descriptors it inherited but not the node. Signals: SIGPIPE is never raised by the
 * library's thread, which blocks all signals; the application's own writes to a descriptor follow the usual rules. */
#ifndef TAILNET_H
#define TAILNET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TAILNET_API __attribute__((visibility("default")))
#else
#define TAILNET_API
#endif

#define TAILNET_VERSION "0.1.0"

typedef struct tailnet tailnet;
typedef struct tailnet_listener tailnet_listener;

/* Codes below -4096 are this library's; the others are negated errno values, such as -ETIMEDOUT, -ECONNREFUSED, -ECANCELED,
 * -EINVAL, -ENOMEM, -ENOENT (no such peer), -EBUSY (the state directory is in use). */
enum {
    TAILNET_ECLOSED = -4101,    /* the node is closing */
    TAILNET_ENEEDLOGIN = -4106, /* a person must visit tailnet_auth_url, or an auth key is needed */
    TAILNET_EPOLICY = -4107,    /* refused by policy */
    TAILNET_ESTATE = -4111,     /* the state file can't be used; it was left as it is */
    TAILNET_EDNS = -4110,       /* name not resolved */
    TAILNET_EPROTO = -4100      /* the server broke the protocol or refused us: see tailnet_error */
};

enum { TAILNET_LOG_ERROR = 0, TAILNET_LOG_WARN = 1, TAILNET_LOG_INFO = 2, TAILNET_LOG_DEBUG = 3 };

/* The library's version as linked, "0.1.0". */
TAILNET_API const char *tailnet_version(void);
/* English text for a code of this library; never NULL, never freed. */
TAILNET_API const char *tailnet_strerror(int err);

/* A node that does nothing yet. -ENOMEM. */
TAILNET_API int tailnet_new(tailnet **out);

/* Sets an option by name, before the node is started; exit_proxy, exit_egress, forward_exit_egress, exit_names, exit_proxy_udp,
 * exit_dns, exit_dns_aaaa, exit_check, exit_withdraw, advertise_exit_node and advertise_routes at any time (flows under way stay as
 * long as their destination is carried). -ENOENT: no such option; -EINVAL: the value does not fit (detail in
 * tailnet_error). A NULL or empty value means the default, except that
 * an exit_proxy which is given but empty or not valid turns the egress off for good, as one that was meant. Options:
 *
 *   state_dir           directory for keys and preferences, made if missing; default: none is kept, and the node is ephemeral
 *   login_server        URL of the control server; default https://controlplane.tailscale.com
 *   auth_key            secret; or file:PATH to read it from. Not needed once the state holds a registered key
 *   hostname            default: the system's host name
 *   ephemeral           true | false: the server forgets the node when it is gone
 *   port                UDP port, 0..65535; 0 (default) picks one
 *   relay_only          true | false: open no UDP socket; peers are reached through DERP relays only
 *   port_mapping        true (default) | false: ask a NAT's gateway to map a port to us (PCP, NAT-PMP, UPnP), on a thread that
 *                       may outlive tailnet_close by some seconds, as that of a name lookup
 *   accept_routes       true | false: use subnet routes of peers
 *   exit_node           name, tailnet IP or stable ID of the peer that carries our internet traffic
 *   advertise_exit_node true | false: offer 0.0.0.0/0 and ::/0
 *   advertise_routes    prefixes to carry traffic to, separated by commas: 192.168.1.0/24,fd00:1::/64. Private addresses in
 *                       them are dialed directly; public ones are exit traffic unless marked, as in 8.8.8.0/24=direct
 *   exit_egress         off | host | proxy: how exit traffic leaves. Default: off, or proxy once exit_proxy is set. host sends it
 *                       from this host's own address; proxy through exit_proxy and never otherwise
 *   forward_exit_egress true | false: the same switch by another name; true alone never means host
 *   exit_proxy          socks5://[user:pass@]host:port, http://... or https://..., or file:PATH with such a URL; secret. Several,
 *                       between blanks: a pool. {peer}, {user} and {epoch} in the credentials make sessions (docs/CONFIG.md)
 *   exit_names          true | false (default): tell the proxy names instead of addresses where they are known. The proxy then
 *                       resolves them, and may find another address than ours did, its own network among them
 *   config              path of a configuration file (docs/CONFIG.md), read at once; tailnet_reload reads it again
 *   exit_proxy_udp      bool: UDP of exit clients by the proxy's UDP ASSOCIATE (SOCKS5); default false: UDP is refused then
 *   exit_dns            where names are asked for exit clients, through the same egress: https://ADDRESS[:port][/path] (DNS
 *                       over HTTPS), tcp://ADDRESS[:port] (DNS over TCP) or udp://ADDRESS[:port] (over UDP where the egress has
 *                       a way for it, else TCP), up to four in the order of preference, separated by commas; default
 *                       https://1.1.1.1/dns-query
 *   exit_dns_aaaa       auto | true | false: are exit clients told IPv6 addresses? default auto: where IPv6 has a way
 *   exit_check          true (default) | false | URL: with proxies, ask a page what address the world sees by each of them, once
 *                       the node is up, after changes, and again while the answer is not good; for status and health only.
 *                       http:// or https:// and an IP address; default https://1.1.1.1/cdn-cgi/trace
 *   exit_withdraw       true | false (default): while no proxy works, or egress is off, tell control that this is no exit node
 *   tun                 name of a TUN device: the host's own programs are in the tailnet too. Needs root or CAP_NET_ADMIN. The
 *                       calls below go on in-process: what tailnet_listen has taken is not the host's, and a dial to one of
 *                       the node's own addresses reaches tailnet_listen's listeners, not the host's servers
 *   tun_dns             true | false: with tun, /etc/resolv.conf is set to the tailnet's resolver (names of nodes, split DNS; the
 *                       rest is asked where control says, at the exit node in use, or at the servers that were there), and
 *                       put back at the end, or at the next start after a crash
 *   exit_node_allow_lan_access true | false: with tun and exit_node, the host's own networks stay reachable
 *   exit_breaker        true (default) | false: leave a proxy alone for some seconds after it did not answer three times
 *   tcp_buffer_size     largest buffer of a TCP flow per direction: bytes, or with K or M; default: automatic. All flows
 *                       together hold at most an eighth of the memory that the machine, or the control group, has
 *   tcp_congestion      bbr | cubic: congestion control of TCP in the tailnet; default bbr
 *   workers             threads beside the loop that seal and send long trains of packets, and as many that read the UDP
 *                       sockets and open long runs, each started when there is work for it: 0 to 16, or auto (default):
 *                       half as many as the machine has cores, at most 4, used while the loop has too much to do; none on
 *                       fewer than four cores
 *   socks5_server       HOST:PORT to serve SOCKS5 on, into the tailnet (IP literal; loopback unless you mean otherwise)
 *   socket              path of a Unix socket that speaks the LocalAPI
 *   log_level           error | warn | info | debug */
TAILNET_API int tailnet_set(tailnet *t, const char *option, const char *value);

/* Reads the configuration file and the files that hold proxy URLs anew, and puts what they say of the options that may be set at
 * any time in force. Flows under way stay. An error (detail in tailnet_error) leaves exit traffic off until a later reload succeeds. */
TAILNET_API int tailnet_reload(tailnet *t);

/* Where log lines go; default: nowhere. To be set before the start. Called on the node's thread, and by tailnet_start on its
 * caller's; must not call this library. */
TAILNET_API void tailnet_set_log(tailnet *t, void (*log)(void *ctx, int level, const char *module, const char *line),
                                 void *ctx);

/* Starts the node's thread and begins to connect. Returns at once. -EBUSY: another process or node uses state_dir;
 * TAILNET_ESTATE: its state file is damaged. Harmless when already started. */
TAILNET_API int tailnet_start(tailnet *t);

/* Starts if need be and waits until the node is usable: authorized, its addresses known, and reachable by its peers.
 * -ETIMEDOUT, -ECANCELED, TAILNET_EPROTO when the server refuses us. When a person must log in it goes on waiting (the URL
 * is logged at info and tailnet_auth_url has it), except with timeout 0: TAILNET_ENEEDLOGIN. */
TAILNET_API int tailnet_up(tailnet *t, int timeout_ms);

/* The URL to visit, or TAILNET_ENEEDLOGIN's absence: -ENOENT when no login is pending. Free with tailnet_free. */
TAILNET_API int tailnet_auth_url(tailnet *t, char **url);

/* Own addresses as text; "" where there is none. Buffers of at least 16 and 46 bytes; either may be NULL. -ENOTCONN before
 * the node knows them. */
TAILNET_API int tailnet_addresses(tailnet *t, char *ip4, size_t len4, char *ip6, size_t len6);

/* Opens a TCP connection to "host:port" or "[ip6]:port"; host is a peer's name (short or full), or an IP address. *fd is a
 * stream socket for read, write, poll, shutdown and close, blocking until you set O_NONBLOCK. Closing it ends the connection.
 * A connection that breaks reads as end of file, and writing to it fails: where that matters, the protocol must tell its end.
 * network: "tcp". -ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH, -ENOENT, -ENOTCONN (node not up). */
TAILNET_API int tailnet_dial(tailnet *t, const char *network, const char *address, int timeout_ms, int *fd);

/* Listens on the node's own addresses: ":port" or "ip:port"; network "tcp". Needs the node to be started. -EADDRINUSE. */
TAILNET_API int tailnet_listen(tailnet *t, const char *network, const char *address, tailnet_listener **out);
/* A descriptor that polls readable while a connection waits; owned by the listener. */
TAILNET_API int tailnet_listener_fd(tailnet_listener *l);
/* Takes a connection. remote (may be NULL) gets "ip:port" of the peer, 56 bytes are enough. -ETIMEDOUT, -EAGAIN (timeout 0),
 * -ECANCELED, TAILNET_ECLOSED. */
TAILNET_API int tailnet_accept(tailnet_listener *l, int timeout_ms, int *fd, char *remote, size_t remote_len);
/* Ends the listener and every tailnet_accept that waits at it (TAILNET_ECLOSED); connections that were accepted live on. Must come
 * before tailnet_close. */
TAILNET_API void tailnet_listener_close(tailnet_listener *l);

/* ---- Streams: connections without descriptors ----
 *
 * The faster way, for programs that can work on the node's thread: handlers are called there, and they see the bytes
 * where the TCP stack keeps them. No copy to a socket, no system call, no switch of threads. A handler that works long
 * holds up all traffic of the node.
 *
 * Except where it says "any thread", functions here may be called on the node's thread only: from a handler, or from a
 * function given to tailnet_run. Handlers are structs that live as long as the stream (constants, usually); any may be
 * NULL. A stream is gone when `closed` is called, and when tailnet_stream_close or _abort was called, after which no
 * handler is; both may be called in any handler but `closed`. */
typedef struct tailnet_stream tailnet_stream;
typedef struct tailnet_stream_listener tailnet_stream_listener;

typedef struct tailnet_stream_handlers {
    void (*open)(void *ctx, tailnet_stream *s);     /* a dialed stream's handshake is complete */
    void (*readable)(void *ctx, tailnet_stream *s); /* there are new bytes, or their end */
    void (*writable)(void *ctx, tailnet_stream *s); /* after a reserve or write that got less than it wanted */
    /* err 0: both sides have ended and all was delivered; else -ECONNRESET, -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH,
     * TAILNET_ECLOSED when the node stops. */
    void (*closed)(void *ctx, int err);
} tailnet_stream_handlers;

/* Any thread: runs fn(ctx) on the node's thread and waits for it. TAILNET_ECLOSED when the node is not running. */
TAILNET_API int tailnet_run(tailnet *t, void (*fn)(void *ctx), void *ctx);

/* Any thread: begins to connect to "host:port" (see tailnet_dial); `open` or `closed` follows. On failure, with a code as of
 * tailnet_dial, nothing follows. out may be NULL. */
TAILNET_API int tailnet_stream_dial(tailnet *t, const char *address, const tailnet_stream_handlers *h, void *ctx,
                                    tailnet_stream **out);
/* Any thread: listens as tailnet_listen does. accept is given each new stream, and calls tailnet_stream_handle for it or
 * closes it; bytes that are there already are announced afterwards. */
TAILNET_API int tailnet_stream_listen(tailnet *t, const char *address, void (*accept)(void *ctx, tailnet_stream *s),
                                      void *ctx, tailnet_stream_listener **out);
/* Any thread, before tailnet_close. Streams that were accepted live on. */
TAILNET_API void tailnet_stream_listener_close(tailnet_stream_listener *l);

TAILNET_API void tailnet_stream_handle(tailnet_stream *s, const tailnet_stream_handlers *h, void *ctx);
/* "ip:port" of the other end; 56 bytes are enough. */
TAILNET_API void tailnet_stream_remote(tailnet_stream *s, char *text, size_t len);

/* Up to n views of received bytes, in order; returns how many views (0: nothing now). They stay valid until the next call
 * for this stream. consume takes len bytes off the front, which lets the peer send more. */
TAILNET_API int tailnet_stream_peek(tailnet_stream *s, struct iovec *views, int n);
TAILNET_API void tailnet_stream_consume(tailnet_stream *s, size_t len);
/* 1 when all bytes were consumed and the peer has ended its side. */
TAILNET_API int tailnet_stream_ended(tailnet_stream *s);

/* Room for up to want bytes, to be written into in order, at most n views; returns how many (0: none now, `writable`
 * follows). commit sends the first len bytes of them; it must follow every reserve, 0 gives them back. */
TAILNET_API int tailnet_stream_reserve(tailnet_stream *s, struct iovec *views, int n, size_t want);
TAILNET_API void tailnet_stream_commit(tailnet_stream *s, size_t len);
/* Both with a copy; returns how many bytes were taken (`writable` follows when fewer than len), or -EPIPE. */
TAILNET_API long tailnet_stream_write(tailnet_stream *s, const void *bytes, size_t len);

/* The end of our side, behind all that was written; reading goes on. */
TAILNET_API void tailnet_stream_shutdown(tailnet_stream *s);
/* Done with it: what was written is still delivered. */
TAILNET_API void tailnet_stream_close(tailnet_stream *s);
/* Done with it at once: the peer is told by a reset. */
TAILNET_API void tailnet_stream_abort(tailnet_stream *s);

/* The node's status as JSON (the LocalAPI's status document). Free with tailnet_free. */
TAILNET_API int tailnet_status(tailnet *t, char **json);

/* Logs out: the server forgets this node's key; the next start needs a login. Blocks up to timeout_ms. */
TAILNET_API int tailnet_logout(tailnet *t, int timeout_ms);

/* Ends every blocking call on this node, in whatever thread, with -ECANCELED. Async-signal-safe; the node lives on. */
TAILNET_API void tailnet_cancel(tailnet *t);

/* Detail of the last failure on this node, copied into buf (always terminated). */
TAILNET_API void tailnet_error(tailnet *t, char *buf, size_t len);

TAILNET_API void tailnet_free(void *string);

/* Stops the thread, closes everything, frees the node. Connections end. An ephemeral node logs out first (2 s at most). NULL is
 * fine. */
TAILNET_API void tailnet_close(tailnet *t);

#ifdef __cplusplus
}
#endif
#endif
