#include "util/err.h"
#include <string.h>

const char *tn_err_text(int err)
{
    switch (err) {
    case TN_OK: return "success";
#define TN_ERR_TEXT(name, value, text)                                                                            \
    case value: return text;
        TN_ERR_MAP(TN_ERR_TEXT)
#undef TN_ERR_TEXT
    }
    if (err < 0 && err > -4096) {
        const char *text = strerrordesc_np(-err);
        if (text) return text;
    }
    return "unknown error";
}

const char *tn_err_name(int err)
{
    switch (err) {
    case TN_OK: return "OK";
#define TN_ERR_NAME(name, value, text)                                                                            \
    case value: return #name;
        TN_ERR_MAP(TN_ERR_NAME)
#undef TN_ERR_NAME
    }
    if (err < 0 && err > -4096) {
        const char *name = strerrorname_np(-err);
        if (name) return name;
    }
    return "UNKNOWN";
}
