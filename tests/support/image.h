// Files that tests export: a temporary directory that goes away with the test,
// images with a known pattern or with holes, and what the kernel knows of them
// (allocation, dirty pages).

#ifndef NBDINETD_TESTS_SUPPORT_IMAGE_H_
#define NBDINETD_TESTS_SUPPORT_IMAGE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "wire.h"

namespace nbdtest {

// The bytes that a pattern image holds at [offset, offset + length). Every
// 8-byte word differs from its neighbours, so that a reply from the wrong place
// is never taken for the right one.
Bytes Pattern(uint64_t offset, size_t length, uint64_t seed = 1);

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A stretch of a file, as lseek(SEEK_DATA) and lseek(SEEK_HOLE) tell it.
struct Segment {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool hole = false;
};

// The first sector of a disk that has an MBR with one partition.
Bytes MbrOf(uint8_t first_sector, uint8_t sectors);

// An image file in a directory of its own.
class TempImage {
 public:
  // Holds Pattern(0, size).
  static TempImage WithPattern(uint64_t size, uint64_t seed = 1);
  // One hole from end to end.
  static TempImage Sparse(uint64_t size);
  ~TempImage();
  TempImage(TempImage&& other) noexcept;
  TempImage& operator=(TempImage&&) = delete;

  const std::string& path() const { return path_; }
  const std::string& directory() const { return directory_; }
  uint64_t size() const;

  Bytes Read(uint64_t offset, size_t length) const;
  void Write(uint64_t offset, std::string_view bytes) const;
  void Truncate(uint64_t size) const;
  // Writes the data out and forgets what the page cache has of the file.
  void DropCache() const;

  // Bytes of storage that the file occupies.
  uint64_t AllocatedBytes() const;
  std::vector<Segment> Segments() const;
  // Whether the file system can punch holes, and zero a range without
  // deallocating it; tried on a scratch file beside the image.
  bool CanPunchHoles() const;
  bool CanZeroRanges() const;

  // Pages in [offset, offset + length) that are dirty or under writeback;
  // nothing where the kernel can't tell (cachestat(2) came with Linux 6.5).
  std::optional<uint64_t> UnwrittenPages(uint64_t offset,
                                         uint64_t length) const;
  // Whether UnwrittenPages() sees a freshly written page of this file system at
  // all.
  bool SeesUnwrittenPages() const;

 private:
  TempImage(std::string directory, std::string path);

  std::string directory_;
  std::string path_;
  int fd_;
};

// Whether `condition` is once true right after the page cache has dropped what
// it has of the image. One try is not enough: RWF_NOWAIT starts the read of
// what isn't cached, and fast storage may have read it before the next question
// of `condition`.
template <typename AnyImage, typename Condition>
bool OnceDropped(const AnyImage& image, Condition condition) {
  constexpr int kTries = 1000;
  for (int tries = 0; tries < kTries; ++tries) {
    image.DropCache();
    if (condition()) return true;
  }
  return false;
}

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_IMAGE_H_
