/* How scratch memory is laid out, and watched.
 *
 * Built with AddressSanitizer, scratch is always of the heap, and what lies between its pieces is forbidden:
 * at least GAP bytes, from the first that is no piece's. Else these cost nothing.
 */
#ifndef FASTCONV_SCRATCH_H
#define FASTCONV_SCRATCH_H

#include <stddef.h>

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
enum { GAP = CACHE_LINE, STACK_SCRATCH = 0 };
static inline void forbid(char *memory, ptrdiff_t size) { __asan_poison_memory_region(memory, size); }
static inline void allow(char *memory, ptrdiff_t size) { __asan_unpoison_memory_region(memory, size); }
#else
/* STACK_SCRATCH: that of a call on one thread which the stack holds: malloc and free took 0.1 us of a tiny call. */
enum { GAP = 0, STACK_SCRATCH = 1 << 13 };
static inline void forbid(char *memory, ptrdiff_t size) { (void)memory, (void)size; }
static inline void allow(char *memory, ptrdiff_t size) { (void)memory, (void)size; }
#endif

#endif
