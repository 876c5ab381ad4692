#include "node/conffile.h"

#include "util/err.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { NAME_MAX_LEN = 63 };

static int bad(char why[128], const char *text)
{
    snprintf(why, 128, "%s", text);
    return TN_E_MALFORMED;
}

static char *trim(char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    size_t len = strlen(s);
    while (len && (s[len - 1] == ' ' || s[len - 1] == '\t' || s[len - 1] == '\r')) len--;
    s[len] = '\0';
    return s;
}

static int parse_head(char *s, struct tn_confline *l, char why[128])
{
    size_t len = strlen(s);
    if (s[len - 1] != ']') return bad(why, "the section's bracket is not closed");
    s[len - 1] = '\0';
    char *kind = trim(s + 1), *name = kind + strcspn(kind, " \t");
    if (*name) *name++ = '\0';
    name = trim(name);
    if (!*kind || strlen(name) > NAME_MAX_LEN || strpbrk(name, " \t[]")) return bad(why, "not a section such as [proxy NAME]");
    l->kind = kind;
    l->name = name;
    l->key = l->value = NULL;
    return 0;
}

static int parse_setting(char *s, struct tn_confline *l, char why[128])
{
    char *eq = strchr(s, '=');
    if (!eq) return bad(why, "neither key = value nor a section");
    *eq = '\0';
    char *key = trim(s), *value = trim(eq + 1);
    if (!*key) return bad(why, "a key is missing");
    for (char *c = key; *c; c++) {
        if (*c == '-') *c = '_';
        if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && *c != '_') return bad(why, "not a key");
    }
    size_t len = strlen(value);
    if (value[0] == '"') {
        if (len < 2 || value[len - 1] != '"') return bad(why, "the quotes are not closed");
        value[len - 1] = '\0';
        value++;
    }
    l->key = key;
    l->value = value;
    return 0;
}

int tn_conffile_parse(char *text, size_t len, int (*each)(void *ctx, const struct tn_confline *l), void *ctx, unsigned *line,
                      char why[128])
{
    struct tn_confline l = {.kind = "", .name = ""};
    why[0] = '\0';
    *line = 0;
    if (len > TN_CONFFILE_MAX) return bad(why, "the file is too long");
    while (len > 0) {
        char *end = memchr(text, '\n', len);
        *line = ++l.number;
        if (!end) return bad(why, "the last line has no end: is the file complete?");
        size_t n = (size_t)(end - text);
        if (n > TN_CONFFILE_LINE_MAX) return bad(why, "the line is too long");
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)text[i] < ' ' && text[i] != '\t' && !(text[i] == '\r' && i + 1 == n))
                return bad(why, "a control character");
        *end = '\0';
        char *s = trim(text);
        int err = 0;
        if (*s && *s != '#') err = *s == '[' ? parse_head(s, &l, why) : parse_setting(s, &l, why);
        if (!err && *s && *s != '#') err = each(ctx, &l);
        if (err) return err;
        text = end + 1;
        len -= n + 1;
    }
    return 0;
}
