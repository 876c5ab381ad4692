/* The client side of the LocalAPI: one request, one connection, blocking with a time limit. */
#include "cmd.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/secret.h"
#include "wire/http1.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 16 * 1024, REPLY_MAX = 64 * 1024 * 1024 }; /* a status with 10,000 peers is some 15 MB */

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int open_socket(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof sa.sun_path) return TN_E_TOOBIG;
    strcpy(sa.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

static int read_all(int fd, int timeout_ms, struct tn_buf *reply)
{
    int64_t until = now_ms() + timeout_ms;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = until - now_ms();
        if (left <= 0) return TN_E_TIMEDOUT;
        int n = poll(&p, 1, (int)left);
        if (n < 0 && errno != EINTR) return -errno;
        if (n <= 0) continue;
        char bytes[16384];
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got == 0) return 0;
        if (got < 0 && errno != EINTR) return -errno;
        if (got > 0 && tn_buf_append(reply, bytes, (size_t)got) != 0) return TN_E_TOOBIG;
    }
}

static int split(struct tn_buf *reply, int *status, char **body)
{
    struct tn_http1_head head;
    long len = tn_http1_parse_response(tn_buf_data(reply), tn_buf_len(reply), HEAD_MAX, &head);
    if (len <= 0) return TN_E_MALFORMED;
    const uint8_t *bytes = tn_buf_data(reply) + len;
    size_t left = tn_buf_len(reply) - (size_t)len, used = 0;
    char *out = malloc(left + 1);
    if (!out) return TN_E_NOMEM;
    if (tn_http1_is_chunked(&head)) {
        struct tn_http1_chunked c = {0};
        while (left > 0 && !c.done) {
            const uint8_t *data;
            size_t n;
            long took = tn_http1_dechunk(&c, bytes, left, &data, &n);
            if (took <= 0) break;
            memcpy(out + used, data, n);
            used += n;
            bytes += took;
            left -= (size_t)took;
        }
    } else {
        memcpy(out, bytes, left);
        used = left;
    }
    out[used] = '\0';
    *status = head.status;
    *body = out;
    return 0;
}

int cmd_local_send(const char *path, const char *method, const char *target, const char *json, int timeout_ms, int *status,
                   char **body)
{
    char *request = NULL;
    int len = asprintf(&request,
                       "%s %s HTTP/1.1\r\nHost: local-tailscaled.sock\r\nConnection: close\r\n%s"
                       "Content-Length: %zu\r\n\r\n%s",
                       method, target, *json ? "Content-Type: application/json\r\n" : "", strlen(json), json);
    if (len < 0) {
        cmd_complain("%s", tn_err_text(TN_E_NOMEM));
        return TN_E_NOMEM;
    }
    int fd = open_socket(path);
    if (fd < 0) {
        bool absent = fd == -ENOENT || fd == -ECONNREFUSED || fd == -ENOTDIR;
        cmd_complain("%s: %s%s", path, tn_err_text(fd),
                     absent              ? ": no node runs there (start tailnet run, or name its --socket PATH)"
                     : fd == -EACCES     ? " (the node is another user's)"
                     : fd == TN_E_TOOBIG ? " (a socket's path has at most 107 bytes)"
                                         : "");
        free(request);
        return fd;
    }
    struct tn_buf reply;
    tn_buf_init(&reply, REPLY_MAX);
    int err = send(fd, request, (size_t)len, MSG_NOSIGNAL) == len ? read_all(fd, timeout_ms, &reply) : -errno;
    if (!err) err = split(&reply, status, body);
    if (err) cmd_complain("%s: %s", path, tn_err_text(err));
    tn_buf_fini(&reply);
    tn_wipe(request, (size_t)len);
    free(request);
    close(fd);
    return err;
}

int cmd_local_request(const char *path, const char *method, const char *target, int timeout_ms, int *status, char **body)
{
    return cmd_local_send(path, method, target, "", timeout_ms, status, body);
}

json_t *cmd_local_status(const char *path)
{
    int status;
    char *body;
    if (cmd_local_request(path, "GET", "/localapi/v0/status", 10000, &status, &body) != 0) return NULL;
    json_t *root = status == 200 ? json_loads(body, 0, NULL) : NULL;
    if (!root) cmd_complain("%s: answered %d: %.200s", path, status, body);
    free(body);
    return root;
}
