// What the torture test serves: a file or block device whose bytes a
// TortureModel knows.

#ifndef NBDINETD_TESTS_SUPPORT_TORTURE_DISK_H_
#define NBDINETD_TESTS_SUPPORT_TORTURE_DISK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "torture_model.h"

namespace nbdtest {

class TortureDisk {
 public:
  virtual ~TortureDisk() = default;
  TortureDisk(const TortureDisk&) = delete;
  TortureDisk& operator=(const TortureDisk&) = delete;

  TortureModel& model() { return *model_; }
  const std::string& path() const { return path_; }
  // The options of a server that serves what the model knows, or with
  // is_copied() a private copy of that to each client.
  virtual std::vector<std::string> options() const;
  virtual bool is_copied() const { return false; }
  // The copies are kept: the next client has what the one before has written.
  // Each has a directory of its own for it, which the options don't name.
  virtual bool is_kept() const { return false; }

  // Writes some of it back, and takes some of it away from the page cache, so
  // that the server has to wait. Not at the same time as Check().
  void Disturb(std::mt19937_64& random);

  // No request is under way: what is wrong with the bytes, in the page cache
  // and where they are stored; nothing if all are as the model says.
  virtual std::optional<std::string> Check() = 0;

 protected:
  TortureDisk() = default;
  // A part of a file, from its byte `begin` on.
  explicit TortureDisk(uint64_t begin) : begin_(begin) {}

  // Writes `data_bytes` at each multiple of `period_bytes` of the file at
  // `path`, which exists and reads as `size` zeroes; the rest stays as it is.
  void Fill(const std::string& path, uint64_t size, uint64_t data_bytes,
            uint64_t period_bytes);
  // The path to serve from now on.
  void Open(const std::string& path);
  void Close() { fd_.Reset(); }
  std::optional<std::string> Compare(int fd);
  int fd() const { return fd_.get(); }
  uint64_t begin() const { return begin_; }

 private:
  const uint64_t begin_ = 0;
  std::string path_;
  nbdinetd::UniqueFd fd_;
  std::optional<TortureModel> model_;
};

// A file in a directory of its own, in TMPDIR or on a tmpfs, a loop device over
// one, a part of a file, a partition in one, or private copies of each of
// these, beside it or in memory; half of it is holes.
enum class Storage {
  kFile,
  kTmpfs,
  kLoopDevice,
  kLoopDevice4K,  // with sectors of 4 KiB
  kPart,
  kPartition,  // whole sectors
  kCopy,
  kCopyInMemory,
  kCopiedPart,
  kCopiedPartInMemory,
  kCopiedPartition,
  kKept,      // --cow=keep
  kKeptPart,  // of a part, and limited
  kKeptPartition,
};
// Whether it is a partition, so that its size must be whole sectors.
bool IsPartition(Storage storage);
std::unique_ptr<TortureDisk> MakeOwnDisk(Storage storage, uint64_t size);

// What somebody else has made, such as a file in a file system that is to be
// tried; see GivenDisk::FromEnvironment().
struct GivenDisk {
  std::string path;
  // Where its bytes are put, if that isn't the path: a file that becomes part
  // of an image, for instance.
  std::string source;
  // Run by the shell, if there is one, with an argument:
  //   begin   before the source is made anew
  //   ready   the source has its bytes; then the path must show them
  //   remount nobody has the path open; then it must show what is stored
  std::string hook;
  // Of a file; a block device has its own.
  uint64_t size = 0;

  // NBDINETD_TORTURE_EXPORT, _SOURCE, _HOOK and _BYTES; nothing without the
  // first.
  static std::optional<GivenDisk> FromEnvironment();
};
// Makes it anew, with as many holes as `random` says.
std::unique_ptr<TortureDisk> MakeGivenDisk(const GivenDisk& given,
                                           std::mt19937_64& random);

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_TORTURE_DISK_H_
