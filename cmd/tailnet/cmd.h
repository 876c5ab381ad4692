/* What the subcommands of the tailnet binary share. */
#ifndef TN_CMD_CMD_H
#define TN_CMD_CMD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

int cmd_run(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_ping(int argc, char **argv);
int cmd_netcheck(int argc, char **argv);
int cmd_dev(int argc, char **argv);
int cmd_egress(int argc, char **argv);
int cmd_set(int argc, char **argv);

/* Exit codes: 0 fine, 1 it failed, 2 the command line is wrong. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* One line on stderr, "tailnet: ..." */
void cmd_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Values of a command's long options begin here: so it is known whether getopt_long complains of a letter. */
enum { CMD_LONG = 256 };

/* After getopt_long returned '?' or ':' (its short options begin with ':', opterr is 0): one line that names the
 * flag. EXIT_USAGE. */
int cmd_bad_flag(const char *command, char *const *argv, int c);
/* A word that a command does not take. EXIT_USAGE. */
int cmd_bad_word(const char *command, const char *word);

/* Default places: root's are in /var/lib and /run, a user's in the XDG directories. The result is the caller's;
 * NULL: no memory. */
char *cmd_default_state(void);
char *cmd_default_socket(void);

/* One LocalAPI request over the Unix socket. *body is malloc'd and terminated; status the HTTP status. 0, or a
 * negative code after a complaint. */
int cmd_local_request(const char *socket_path, const char *method, const char *target, int timeout_ms, int *status,
                      char **body);
/* The same with a JSON body. */
int cmd_local_send(const char *socket_path, const char *method, const char *target, const char *json, int timeout_ms,
                   int *status, char **body);
/* GET status as JSON, or NULL after a complaint. */
json_t *cmd_local_status(const char *socket_path);

#endif
