/* Logging: a callback with level, module and node. Lifecycle at info; what a peer or a stranger can trigger is a
 * counter, at most debug. Secrets have no formatter (secret.h) and so can't get here. */
#ifndef TN_UTIL_LOG_H
#define TN_UTIL_LOG_H

enum tn_log_level { TN_LOG_ERROR, TN_LOG_WARN, TN_LOG_INFO, TN_LOG_DEBUG };

struct tn_log {
    /* One line without a newline. Called on the thread that logs; must not call back into the node. */
    void (*write)(void *ctx, enum tn_log_level level, const char *module, const char *line);
    void *ctx;
    enum tn_log_level max; /* more verbose levels are not formatted */
};

/* log may be NULL: silence. Control characters in the formatted line are replaced by '?': a peer's words can't forge
 * a line. Lines are cut at 1,000 bytes. */
void tn_logf(const struct tn_log *log, enum tn_log_level level, const char *module, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
