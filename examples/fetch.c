/* Fetches a page from a peer of the tailnet:  TS_AUTHKEY=... ./fetch server:80 /
 *
 *     cc fetch.c $(pkg-config --cflags --libs libtailnet) -o fetch */
#include <tailnet.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void show_log(void *ctx, int level, const char *module, const char *line) { fprintf(stderr, "%s: %s\n", module, line); }

static int fail(tailnet *t, const char *what, int err)
{
    char why[256];
    tailnet_error(t, why, sizeof why);
    fprintf(stderr, "%s: %s (%s)\n", what, tailnet_strerror(err), why);
    tailnet_close(t);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: fetch HOST:PORT PATH\n");
        return 2;
    }
    tailnet *t;
    int fd, err = tailnet_new(&t);
    if (err) return 1;
    tailnet_set_log(t, show_log, NULL);
    if ((err = tailnet_set(t, "hostname", "fetch")) || (err = tailnet_set(t, "auth_key", getenv("TS_AUTHKEY"))) ||
        (err = tailnet_set(t, "login_server", getenv("TS_CONTROL_URL"))))
        return fail(t, "settings", err);
    if ((err = tailnet_up(t, 30000))) return fail(t, "up", err);
    if ((err = tailnet_dial(t, "tcp", argv[1], 10000, &fd))) return fail(t, "dial", err);

    dprintf(fd, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", argv[2], argv[1]);
    char bytes[16384];
    for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) fwrite(bytes, 1, (size_t)n, stdout);
    close(fd);
    tailnet_close(t);
    return 0;
}
