/* Intrusive doubly linked list. The head is a struct tn_list that points at itself when empty. */
#ifndef TN_UTIL_LIST_H
#define TN_UTIL_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct tn_list {
    struct tn_list *next, *prev;
};

#define TN_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

static inline void tn_list_init(struct tn_list *l) { l->next = l->prev = l; }
static inline bool tn_list_empty(const struct tn_list *l) { return l->next == l; }
static inline void tn_list_push_back(struct tn_list *head, struct tn_list *n)
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}
static inline void tn_list_push_front(struct tn_list *head, struct tn_list *n) { tn_list_push_back(head->next, n); }
/* Removes and re-initialises, so that removing twice is harmless. */
static inline void tn_list_remove(struct tn_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    tn_list_init(n);
}
static inline struct tn_list *tn_list_pop_front(struct tn_list *head)
{
    if (tn_list_empty(head)) return NULL;
    struct tn_list *n = head->next;
    tn_list_remove(n);
    return n;
}
/* The current element may be removed; its successor may not. */
#define TN_LIST_EACH(var, head)                                                                                   \
    for (struct tn_list *var = (head)->next, *var##_next = var->next; var != (head);                              \
         var = var##_next, var##_next = var->next)

#endif
