#include "dev/maps.h"
#include "util/err.h"

#include <stdio.h>
#include <time.h>

const char *tn_dev_rfc3339(int64_t unix_s, char buf[32])
{
    time_t t = (time_t)unix_s;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || !strftime(buf, 32, "%Y-%m-%dT%H:%M:%SZ", &tm))
        snprintf(buf, 32, "1970-01-01T00:00:00Z");
    return buf;
}

static bool digits(const char **p, int n, int *out)
{
    *out = 0;
    for (int i = 0; i < n; i++, (*p)++) {
        if (**p < '0' || **p > '9') return false;
        *out = *out * 10 + (**p - '0');
    }
    return true;
}

static bool expect(const char **p, char c)
{
    if (**p != c) return false;
    (*p)++;
    return true;
}

static bool zone(const char **p, int *seconds)
{
    *seconds = 0;
    if (expect(p, 'Z')) return true;
    int sign = **p == '-' ? -1 : 1, h, m;
    if (**p != '+' && **p != '-') return false;
    (*p)++;
    if (!digits(p, 2, &h) || !expect(p, ':') || !digits(p, 2, &m) || h > 23 || m > 59) return false;
    *seconds = sign * (h * 3600 + m * 60);
    return true;
}

int tn_dev_rfc3339_parse(const char *text, int64_t *out)
{
    const char *p = text;
    int year, mon, day, h, m, s, off, frac;
    if (!digits(&p, 4, &year) || !expect(&p, '-') || !digits(&p, 2, &mon) || !expect(&p, '-') || !digits(&p, 2, &day))
        return TN_E_MALFORMED;
    if (!expect(&p, 'T') || !digits(&p, 2, &h) || !expect(&p, ':') || !digits(&p, 2, &m) || !expect(&p, ':') ||
        !digits(&p, 2, &s))
        return TN_E_MALFORMED;
    if (expect(&p, '.')) {
        if (!digits(&p, 1, &frac)) return TN_E_MALFORMED;
        while (digits(&p, 1, &frac)) {}
    }
    if (!zone(&p, &off) || *p) return TN_E_MALFORMED;
    if (mon < 1 || mon > 12 || day < 1 || day > 31 || h > 23 || m > 59 || s > 60) return TN_E_MALFORMED;
    struct tm tm = {.tm_year = year - 1900, .tm_mon = mon - 1, .tm_mday = day, .tm_hour = h,
                    .tm_min = m, .tm_sec = s};
    *out = year <= 1 ? 0 : (int64_t)timegm(&tm) - off;
    return 0;
}
