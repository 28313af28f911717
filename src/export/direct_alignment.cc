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

constexpr uint64_t kMinBlock = 512;
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

bool IsServed(uint64_t alignment) {
  return std::has_single_bit(alignment) && alignment <= kMaxDirectAlignment;
}

// Of a file that `st` tells of.
std::optional<DirectAlignment> ToldAlignment(const Statx& st) {
  // 0: the file system has only the page cache.
  if (st.dio_offset_align == 0) return std::nullopt;
  const DirectAlignment told = {
      std::max<uint64_t>(st.dio_offset_align, kMinBlock),
      std::max<uint64_t>(st.dio_mem_align, 1)};
  if (!IsServed(told.block) || !IsServed(told.memory)) return std::nullopt;
  return told;
}

struct Free {
  void operator()(char* buffer) const { std::free(buffer); }
};

// The smallest one from kMinBlock on that `is_enough`; 0 for none.
uint64_t FirstThat(absl::FunctionRef<bool(uint64_t)> is_enough) {
  for (uint64_t size = kMinBlock; size <= kMaxDirectAlignment; size *= 2) {
    if (is_enough(size)) return size;
  }
  return 0;
}

}  // namespace

std::optional<DirectAlignment> TryDirectAlignments(
    absl::FunctionRef<bool(char* address, uint64_t length)> read) {
  const std::unique_ptr<char, Free> buffer(static_cast<char*>(
      std::aligned_alloc(kMaxDirectAlignment, 2 * kMaxDirectAlignment)));
  if (buffer == nullptr) return std::nullopt;
  const uint64_t block =
      FirstThat([&](uint64_t size) { return read(buffer.get(), size); });
  if (block == 0) return std::nullopt;
  // Memory that is aligned to `size`, and to no more.
  const uint64_t memory = FirstThat(
      [&](uint64_t size) { return read(buffer.get() + size, block); });
  if (memory == 0) return std::nullopt;
  return DirectAlignment{block, memory};
}

std::optional<DirectAlignment> FindDirectAlignment(int fd) {
  Statx st = {};
  if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, kStatxDioAlign, &st) == 0 &&
      (st.mask & kStatxDioAlign) != 0) {
    return ToldAlignment(st);
  }
  return TryDirectAlignments([fd](char* address, uint64_t length) {
    // Readers of this block will see every other error.
    return pread(fd, address, length, 0) >= 0 || errno != EINVAL;
  });
}

}  // namespace nbdinetd
