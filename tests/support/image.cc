#include "image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <utility>

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

namespace nbdtest {

namespace {

[[noreturn]] void Fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

// On a disk file system rather than in /tmp, which is often a tmpfs: the tests
// ask about holes, fallocate modes and dirty pages, and a tmpfs has only some
// of these.
std::string MakeTempDirectory() {
  const char* parent = std::getenv("TMPDIR");
  std::string path =
      std::string(parent != nullptr ? parent : "/var/tmp") + "/nbdinetd.XXXXXX";
  if (mkdtemp(path.data()) == nullptr)
    Fail("failed to create a temporary directory");
  return path;
}

void RemoveTree(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

uint64_t Mix(uint64_t value) {
  value *= 0x9e3779b97f4a7c15;
  value ^= value >> 29;
  value *= 0xbf58476d1ce4e5b9;
  return value ^ value >> 32;
}

}  // namespace

Bytes Pattern(uint64_t offset, size_t length, uint64_t seed) {
  Bytes bytes(length, '\0');
  for (size_t at = 0; at < length;) {
    const uint64_t position = offset + at;
    const uint64_t word = Mix(position / 8 + (seed << 40));
    const size_t within = position % 8;
    const size_t count = std::min(length - at, size_t{8} - within);
    std::memcpy(bytes.data() + at,
                reinterpret_cast<const char*>(&word) + within, count);
    at += count;
  }
  return bytes;
}

TempDir::TempDir() : path_(MakeTempDirectory()) {}

TempDir::~TempDir() { RemoveTree(path_); }

Bytes MbrOf(uint8_t first_sector, uint8_t sectors) {
  constexpr size_t kEntry = 446;
  Bytes sector(512, '\0');
  sector[kEntry + 4] = '\x83';
  sector[kEntry + 8] = static_cast<char>(first_sector);
  sector[kEntry + 12] = static_cast<char>(sectors);
  sector[510] = '\x55';
  sector[511] = '\xaa';
  return sector;
}

TempImage TempImage::WithPattern(uint64_t size, uint64_t seed) {
  TempImage image = Sparse(size);
  constexpr uint64_t kStep = 1 << 20;
  for (uint64_t at = 0; at < size; at += kStep) {
    image.Write(
        at, Pattern(at, static_cast<size_t>(std::min(kStep, size - at)), seed));
  }
  return image;
}

TempImage TempImage::Sparse(uint64_t size) {
  std::string directory = MakeTempDirectory();
  std::string path = directory + "/image";
  TempImage image(std::move(directory), std::move(path));
  image.Truncate(size);
  return image;
}

TempImage::TempImage(std::string directory, std::string path)
    : directory_(std::move(directory)),
      path_(std::move(path)),
      fd_(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {
  if (fd_ < 0) Fail("failed to create '" + path_ + "'");
}

TempImage::TempImage(TempImage&& other) noexcept
    : directory_(std::exchange(other.directory_, "")),
      path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)) {}

TempImage::~TempImage() {
  if (fd_ >= 0) close(fd_);
  if (!directory_.empty()) RemoveTree(directory_);
}

uint64_t TempImage::size() const {
  struct stat status;
  if (fstat(fd_, &status) != 0) Fail("fstat");
  return static_cast<uint64_t>(status.st_size);
}

Bytes TempImage::Read(uint64_t offset, size_t length) const {
  Bytes bytes(length, '\0');
  for (size_t at = 0; at < length;) {
    const ssize_t count = pread(fd_, bytes.data() + at, length - at,
                                static_cast<off_t>(offset + at));
    if (count < 0) Fail("pread");
    if (count == 0)
      throw std::runtime_error("the image ends before the bytes asked for");
    at += static_cast<size_t>(count);
  }
  return bytes;
}

void TempImage::Write(uint64_t offset, std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t count =
        pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count <= 0) Fail("pwrite");
    bytes.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
}

void TempImage::Truncate(uint64_t size) const {
  if (ftruncate(fd_, static_cast<off_t>(size)) != 0) Fail("ftruncate");
}

void TempImage::DropCache() const {
  if (fdatasync(fd_) != 0) Fail("fdatasync");
  posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
}

uint64_t TempImage::AllocatedBytes() const {
  // Delayed allocation counts blocks only once they are written out.
  if (fsync(fd_) != 0) Fail("fsync");
  struct stat status;
  if (fstat(fd_, &status) != 0) Fail("fstat");
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

std::vector<Segment> TempImage::Segments() const {
  std::vector<Segment> segments;
  const auto end = static_cast<off_t>(size());
  for (off_t at = 0; at < end;) {
    off_t data = lseek(fd_, at, SEEK_DATA);
    if (data < 0) data = end;  // ENXIO: a hole up to the end.
    if (data > at) {
      segments.push_back(
          {static_cast<uint64_t>(at), static_cast<uint64_t>(data - at), true});
    }
    if (data >= end) break;
    const off_t hole = lseek(fd_, data, SEEK_HOLE);
    if (hole < 0) Fail("lseek");
    segments.push_back({static_cast<uint64_t>(data),
                        static_cast<uint64_t>(hole - data), false});
    at = hole;
  }
  return segments;
}

namespace {

bool TryFallocate(const std::string& directory, int mode) {
  const std::string path = directory + "/scratch";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) Fail("failed to create '" + path + "'");
  const bool done = ftruncate(fd, 65536) == 0 &&
                    fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, 0, 65536) == 0;
  close(fd);
  unlink(path.c_str());
  return done;
}

// The arguments of cachestat(2), which the C library's headers don't have yet.
struct CachestatRange {
  uint64_t offset;
  uint64_t length;
};
struct CachestatResult {
  uint64_t cached;
  uint64_t dirty;
  uint64_t writeback;
  uint64_t evicted;
  uint64_t recently_evicted;
};

std::optional<uint64_t> CountUnwritten(int fd, uint64_t offset,
                                       uint64_t length) {
  CachestatRange range = {offset, length};
  CachestatResult result = {};
  if (syscall(SYS_cachestat, fd, &range, &result, 0) != 0) return std::nullopt;
  return result.dirty + result.writeback;
}

}  // namespace

bool TempImage::CanPunchHoles() const {
  return TryFallocate(directory_, FALLOC_FL_PUNCH_HOLE);
}

bool TempImage::CanZeroRanges() const {
  return TryFallocate(directory_, FALLOC_FL_ZERO_RANGE);
}

std::optional<uint64_t> TempImage::UnwrittenPages(uint64_t offset,
                                                  uint64_t length) const {
  return CountUnwritten(fd_, offset, length);
}

bool TempImage::SeesUnwrittenPages() const {
  const std::string path = directory_ + "/dirty";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) Fail("failed to create '" + path + "'");
  const Bytes page = Pattern(0, 4096);
  bool sees = pwrite(fd, page.data(), page.size(), 0) == 4096 &&
              CountUnwritten(fd, 0, 4096).value_or(0) == 1;
  sees = sees && fdatasync(fd) == 0 &&
         CountUnwritten(fd, 0, 4096).value_or(1) == 0;
  close(fd);
  unlink(path.c_str());
  return sees;
}

}  // namespace nbdtest
