/* Gives back memory that only joining the tailnet needed: freed heap, and pages of code and constants.
 *
 * Of an idle node's resident memory three quarters are pages of shared libraries that a TLS handshake or the dynamic linker
 * touched once. They are clean and mapped from files, so dropping them from this process loses nothing: what is used again
 * comes back from the page cache by a minor fault. Only PT_LOAD segments without PF_W are dropped: these were never
 * written (relocations live in the writable ones, RELRO included). Linux: madvise(2), dl_iterate_phdr(3). */
#include "cmd.h"

#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static int drop_clean(struct dl_phdr_info *info, size_t size, void *arg)
{
    uintptr_t page = *(const uintptr_t *)arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || (p->p_flags & PF_W)) continue;
        uintptr_t start = (info->dlpi_addr + p->p_vaddr + page - 1) & ~(page - 1);
        uintptr_t end = (info->dlpi_addr + p->p_vaddr + p->p_memsz) & ~(page - 1);
        if (end > start) (void)madvise((void *)start, end - start, MADV_DONTNEED);
    }
    return 0;
}

void cmd_trim(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    malloc_trim(0);
#ifndef __SANITIZE_ADDRESS__ /* its shadow and its mappings are nobody else's business */
    dl_iterate_phdr(drop_clean, &page);
#endif
}
