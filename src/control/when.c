#include "control/when.h"
#include "util/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Days since 1970-01-01 of a proleptic Gregorian date (H. Hinnant's civil calendar arithmetic). */
static int64_t days_from_civil(int64_t y, int m, int d)
{
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

/* n digits at *p; moves past them. -1 when they are not all digits. */
static int digits(const char **p, int n)
{
    int value = 0;
    for (int i = 0; i < n; i++, (*p)++) {
        if (**p < '0' || **p > '9') return -1;
        value = value * 10 + (**p - '0');
    }
    return value;
}

static bool skip(const char **p, char c)
{
    if (**p != c) return false;
    (*p)++;
    return true;
}

static bool in_range(int y, int mon, int d, int h, int min, int s)
{
    return y >= 0 && mon >= 1 && mon <= 12 && d >= 1 && d <= 31 && h >= 0 && h <= 23 && min >= 0 && min <= 59 &&
           s >= 0 && s <= 60;
}

/* "Z", "+hh:mm" or "-hh:mm": seconds east of UTC. */
static int parse_offset(const char *p, int64_t *east)
{
    if (*p == 'Z' || *p == 'z') {
        *east = 0;
        return p[1] == '\0' ? 0 : TN_E_MALFORMED;
    }
    int sign = *p == '+' ? 1 : *p == '-' ? -1 : 0;
    if (sign == 0) return TN_E_MALFORMED;
    p++;
    int h = digits(&p, 2);
    if (h < 0 || h > 23 || !skip(&p, ':')) return TN_E_MALFORMED;
    int m = digits(&p, 2);
    if (m < 0 || m > 59 || *p != '\0') return TN_E_MALFORMED;
    *east = sign * (h * 3600 + m * 60);
    return 0;
}

int tn_when_parse(const char *text, int64_t *out)
{
    const char *p = text;
    int y = digits(&p, 4);
    if (y < 0 || !skip(&p, '-')) return TN_E_MALFORMED;
    int mon = digits(&p, 2);
    if (mon < 0 || !skip(&p, '-')) return TN_E_MALFORMED;
    int d = digits(&p, 2);
    if (d < 0 || !(skip(&p, 'T') || skip(&p, 't'))) return TN_E_MALFORMED;
    int h = digits(&p, 2);
    if (h < 0 || !skip(&p, ':')) return TN_E_MALFORMED;
    int min = digits(&p, 2);
    if (min < 0 || !skip(&p, ':')) return TN_E_MALFORMED;
    int s = digits(&p, 2);
    if (!in_range(y, mon, d, h, min, s)) return TN_E_MALFORMED;
    if (skip(&p, '.')) {
        if (*p < '0' || *p > '9') return TN_E_MALFORMED;
        while (*p >= '0' && *p <= '9') p++;
    }
    int64_t east;
    if (parse_offset(p, &east) != 0) return TN_E_MALFORMED;
    *out = y < 2 ? 0 : days_from_civil(y, mon, d) * 86400 + h * 3600 + min * 60 + s - east;
    return 0;
}

const char *tn_when_format(int64_t unix_s, char buf[TN_WHEN_STRLEN])
{
    if (unix_s <= 0 || unix_s >= INT64_C(253402300800)) { /* beyond year 9999 nothing is representable */
        snprintf(buf, TN_WHEN_STRLEN, "0001-01-01T00:00:00Z");
        return buf;
    }
    int64_t days = unix_s / 86400, rest = unix_s % 86400;
    int64_t z = days + 719468, era = z / 146097, doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    int d = (int)(doy - (153 * mp + 2) / 5 + 1), m = (int)(mp < 10 ? mp + 3 : mp - 9);
    int y = (int)(yoe + era * 400 + (m <= 2));
    snprintf(buf, TN_WHEN_STRLEN, "%04u-%02u-%02uT%02u:%02u:%02uZ", (unsigned)y % 10000, (unsigned)m % 100,
             (unsigned)d % 100, (unsigned)(rest / 3600), (unsigned)(rest / 60 % 60), (unsigned)(rest % 60));
    return buf;
}

static int month(const char *p)
{
    static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    for (int i = 0; i < 12; i++)
        if (strncmp(p, names + 3 * i, 3) == 0) return i + 1;
    return -1;
}

int tn_when_parse_http(const char *text, int64_t *out)
{
    if (strlen(text) != 29 || strcmp(text + 25, " GMT") != 0 || memcmp(text + 3, ", ", 2) != 0) return TN_E_MALFORMED;
    const char *p = text + 5;
    int d = digits(&p, 2);
    if (d < 0 || !skip(&p, ' ')) return TN_E_MALFORMED;
    int mon = month(p);
    if (mon < 0 || p[3] != ' ') return TN_E_MALFORMED;
    p += 4;
    int y = digits(&p, 4);
    if (y < 0 || !skip(&p, ' ')) return TN_E_MALFORMED;
    int h = digits(&p, 2);
    if (h < 0 || !skip(&p, ':')) return TN_E_MALFORMED;
    int min = digits(&p, 2);
    if (min < 0 || !skip(&p, ':')) return TN_E_MALFORMED;
    int s = digits(&p, 2);
    if (!in_range(y, mon, d, h, min, s)) return TN_E_MALFORMED;
    *out = days_from_civil(y, mon, d) * 86400 + h * 3600 + min * 60 + s;
    return 0;
}
