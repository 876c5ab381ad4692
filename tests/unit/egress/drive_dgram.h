/* The datagrams' part of drive_egress: which verbs it has is said there. */
#ifndef TN_TEST_DRIVE_DGRAM_H
#define TN_TEST_DRIVE_DGRAM_H

#include "egress/egress.h"

void say(const char *fmt, ...); /* drive_egress.c */

/* False: no verb of its own. */
bool drive_dgram(struct tn_egress *e, const char *verb, char *rest);

#endif
