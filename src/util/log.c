#include "util/log.h"

#include <stdarg.h>
#include <stdio.h>

void tn_logf(const struct tn_log *log, enum tn_log_level level, const char *module, const char *fmt, ...)
{
    if (!log || !log->write || level > log->max) return;
    char line[1001];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    log->write(log->ctx, level, module, line);
}
