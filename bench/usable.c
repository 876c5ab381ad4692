/* Joins the tailnet at URL, dials HOST:PORT, sends a byte and waits for the first one back; prints the milliseconds since the
 * start of main, as tests/peers/tsnetpeer -mode usable does. bench/figures.py and
 * bench/netmap.py run both. With VERBOSE in the environment: what happened when. */
#include <tailnet.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void show_log(void *ctx, int level, const char *module, const char *line)
{
    fprintf(stderr, "%8.2f %s: %s\n", now_ms() - *(double *)ctx, module, line);
}

int main(int argc, char **argv)
{
    double start = now_ms();
    tailnet *t;
    int fd, err;
    char byte = 'x';
    if (argc != 3) {
        fprintf(stderr, "usage: usable LOGIN-SERVER HOST:PORT\n");
        return 2;
    }
    err = tailnet_new(&t);
    if (err) return 1;
    if (getenv("VERBOSE")) tailnet_set_log(t, show_log, &start);
    (void)tailnet_set(t, "log_level", "debug");
    if (!err) err = tailnet_set(t, "login_server", argv[1]);
    if (!err) err = tailnet_set(t, "hostname", "usable");
    if (!err) err = tailnet_set(t, "auth_key", getenv("TS_AUTHKEY"));
    if (!err) err = tailnet_up(t, 30000);
    if (!err) err = tailnet_dial(t, "tcp", argv[2], 15000, &fd);
    if (err) {
        char why[256];
        tailnet_error(t, why, sizeof why);
        fprintf(stderr, "usable: %s (%s)\n", tailnet_strerror(err), why);
        return 1;
    }
    if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) return 1;
    printf("%.2f\n", now_ms() - start);
    fflush(stdout);
    _exit(0); /* what is timed ends here */
}
