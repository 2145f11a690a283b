/* How scratch memory is had, laid out, and watched.
 *
 * Built with AddressSanitizer, scratch is always of the heap, and what lies between its pieces is forbidden:
 * at least GAP bytes, from the first that is no piece's. Else these cost nothing.
 */
#ifndef FASTCONV_SCRATCH_H
#define FASTCONV_SCRATCH_H

#include <Python.h>
#include <stddef.h>
#include <stdlib.h>

enum { CACHE_LINE = 64 };

#if defined(__SANITIZE_ADDRESS__) /* GCC */
#define FASTCONV_WATCHED
#elif defined(__has_feature) /* Clang */
#if __has_feature(address_sanitizer)
#define FASTCONV_WATCHED
#endif
#endif

#if defined(FASTCONV_WATCHED)
#include <sanitizer/asan_interface.h>
enum { WATCHED = 1, GAP = CACHE_LINE, STACK_SCRATCH = 0 };
static inline void forbid(char *memory, ptrdiff_t size) { __asan_poison_memory_region(memory, size); }
static inline void allow(char *memory, ptrdiff_t size) { __asan_unpoison_memory_region(memory, size); }
#else
/* STACK_SCRATCH: that of a call on one thread which the stack holds: malloc and free took 0.1 us of a tiny call. */
enum { WATCHED = 0, GAP = 0, STACK_SCRATCH = 1 << 13 };
static inline void forbid(char *memory, ptrdiff_t size) { (void)memory, (void)size; }
static inline void allow(char *memory, ptrdiff_t size) { (void)memory, (void)size; }
#endif

/* What calls are done with, all kernels keep for the next: the largest blocks, as many as a call has at a time.
 * Given back to the C library, they may go on to the system each time, and come back page by page. (Two threads,
 * 4 MB: 1.6 ms of work took up to 5 ms.) Not for those who look for errors in the use of memory.
 */
enum { KEPT_BLOCKS = 3 };

typedef struct {
    size_t size; /* of the bytes that follow */
} Block;

typedef struct {
    int off;
    char busy; /* who finds it so does without */
    Block *block[KEPT_BLOCKS];
} Kept;

/* Those of `_cpu`; NULL, with an exception, if it cannot be imported. */
static inline Kept *kept_blocks(void)
{
    static Kept *kept = NULL;
    if (kept == NULL)
        kept = (Kept *)PyCapsule_Import("fastconv._kernels._cpu.kept_blocks", 0);
    return kept;
}

static inline int enter(Kept *kept) { return !kept->off && !__atomic_test_and_set(&kept->busy, __ATOMIC_ACQUIRE); }
static inline void leave(Kept *kept) { __atomic_clear(&kept->busy, __ATOMIC_RELEASE); }

/* At least so many bytes, or NULL. */
static inline char *take_block(Kept *kept, size_t size)
{
    Block *block = NULL;
    if (enter(kept)) {
        int best = -1;
        for (int i = 0; i < KEPT_BLOCKS; i++)
            if (kept->block[i] != NULL && kept->block[i]->size >= size
                && (best < 0 || kept->block[i]->size < kept->block[best]->size))
                best = i;
        if (best >= 0) {
            block = kept->block[best];
            kept->block[best] = NULL;
        }
        leave(kept);
    }
    if (block == NULL) {
        block = (Block *)malloc(sizeof(Block) + size);
        if (block == NULL)
            return NULL;
        block->size = size;
    }
    return (char *)(block + 1);
}

static inline void keep_block(Kept *kept, char *memory)
{
    Block *block = (Block *)memory - 1;
    allow(memory, block->size);
    if (enter(kept)) {
        for (int i = 0; i < KEPT_BLOCKS && block != NULL; i++) {
            Block *other = kept->block[i];
            if (other == NULL || other->size < block->size) {
                kept->block[i] = block;
                block = other;
            }
        }
        leave(kept);
    }
    free(block);
}

#endif
