/* An echo server on the tailnet, one poll loop for all its connections:  TS_AUTHKEY=... ./echo :7
 *
 *     cc echo.c $(pkg-config --cflags --libs libtailnet) -o echo
 *
 * Descriptors of libtailnet are ordinary ones: poll, read and write them as you would a socket. */
#include <tailnet.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX = 64 };
static volatile sig_atomic_t stopping;

static void stop(int sig) { stopping = 1; }
static void show_log(void *ctx, int level, const char *module, const char *line) { fprintf(stderr, "%s: %s\n", module, line); }

static int fail(tailnet *t, const char *what, int err)
{
    char why[256];
    tailnet_error(t, why, sizeof why);
    fprintf(stderr, "%s: %s (%s)\n", what, tailnet_strerror(err), why);
    tailnet_close(t);
    return 1;
}

/* Sends back what came; 0 when the connection is over. */
static int echo(int fd)
{
    char bytes[4096];
    ssize_t n = read(fd, bytes, sizeof bytes);
    for (ssize_t sent = 0, w; sent < n; sent += w)
        if ((w = write(fd, bytes + sent, (size_t)(n - sent))) < 0) return 0;
    return n > 0;
}

int main(int argc, char **argv)
{
    tailnet *t;
    tailnet_listener *l;
    int err = tailnet_new(&t);
    if (err) return 1;
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    signal(SIGPIPE, SIG_IGN);
    tailnet_set_log(t, show_log, NULL);
    if ((err = tailnet_set(t, "hostname", "echo")) || (err = tailnet_set(t, "state_dir", getenv("TS_STATE_DIR"))) ||
        (err = tailnet_set(t, "auth_key", getenv("TS_AUTHKEY"))) ||
        (err = tailnet_set(t, "login_server", getenv("TS_CONTROL_URL"))))
        return fail(t, "settings", err);
    if ((err = tailnet_up(t, 60000))) return fail(t, "up", err);
    if ((err = tailnet_listen(t, "tcp", argc > 1 ? argv[1] : ":7", &l))) return fail(t, "listen", err);

    char ip4[16], ip6[46];
    tailnet_addresses(t, ip4, sizeof ip4, ip6, sizeof ip6);
    printf("ready on %s %s\n", ip4, ip6);
    fflush(stdout);

    struct pollfd p[MAX + 1] = {{.fd = tailnet_listener_fd(l), .events = POLLIN}};
    int n = 1;
    while (!stopping && poll(p, (nfds_t)n, -1) >= 0) {
        for (int i = n - 1; i >= 1; i--) {
            if (!p[i].revents || echo(p[i].fd)) continue;
            close(p[i].fd);
            p[i] = p[--n];
        }
        int fd;
        if (p[0].revents && n <= MAX && tailnet_accept(l, 0, &fd, NULL, 0) == 0) p[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    while (n > 1) close(p[--n].fd);
    tailnet_listener_close(l);
    tailnet_close(t);
    return 0;
}
