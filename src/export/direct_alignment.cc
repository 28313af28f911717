#include "export/direct_alignment.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>

namespace nbdinetd {
namespace {

constexpr uint64_t kMinAlignment = 512;
constexpr unsigned kStatxDioAlign = 0x2000;  // STATX_DIOALIGN

// The layout of struct statx, of which older headers lack the last members.
struct Statx {
  uint32_t mask;
  uint32_t before[37];
  uint32_t dio_mem_align;
  uint32_t dio_offset_align;
  uint32_t behind[24];
};
static_assert(sizeof(Statx) == 256);

// nullopt: neither the kernel nor the file system tells.
std::optional<uint64_t> ToldAlignment(int fd) {
  Statx st = {};
  if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, kStatxDioAlign, &st) != 0 ||
      (st.mask & kStatxDioAlign) == 0) {
    return std::nullopt;
  }
  if (st.dio_offset_align == 0) return 0;
  return std::max<uint64_t>(
      {st.dio_offset_align, st.dio_mem_align, kMinAlignment});
}

struct Free {
  void operator()(char* buffer) const { std::free(buffer); }
};

uint64_t TriedAlignment(int fd) {
  const std::unique_ptr<char, Free> buffer(static_cast<char*>(
      std::aligned_alloc(kMaxDirectAlignment, 2 * kMaxDirectAlignment)));
  if (buffer == nullptr) return 0;
  for (uint64_t size = kMinAlignment; size <= kMaxDirectAlignment; size *= 2) {
    // Memory that is aligned to `size`, and to no more.
    const ssize_t n = pread(fd, buffer.get() + size, size, 0);
    // What else is wrong with this block, its readers will see.
    if (n >= 0 || errno != EINVAL) return size;
  }
  return 0;
}

}  // namespace

uint64_t DirectAlignment(int fd) {
  const std::optional<uint64_t> told = ToldAlignment(fd);
  if (!told.has_value()) return TriedAlignment(fd);
  return std::has_single_bit(*told) && *told <= kMaxDirectAlignment ? *told : 0;
}

}  // namespace nbdinetd
