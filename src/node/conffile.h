/* The text of a configuration file: lines, sections, and nothing of what they mean.
 *
 *   # a comment is a line of its own
 *   key = value              white space around both is not part of them; a value may stand in double quotes
 *   [kind] or [kind name]    what follows belongs to it, up to the next
 *
 * Every line ends with a newline: a file that is cut short is one that somebody is still writing. */
#ifndef TN_NODE_CONFFILE_H
#define TN_NODE_CONFFILE_H

#include <stddef.h>

enum { TN_CONFFILE_MAX = 1024 * 1024, TN_CONFFILE_LINE_MAX = 16 * 1024 };

struct tn_confline {
    unsigned number;          /* from 1 */
    const char *kind, *name;  /* of the section; "" before the first, and where it has no name */
    const char *key, *value;  /* NULL at the line that begins a section; '-' in keys is '_' already */
};

/* Calls each(ctx, line) for every section head and every setting. It returns 0 to go on; another value ends it. text is
 * overwritten. 0, what each returned, or TN_E_MALFORMED with *line and one line of why, which repeats nothing of the file. */
int tn_conffile_parse(char *text, size_t len, int (*each)(void *ctx, const struct tn_confline *l), void *ctx, unsigned *line,
                      char why[128]);

#endif
