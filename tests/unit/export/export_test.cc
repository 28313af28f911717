// Regular files as exports, on a disk file system and in memory: they differ in
// what they can do (a tmpfs zeroes no range, and is never cold) and must not
// differ in what a client sees.

#include "export/export.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/exit_status.h"
#include "export/open.h"
#include "support/extent.h"
#include "support/fake_export.h"
#include "support/image.h"
#include "support/loop_device.h"
#include "support/private_mount.h"

namespace nbdinetd {

namespace {

using nbdtest::Bytes;
using nbdtest::Pattern;
using nbdtest::PrivateMount;
using nbdtest::TempDir;

constexpr uint64_t kKiB = 1 << 10;
// A multiple of any block size that is to be expected, also that of a hole.
constexpr uint64_t kBlock = 64 * kKiB;

// A file that a test serves, and looks at from beside.
class Image {
 public:
  // On the file system of temporary files, or anywhere.
  explicit Image(const std::string& directory) : path_(directory + "/image") {
    fd_.Reset(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  }
  // In memory.
  Image() : fd_(memfd_create("image", MFD_CLOEXEC)) {
    path_ = "/proc/self/fd/" + std::to_string(fd_.get());
  }

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

  void Truncate(uint64_t size) const {
    ASSERT_EQ(ftruncate(fd(), static_cast<off_t>(size)), 0);
  }
  void Write(uint64_t offset, const Bytes& bytes) const {
    ASSERT_EQ(
        pwrite(fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset)),
        static_cast<ssize_t>(bytes.size()));
  }
  // Shorter where the file ends.
  Bytes Read(uint64_t offset, size_t size) const {
    Bytes bytes(size, '#');
    const ssize_t n =
        pread(fd(), bytes.data(), size, static_cast<off_t>(offset));
    bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return bytes;
  }
  uint64_t size() const {
    struct stat st;
    return fstat(fd(), &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
  }
  uint64_t AllocatedBytes() const {
    fsync(fd());  // delayed allocation
    struct stat st;
    return fstat(fd(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512
                                 : 0;
  }
  // Forgets what the page cache has of the file.
  void DropCache() const {
    ASSERT_EQ(fsync(fd()), 0);
    posix_fadvise(fd(), 0, 0, POSIX_FADV_DONTNEED);
  }

 private:
  std::string path_;
  UniqueFd fd_;
};

std::unique_ptr<Export> Open(const std::string& path, bool read_only = false) {
  std::string reason;
  absl::StatusOr<std::unique_ptr<Export>> opened =
      OpenExport(path, {.read_only = read_only}, &reason);
  if (!opened.ok()) ADD_FAILURE() << opened.status();
  EXPECT_EQ(reason, "");
  return opened.ok() ? *std::move(opened) : nullptr;
}

// Pages of a file that are not on stable storage; nothing where the kernel
// can't tell: cachestat(2), number 451, came with Linux 6.5.
std::optional<uint64_t> UnwrittenPages(int fd) {
  struct {
    uint64_t offset, length;
  } range = {0, 0};
  struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } result = {};
  if (syscall(451, fd, &range, &result, 0) != 0) return std::nullopt;
  return result.dirty + result.writeback;
}

bool KernelTellsWhatIsDirty() {
  const UniqueFd fd(memfd_create("probe", MFD_CLOEXEC));
  return UnwrittenPages(fd.get()).has_value();
}

Extents ExtentsOf(Export& target, uint64_t offset, uint64_t length,
                  size_t limit = 1000) {
  Extents extents;
  EXPECT_EQ(target.FindExtents(offset, length, limit, nullptr, &extents), 0);
  // Data is cut to the range: how far beyond it goes isn't looked for on every
  // file system.
  uint64_t before_last = 0;
  for (size_t i = 0; i + 1 < extents.size(); ++i)
    before_last += extents[i].length_bytes;
  EXPECT_LT(before_last, length);
  if (!extents.empty() && !extents.back().hole) {
    extents.back().length_bytes =
        std::min(extents.back().length_bytes, length - before_last);
  }
  return extents;
}

// An export of any descriptor; another one can be put in its place.
class RawExport : public nbdtest::FakeExport {
 public:
  explicit RawExport(UniqueFd fd)
      : FakeExport(std::move(fd), {.size_bytes = 4 * kBlock}) {}
  void Replace(int fd) { ASSERT_GE(dup2(fd, this->fd()), 0); }

  // Inside a trim or a zeroing for which all reads and writes would wait.
  template <typename Function>
  void WhileBusy(Function function) {
    const Busy busy(*this, Busy::kReadsAndWrites);
    function();
  }
};

int Write(Export& target, uint64_t offset, const Bytes& bytes,
          bool durable = false) {
  return target.Write(offset, {bytes.data(), bytes.size()}, durable);
}

// What Read() gives; "errno E after N bytes" when it fails, and "truncated
// after N bytes" when the file has become shorter.
Bytes Read(Export& target, uint64_t offset, size_t size) {
  Bytes bytes(size, '#');
  size_t done = 12345;
  const StorageError error =
      target.Read(offset, absl::MakeSpan(bytes.data(), size), &done);
  if (error == 0) {
    EXPECT_EQ(done, size);
    return bytes;
  }
  const std::string what = error == StorageError::Truncated()
                               ? "truncated"
                               : "errno " + std::to_string(error.number);
  return what + " after " + std::to_string(done) + " bytes";
}

// -- Opening

class Opening : public testing::Test {
 protected:
  Image MakeImage(uint64_t size = kBlock) {
    Image image(directory_.path());
    image.Write(0, Pattern(0, size));
    return image;
  }
  void ExpectNoInput(const std::string& path, const std::string& why) {
    for (const bool read_only : {false, true}) {
      std::string reason;
      const absl::StatusOr<std::unique_ptr<Export>> opened =
          OpenExport(path, {.read_only = read_only}, &reason);
      EXPECT_FALSE(opened.ok()) << path;
      EXPECT_EQ(ExitStatusOf(opened.status()), ExitStatus::kNoInput);
      EXPECT_EQ(opened.status().message(),
                "failed to open \"" + path + "\": " + why);
    }
  }

  TempDir directory_;
};

TEST_F(Opening, AFileIsWritableUnlessItMayNotBe) {
  const Image image = MakeImage(kBlock + 517);
  for (const bool read_only : {false, true}) {
    const std::unique_ptr<Export> target = Open(image.path(), read_only);
    ASSERT_NE(target, nullptr);
    EXPECT_EQ(target->facts().read_only, read_only);
    EXPECT_EQ(target->facts().size_bytes, kBlock + 517);
    EXPECT_FALSE(target->facts().rotational);
    EXPECT_EQ(target->path(), image.path());
    EXPECT_EQ(Write(*target, 0, "x"), read_only ? EBADF : 0);
  }
}

TEST_F(Opening, AnEmptyFileIsAnExportOfNoBytes) {
  const Image image(directory_.path());
  const std::unique_ptr<Export> target = Open(image.path());
  ASSERT_NE(target, nullptr);
  EXPECT_EQ(target->facts().size_bytes, 0u);
}

// "The preferred block size ... MUST be a power of 2 at least as large as ...
// 512".
TEST_F(Opening, ThePreferredBlockSizeIsOneThatNbdAllows) {
  const Image image = MakeImage();
  const std::unique_ptr<Export> target = Open(image.path());
  ASSERT_NE(target, nullptr);
  const uint32_t block = target->facts().block_sizes.preferred;
  EXPECT_GE(block, 512u);
  EXPECT_EQ(block & (block - 1), 0u);
  EXPECT_LE(block, 32u << 20);
}

TEST_F(Opening, ASymbolicLinkIsFollowed) {
  const Image image = MakeImage();
  const std::string link = directory_.path() + "/link";
  ASSERT_EQ(symlink("image", link.c_str()), 0);
  const std::unique_ptr<Export> target = Open(link);
  ASSERT_NE(target, nullptr);
  EXPECT_EQ(target->facts().size_bytes, kBlock);
  EXPECT_EQ(target->path(), link);
}

TEST_F(Opening, TheDescriptorIsCloseOnExec) {
  const Image image = MakeImage();
  const std::unique_ptr<Export> target = Open(image.path());
  int found = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) != image.path())
      continue;
    ++found;
    const int fd = std::stoi(entry.path().filename());
    EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << fd;
  }
  EXPECT_EQ(found, 2);  // ours, and the export's
}

// A program that is running can't be written to, whoever we are.
TEST_F(Opening, AFileThatCanOnlyBeReadBecomesReadOnlyAndSaysWhy) {
  const char* program = "/proc/self/exe";
  ASSERT_LT(open(program, O_RDWR | O_CLOEXEC), 0);
  const std::string why = std::strerror(errno);  // root: "Text file busy"
  std::string reason;
  const absl::StatusOr<std::unique_ptr<Export>> opened =
      OpenExport(program, {}, &reason);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE((*opened)->facts().read_only);
  EXPECT_EQ(reason, why);
}

TEST_F(Opening, PermissionsDecide) {
  const Image image = MakeImage();
  ASSERT_EQ(chmod(directory_.path().c_str(), 0755), 0);
  // Root may do everything.
  const uid_t me = geteuid();
  const auto as_nobody = [&](mode_t mode, bool read_only, std::string* reason) {
    EXPECT_EQ(chmod(image.path().c_str(), mode), 0);
    EXPECT_EQ(seteuid(me == 0 ? 65534 : me), 0);
    absl::StatusOr<std::unique_ptr<Export>> opened =
        OpenExport(image.path(), {.read_only = read_only}, reason);
    EXPECT_EQ(seteuid(me), 0);
    return opened;
  };
  std::string reason;
  absl::StatusOr<std::unique_ptr<Export>> opened =
      as_nobody(0444, false, &reason);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE((*opened)->facts().read_only);
  EXPECT_EQ(reason, "Permission denied");

  reason.clear();
  opened = as_nobody(0444, true, &reason);
  EXPECT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(reason, "");

  for (const bool read_only : {false, true}) {
    opened = as_nobody(0000, read_only, &reason);
    EXPECT_EQ(ExitStatusOf(opened.status()), ExitStatus::kNoInput);
    EXPECT_EQ(opened.status().message(),
              "failed to open \"" + image.path() +
                  "\": Permission denied; user " +
                  std::to_string(getuid() == 0 ? 65534 : getuid()) +
                  " needs permission on it, and on each folder above it");
  }
}

TEST_F(Opening, WhatIsNotThereIsNoInput) {
  const Image image = MakeImage();
  ExpectNoInput(directory_.path() + "/missing", "No such file or directory");
  ExpectNoInput("", "No such file or directory");
  ExpectNoInput(image.path() + "/below", "Not a directory");
  const std::string loop = directory_.path() + "/loop";
  ASSERT_EQ(symlink("loop", loop.c_str()), 0);
  ExpectNoInput(loop, "Too many levels of symbolic links");
}

TEST_F(Opening, ADirectoryIsNoInput) {
  ExpectNoInput(directory_.path(), "it is a directory");
}

TEST_F(Opening, OtherKindsOfFilesAreNoInput) {
  const std::string wrong = "it is neither a regular file nor a block device";
  ExpectNoInput("/dev/null", wrong);
  // To open a FIFO for reading would wait for a writer, until the alarm ends
  // the test.
  const std::string fifo = directory_.path() + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  alarm(60);
  ExpectNoInput(fifo, wrong);
  alarm(0);
  const std::string path = directory_.path() + "/socket";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address),
                 sizeof(address)),
            0);
  ExpectNoInput(path, "No such device or address");
}

TEST_F(Opening, ANameCannotForgeALogLine) {
  std::string reason;
  const auto opened =
      OpenExport("/missing\nnbdinetd: all is well", {}, &reason);
  EXPECT_EQ(opened.status().message().find('\n'), std::string::npos);
}

// -- What every file does, wherever it lies

class FileExportTest : public testing::TestWithParam<const char*> {
 protected:
  FileExportTest() : on_disk_(GetParam() == std::string("Disk")) {
    if (on_disk_) {
      directory_.emplace();
      image_.emplace(directory_->path());
    } else {
      image_.emplace();
    }
  }
  // An export of a file with a pattern.
  Export& Serve(uint64_t size) {
    image_->Write(0, Pattern(0, size));
    return Serve();
  }
  // Of the file as it is now.
  Export& Serve() {
    target_ = Open(image().path());
    return *target_;
  }
  const Image& image() const { return *image_; }
  bool on_disk() const { return on_disk_; }

 private:
  const bool on_disk_;
  std::optional<TempDir> directory_;
  std::optional<Image> image_;
  std::unique_ptr<Export> target_;
};

INSTANTIATE_TEST_SUITE_P(On, FileExportTest, testing::Values("Disk", "Memory"),
                         [](const auto& file_system) {
                           return file_system.param;
                         });

// -- Reading

TEST_P(FileExportTest, ReadsAnyRange) {
  Export& target = Serve(4 * kBlock + 517);
  for (const uint64_t offset :
       {uint64_t{0}, uint64_t{1}, uint64_t{4095}, kBlock, 4 * kBlock}) {
    for (const size_t size : {size_t{1}, size_t{511}, size_t{517}}) {
      EXPECT_TRUE(Read(target, offset, size) == Pattern(offset, size))
          << offset << ", " << size;
    }
  }
  EXPECT_TRUE(Read(target, 0, 4 * kBlock + 517) ==
              Pattern(0, 4 * kBlock + 517));
  EXPECT_EQ(Read(target, 0, 0), "");
}

TEST_P(FileExportTest, ReadsAHoleAsZeroes) {
  image().Truncate(kBlock);
  EXPECT_EQ(Read(Serve(), 100, 1000), Bytes(1000, '\0'));
}

TEST_P(FileExportTest, AReadBeyondATruncationSaysHowFarItCame) {
  Export& target = Serve(2 * kBlock);
  image().Truncate(kBlock);
  const auto truncated_after = [](size_t bytes) {
    return "truncated after " + std::to_string(bytes) + " bytes";
  };
  EXPECT_TRUE(Read(target, 0, kBlock) == Pattern(0, kBlock));
  EXPECT_EQ(Read(target, kBlock - 100, 4096), truncated_after(100));
  EXPECT_EQ(Read(target, 0, 2 * kBlock), truncated_after(kBlock));
  EXPECT_EQ(Read(target, kBlock, 1), truncated_after(0));
  EXPECT_EQ(Read(target, 2 * kBlock - 1, 1), truncated_after(0));
  // And when it grows again, what is there is zeroes.
  image().Truncate(2 * kBlock);
  EXPECT_EQ(Read(target, kBlock, 512), Bytes(512, '\0'));
}

TEST_P(FileExportTest, WhatWasJustWrittenIsRead) {
  Export& target = Serve(kBlock);
  image().Write(1000, "changed by somebody else");
  EXPECT_EQ(Read(target, 1000, 7), "changed");
  Bytes cached(7, '#');
  EXPECT_EQ(target.ReadCached(1000, absl::MakeSpan(cached.data(), 7)), 7u);
  EXPECT_EQ(cached, "changed");
}

// -- The page cache

TEST_P(FileExportTest, ReadsFromThePageCacheWhatIsThere) {
  Export& target = Serve(4 * kBlock);
  Read(target, 0, 4 * kBlock);
  for (const auto& [offset, size] : {std::pair<uint64_t, size_t>{0, 4 * kBlock},
                                     {517, 1000},
                                     {4 * kBlock - 1, 1}}) {
    Bytes bytes(size, '#');
    ASSERT_EQ(target.ReadCached(offset, absl::MakeSpan(bytes.data(), size)),
              size);
    EXPECT_TRUE(bytes == Pattern(offset, size));
  }
}

TEST_P(FileExportTest, ReadsNothingStaleFromThePageCache) {
  Export& target = Serve(2 * kBlock);
  Read(target, 0, 2 * kBlock);
  image().Truncate(kBlock + 100);
  Bytes bytes(kBlock, '#');
  EXPECT_LE(target.ReadCached(kBlock, absl::MakeSpan(bytes.data(), kBlock)),
            100u);
  EXPECT_EQ(target.ReadCached(kBlock + 100, absl::MakeSpan(bytes.data(), 1)),
            0u);
}

TEST_P(FileExportTest, DoesNotWaitForAColdRead) {
  if (!on_disk()) GTEST_SKIP() << "what lies in memory is never cold";
  Export& target = Serve(kBlock);
  Bytes bytes(kBlock, '#');
  // A call that waits never returns 0.
  EXPECT_TRUE(nbdtest::OnceDropped(image(), [&] {
    return target.ReadCached(0, absl::MakeSpan(bytes.data(), kBlock)) == 0;
  }));
  EXPECT_TRUE(Read(target, 0, kBlock) == Pattern(0, kBlock));
  EXPECT_TRUE(target.IsCached(0, kBlock));
  EXPECT_EQ(target.ReadCached(0, absl::MakeSpan(bytes.data(), kBlock)), kBlock);
}

// Where a part is cold, no more bytes than the warm ones may be said to be
// good.
TEST_P(FileExportTest, AHalfColdReadIsGoodAsFarAsItGoes) {
  constexpr uint64_t kHalf = 16 * kBlock;
  Export& target = Serve(2 * kHalf);
  image().DropCache();
  posix_fadvise(image().fd(), 0, 0, POSIX_FADV_RANDOM);
  Read(target, 0, kHalf);
  Bytes bytes(2 * kHalf, '#');
  const size_t n =
      target.ReadCached(0, absl::MakeSpan(bytes.data(), bytes.size()));
  EXPECT_TRUE(bytes.substr(0, n) == Pattern(0, n));
}

TEST_P(FileExportTest, KnowsWhatIsCachedPageByPage) {
  Export& target = Serve(kBlock);
  EXPECT_TRUE(target.IsCached(0, kBlock));
  EXPECT_TRUE(target.IsCached(1, 1));
  EXPECT_TRUE(target.IsCached(4095, 2));
  EXPECT_TRUE(target.IsCached(kBlock - 1, 1));
  EXPECT_TRUE(target.IsCached(0, 0));
  if (!on_disk()) return;
  for (const auto& [offset, length] :
       {std::pair<uint64_t, uint64_t>{0, 1}, {4095, 2}}) {
    EXPECT_TRUE(nbdtest::OnceDropped(
        image(),
        [&, at = offset, size = length] { return !target.IsCached(at, size); }))
        << offset << ", " << length;
  }
  EXPECT_TRUE(target.IsCached(0, 0));
}

TEST_P(FileExportTest, APrefetchBringsTheRangeIntoThePageCache) {
  Export& target = Serve(16 * kBlock);
  image().DropCache();
  EXPECT_EQ(target.Prefetch(kBlock, 8 * kBlock), 0);
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!target.IsCached(kBlock, 8 * kBlock) &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(target.IsCached(kBlock, 8 * kBlock));
}

TEST_P(FileExportTest, APrefetchOfNothingIsNotOneOfEverything) {
  Export& target = Serve(kBlock);
  image().DropCache();
  EXPECT_EQ(target.Prefetch(0, 0), 0);
  EXPECT_EQ(target.Prefetch(kBlock, 0), 0);
  // What would have been started by now would come soon.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(target.IsCached(0, kBlock), !on_disk());
}

TEST_P(FileExportTest, AWriteOfWholePagesNeverWaits) {
  Export& target = Serve(kBlock + 517);
  image().DropCache();
  EXPECT_FALSE(target.WriteWouldWait(0, 4096));
  EXPECT_FALSE(target.WriteWouldWait(4096, 2 * 4096));
  EXPECT_FALSE(target.WriteWouldWait(0, kBlock));
  EXPECT_FALSE(target.WriteWouldWait(0, 0));
}

TEST_P(FileExportTest, AWriteToAPartOfAPageWaitsWhenItIsCold) {
  Export& target = Serve(kBlock);
  for (const auto& [offset, length] : {std::pair<uint64_t, uint64_t>{100, 200},
                                       {0, 100},
                                       {4000, 96},
                                       {4000, 200},
                                       {0, 4096 + 100},
                                       {100, 4096 * 3 - 100},
                                       {4096 * 3 + 512, 4096}}) {
    EXPECT_EQ(nbdtest::OnceDropped(image(),
                                   [&, at = offset, size = length] {
                                     return target.WriteWouldWait(at, size);
                                   }),
              on_disk())
        << offset << ", " << length;
    Read(target, 0, kBlock);
    EXPECT_FALSE(target.WriteWouldWait(offset, length))
        << offset << ", " << length;
  }
}

TEST_P(FileExportTest, NothingRunsInlineWhileTheFileIsBusy) {
  image().Write(0, Pattern(0, 4 * kBlock));
  RawExport target(UniqueFd(fcntl(image().fd(), F_DUPFD_CLOEXEC, 0)));
  Bytes bytes(kBlock, '#');
  const absl::Span<char> out = absl::MakeSpan(bytes.data(), kBlock);
  target.WhileBusy([&] {
    EXPECT_EQ(target.ReadCached(0, out), 0u);
    EXPECT_TRUE(target.WriteWouldWait(0, 4096));
    target.WhileBusy([] {});
    EXPECT_EQ(target.ReadCached(0, out), 0u);
    EXPECT_TRUE(Read(target, 0, kBlock) == Pattern(0, kBlock));
  });
  EXPECT_EQ(target.ReadCached(0, out), kBlock);
  EXPECT_FALSE(target.WriteWouldWait(0, 4096));
}

// -- Writing

TEST_P(FileExportTest, WritesAnyRangeAndNothingElse) {
  for (const bool durable : {false, true}) {
    Export& target = Serve(4 * kBlock);
    Bytes wanted = Pattern(0, 4 * kBlock);
    for (const auto& [offset, size] : {std::pair<uint64_t, size_t>{0, 1},
                                       {4095, 2},
                                       {kBlock - 100, 10000},
                                       {4 * kBlock - 517, 517}}) {
      const Bytes bytes = Pattern(offset, size, /*seed=*/7);
      EXPECT_EQ(Write(target, offset, bytes, durable), 0);
      wanted.replace(offset, size, bytes);
    }
    EXPECT_EQ(Write(target, 100, "", durable), 0);
    EXPECT_TRUE(image().Read(0, 4 * kBlock + 1) == wanted);
  }
}

TEST_P(FileExportTest, AWriteBringsBackWhatATruncationTook) {
  Export& target = Serve(2 * kBlock);
  image().Truncate(0);
  EXPECT_EQ(Write(target, kBlock, "back"), 0);
  EXPECT_EQ(Read(target, kBlock, 4), "back");
  EXPECT_EQ(Read(target, 0, 4), Bytes(4, '\0'));
}

// The signal that comes with it is ignored by the program.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = signal(SIGXFSZ, SIG_IGN);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_;
  void (*handler_)(int);
};

TEST_P(FileExportTest, AWriteThatMayNotBeIsAnErrorThatPasses) {
  Export& target = Serve(2 * kBlock);
  image().Truncate(0);
  for (const bool durable : {false, true}) {
    {
      const FileSizeLimit limit(kBlock);
      EXPECT_EQ(Write(target, kBlock, Pattern(0, 512), durable), EFBIG);
      // A part of it fits.
      EXPECT_EQ(Write(target, kBlock - 512, Pattern(0, 1024), durable), EFBIG);
      EXPECT_EQ(Write(target, 0, Pattern(0, 512), durable), 0);
    }
    // Nothing that was said to be written is lost.
    EXPECT_EQ(target.Flush(), 0);
    EXPECT_EQ(Write(target, kBlock, Pattern(0, 512), durable), 0);
  }
}

// -- Flushing

// A pipe can't be flushed.
UniqueFd UnflushableFd() {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  close(fds[1]);
  return UniqueFd(fds[0]);
}

TEST_P(FileExportTest, AFlushOfAGoodFileSucceeds) {
  Export& target = Serve(kBlock);
  EXPECT_EQ(Write(target, 0, "x"), 0);
  EXPECT_EQ(target.Flush(), 0);
  EXPECT_EQ(target.Flush(), 0);
}

TEST_P(FileExportTest, NothingStaysInTheCacheThatWasSaidToBeDurable) {
  if (!on_disk()) GTEST_SKIP() << "memory is no stable storage";
  NBDTEST_REQUIRE(KernelTellsWhatIsDirty(),
                  "the kernel doesn't tell what is dirty");
  Export& target = Serve(4 * kBlock);
  if (UnwrittenPages(image().fd()) == 0u)
    GTEST_SKIP() << "the file system writes at once";
  EXPECT_EQ(target.Flush(), 0);
  EXPECT_EQ(UnwrittenPages(image().fd()), 0u);
  EXPECT_EQ(Write(target, 517, Pattern(0, 2 * kBlock), /*durable=*/false), 0);
  EXPECT_NE(UnwrittenPages(image().fd()), 0u);
  EXPECT_EQ(Write(target, 517, Pattern(0, 2 * kBlock), /*durable=*/true), 0);
  EXPECT_EQ(UnwrittenPages(image().fd()), 0u);
}

TEST_P(FileExportTest, AFlushThatHasFailedFailsForEver) {
  RawExport target(UnflushableFd());
  ASSERT_EQ(target.Flush(), EINVAL);
  target.Replace(image().fd());
  // The kernel has nothing against this one, but what was lost before is lost.
  EXPECT_EQ(target.Flush(), EINVAL);
  EXPECT_EQ(target.Flush(), EINVAL);
  EXPECT_EQ(Write(target, 0, "abc", /*durable=*/true), EINVAL);
  EXPECT_EQ(Write(target, 0, "abc", /*durable=*/false), 0);
  EXPECT_EQ(Read(target, 0, 3), "abc");
}

// A file of /proc can be written, but not durably: like a storage that has
// taken the bytes and then couldn't keep them. What is written to this one is
// what it says already.
TEST_P(FileExportTest,
       ADurableWriteThatFailsWhereAPlainOneWouldNotFailsEveryLaterFlush) {
  UniqueFd setting(open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC));
  if (!setting.valid() && errno == EROFS) {
    GTEST_SKIP() << "/proc is mounted read-only";
  }
  ASSERT_TRUE(setting.valid());
  Bytes value(16, '\0');
  const ssize_t n = pread(setting.get(), value.data(), value.size(), 0);
  ASSERT_GT(n, 0);
  value.resize(static_cast<size_t>(n));
  RawExport target(std::move(setting));
  ASSERT_EQ(Write(target, 0, value, /*durable=*/false), 0);
  const int error = Write(target, 0, value, /*durable=*/true);
  ASSERT_NE(error, 0);
  target.Replace(image().fd());
  EXPECT_EQ(target.Flush(), error);
  EXPECT_EQ(Write(target, 0, "abc", /*durable=*/true), error);
  EXPECT_EQ(Write(target, 0, "abc", /*durable=*/false), 0);
}

// -- Extents

TEST_P(FileExportTest, AFileWithoutHolesIsOneExtent) {
  Export& target = Serve(4 * kBlock);
  EXPECT_EQ(ExtentsOf(target, 0, 4 * kBlock), (Extents{{4 * kBlock, false}}));
  EXPECT_EQ(ExtentsOf(target, 517, 1), (Extents{{1, false}}));
}

TEST_P(FileExportTest, AHoleIsOneExtent) {
  image().Truncate(4 * kBlock + 517);
  Export& target = Serve();
  EXPECT_EQ(ExtentsOf(target, 0, 4 * kBlock),
            (Extents{{4 * kBlock + 517, true}}));
  EXPECT_EQ(ExtentsOf(target, kBlock + 1, 1),
            (Extents{{3 * kBlock + 516, true}}));
  EXPECT_EQ(ExtentsOf(target, 4 * kBlock + 516, 1), (Extents{{1, true}}));
}

TEST_P(FileExportTest, ExtentsAlternateAndTheLastMayReachFurther) {
  // data, hole, data, hole
  image().Truncate(8 * kBlock);
  image().Write(0, Pattern(0, kBlock));
  image().Write(3 * kBlock, Pattern(0, 2 * kBlock));
  Export& target = Serve();
  const Extents all = {{kBlock, false},
                       {2 * kBlock, true},
                       {2 * kBlock, false},
                       {3 * kBlock, true}};
  EXPECT_EQ(ExtentsOf(target, 0, 8 * kBlock), all);
  // "the sum of the length fields of the first N-1 extents MUST be less than
  // the requested length"
  EXPECT_EQ(ExtentsOf(target, 0, kBlock), (Extents{all[0]}));
  EXPECT_EQ(ExtentsOf(target, 0, kBlock + 1), (Extents{all[0], all[1]}));
  EXPECT_EQ(ExtentsOf(target, kBlock, 1), (Extents{all[1]}));
  EXPECT_EQ(ExtentsOf(target, kBlock + 512, 3 * kBlock),
            (Extents{{2 * kBlock - 512, true}, {kBlock + 512, false}}));
  EXPECT_EQ(ExtentsOf(target, 8 * kBlock - 1, 1), (Extents{{1, true}}));
  for (size_t limit = 1; limit <= 4; ++limit) {
    EXPECT_EQ(
        ExtentsOf(target, 0, 8 * kBlock, limit),
        Extents(all.begin(), all.begin() + static_cast<ptrdiff_t>(limit)));
  }
}

TEST_P(FileExportTest, WhatATruncationTookIsNoHole) {
  image().Truncate(4 * kBlock);
  image().Write(0, Pattern(0, kBlock));
  Export& target = Serve();
  // data, then a hole up to the new end, and then what reading must fail for.
  image().Truncate(2 * kBlock);
  EXPECT_EQ(ExtentsOf(target, 0, 4 * kBlock),
            (Extents{{kBlock, false}, {kBlock, true}, {2 * kBlock, false}}));
  EXPECT_EQ(ExtentsOf(target, 2 * kBlock, kBlock), (Extents{{kBlock, false}}));
  EXPECT_EQ(ExtentsOf(target, 3 * kBlock, 512), (Extents{{512, false}}));
  image().Truncate(0);
  EXPECT_EQ(ExtentsOf(target, 0, 4 * kBlock), (Extents{{4 * kBlock, false}}));
}

TEST_P(FileExportTest, NothingBehindATruncationInTheMiddleOfDataIsAHole) {
  Export& target = Serve(4 * kBlock);
  image().Truncate(2 * kBlock);
  uint64_t covered = 0;
  for (const Extent& extent : ExtentsOf(target, 0, 4 * kBlock)) {
    EXPECT_FALSE(extent.hole);
    covered += extent.length_bytes;
  }
  EXPECT_EQ(covered, 4 * kBlock);
}

TEST_P(FileExportTest, AFileThatHasGrownIsServedAtTheSizeItHad) {
  Export& target = Serve(kBlock);
  image().Truncate(16 * kBlock);
  EXPECT_EQ(target.facts().size_bytes, kBlock);
  EXPECT_EQ(ExtentsOf(target, 0, kBlock), (Extents{{kBlock, false}}));
  EXPECT_EQ(ExtentsOf(target, kBlock - 1, 1), (Extents{{1, false}}));
  // The same with data behind the old end.
  image().Write(kBlock, Pattern(0, 8 * kBlock));
  EXPECT_EQ(ExtentsOf(target, 0, kBlock), (Extents{{kBlock, false}}));
}

// Where it isn't known what the file system says of dirty pages, they are
// written back first.
TEST_P(FileExportTest, WhatCannotBeSyncedIsAllData) {
  RawExport target(UnflushableFd());
  EXPECT_FALSE(target.finding_extents_may_sync());
  EXPECT_EQ(ExtentsOf(target, 512, kBlock), (Extents{{kBlock, false}}));
  EXPECT_TRUE(target.finding_extents_may_sync());
}

// -- Trimming and zeroing

// Ranges that begin and end on blocks or not, and one that covers no whole
// block.
constexpr std::pair<uint64_t, uint64_t> kRanges[] = {
    {0, 4 * kBlock},
    {kBlock, 2 * kBlock},
    {kBlock + 1, 2 * kBlock},
    {kBlock - 517, kBlock},
    {100, 200},
    {4095, 2},
    {4 * kBlock - 1, 1},
    {0, 1},
    {2 * kBlock, 0},
    {4 * kBlock, 0},
};

TEST_P(FileExportTest, ATrimTouchesNothingOutsideItsRange) {
  for (const auto& [offset, length] : kRanges) {
    Export& target = Serve(4 * kBlock);
    EXPECT_EQ(target.Trim(offset, length), 0);
    Bytes wanted = Pattern(0, 4 * kBlock);
    Bytes got = image().Read(0, 4 * kBlock + 1);
    ASSERT_EQ(got.size(), wanted.size());
    got.replace(offset, length, length, '#');
    wanted.replace(offset, length, length, '#');
    EXPECT_TRUE(got == wanted) << offset << ", " << length;
  }
}

TEST_P(FileExportTest, ATrimGivesTheStorageBack) {
  Export& target = Serve(16 * kBlock);
  const uint64_t before = image().AllocatedBytes();
  EXPECT_EQ(target.Trim(0, 8 * kBlock), 0);
  EXPECT_LE(image().AllocatedBytes() + 7 * kBlock, before);
  EXPECT_EQ(ExtentsOf(target, 0, 16 * kBlock),
            (Extents{{8 * kBlock, true}, {8 * kBlock, false}}));
}

struct ZeroCase {
  Export::Hole hole;
  Export::Speed speed;
};
constexpr ZeroCase kZeroCases[] = {
    {Export::Hole::kAllowed, Export::Speed::kAny},
    {Export::Hole::kAllowed, Export::Speed::kFastOnly},
    {Export::Hole::kForbidden, Export::Speed::kAny},
    {Export::Hole::kForbidden, Export::Speed::kFastOnly},
};

std::string Describe(const ZeroCase& zero) {
  return std::string(zero.hole == Export::Hole::kAllowed ? "hole allowed"
                                                         : "no hole") +
         (zero.speed == Export::Speed::kAny ? "" : ", fast only");
}

// Both file systems can do all of it fast.
TEST_P(FileExportTest, ZeroingMakesTheRangeZeroesAndTouchesNothingElse) {
  for (const ZeroCase& zero : kZeroCases) {
    for (const auto& [offset, length] : kRanges) {
      Export& target = Serve(4 * kBlock);
      EXPECT_EQ(target.Zero(offset, length, zero.hole, zero.speed, nullptr), 0)
          << Describe(zero);
      Bytes wanted = Pattern(0, 4 * kBlock);
      wanted.replace(offset, length, length, '\0');
      EXPECT_TRUE(image().Read(0, 4 * kBlock + 1) == wanted)
          << Describe(zero) << ": " << offset << ", " << length;
    }
  }
}

TEST_P(FileExportTest, ZeroingGivesTheStorageBackOnlyWhereAHoleIsAllowed) {
  for (const ZeroCase& zero : kZeroCases) {
    Export& target = Serve(16 * kBlock);
    ASSERT_GE(image().AllocatedBytes(), 16 * kBlock);
    EXPECT_EQ(target.Zero(0, 8 * kBlock, zero.hole, zero.speed, nullptr), 0);
    if (zero.hole == Export::Hole::kAllowed) {
      EXPECT_LT(image().AllocatedBytes(), 10 * kBlock) << Describe(zero);
    } else {
      EXPECT_GE(image().AllocatedBytes(), 16 * kBlock) << Describe(zero);
    }
  }
}

// "the area MUST be fully provisioned".
TEST_P(FileExportTest, ZeroingWithoutHolesFillsAHoleThatWasThere) {
  for (const Export::Speed speed :
       {Export::Speed::kAny, Export::Speed::kFastOnly}) {
    image().Truncate(0);
    image().Truncate(16 * kBlock);
    Export& target = Serve();
    EXPECT_EQ(
        target.Zero(0, 16 * kBlock, Export::Hole::kForbidden, speed, nullptr),
        0);
    EXPECT_GE(image().AllocatedBytes(), 16 * kBlock);
    EXPECT_TRUE(image().Read(0, 16 * kBlock) == Bytes(16 * kBlock, '\0'));
  }
}

// A success must mean that the range reads as zeroes.
TEST_P(FileExportTest, ZeroingBringsBackWhatATruncationTook) {
  for (const ZeroCase& zero : kZeroCases) {
    for (const uint64_t end :
         {uint64_t{0}, kBlock, 2 * kBlock + 517, 3 * kBlock}) {
      Export& target = Serve(4 * kBlock);
      image().Truncate(end);
      EXPECT_EQ(target.Zero(2 * kBlock, kBlock, zero.hole, zero.speed, nullptr),
                0)
          << Describe(zero);
      EXPECT_EQ(Read(target, 2 * kBlock, kBlock), Bytes(kBlock, '\0'))
          << Describe(zero) << " at " << end;
      EXPECT_GE(image().size(), 3 * kBlock);
    }
  }
}

// -- File systems that can do less

// ramfs can neither punch holes nor zero ranges.
TEST(FileSystemWithoutHoles, TrimsAreHintsAndZeroesAreWritten) {
  PrivateMount ramfs("ramfs", "");
  NBDTEST_REQUIRE(ramfs.mounted(), ramfs.problem());
  const Image image(ramfs.path());
  for (const Export::Hole hole :
       {Export::Hole::kAllowed, Export::Hole::kForbidden}) {
    for (const auto& [offset, length] : kRanges) {
      image.Write(0, Pattern(0, 4 * kBlock));
      const std::unique_ptr<Export> target = Open(image.path());
      EXPECT_EQ(target->Trim(offset, length), 0);
      EXPECT_TRUE(image.Read(0, 4 * kBlock) == Pattern(0, 4 * kBlock));
      EXPECT_EQ(
          target->Zero(offset, length, hole, Export::Speed::kAny, nullptr), 0);
      Bytes wanted = Pattern(0, 4 * kBlock);
      wanted.replace(offset, length, length, '\0');
      EXPECT_TRUE(image.Read(0, 4 * kBlock + 1) == wanted)
          << offset << ", " << length;
    }
  }
}

// "SHOULD NOT alter the contents of the export when returning an NBD_ENOTSUP
// failure".
TEST(FileSystemWithoutHoles, AFastZeroOfAWholePageIsRefusedAndChangesNothing) {
  PrivateMount ramfs("ramfs", "");
  NBDTEST_REQUIRE(ramfs.mounted(), ramfs.problem());
  const Image image(ramfs.path());
  Bytes wanted = Pattern(0, 4 * kBlock);
  image.Write(0, wanted);
  const std::unique_ptr<Export> target = Open(image.path());
  for (const Export::Hole hole :
       {Export::Hole::kAllowed, Export::Hole::kForbidden}) {
    for (const auto& [offset, length] : kRanges) {
      const uint64_t page = static_cast<uint64_t>(getpagesize());
      const bool has_page =
          (offset + page - 1) / page * page + page <= offset + length;
      EXPECT_EQ(
          target->Zero(offset, length, hole, Export::Speed::kFastOnly, nullptr),
          has_page ? EOPNOTSUPP : 0);
      if (!has_page) wanted.replace(offset, length, Bytes(length, '\0'));
    }
  }
  EXPECT_TRUE(image.Read(0, 4 * kBlock + 1) == wanted);
}

TEST(FileSystemWithoutHoles, ReadsAreServedFromMemory) {
  PrivateMount ramfs("ramfs", "");
  NBDTEST_REQUIRE(ramfs.mounted(), ramfs.problem());
  const Image image(ramfs.path());
  image.Write(0, Pattern(0, kBlock));
  const std::unique_ptr<Export> target = Open(image.path());
  for (int i = 0; i < 2; ++i) {
    Bytes bytes(kBlock, '#');
    EXPECT_EQ(target->ReadCached(0, absl::MakeSpan(bytes.data(), kBlock)),
              kBlock);
    EXPECT_TRUE(bytes == Pattern(0, kBlock));
  }
  EXPECT_EQ(ExtentsOf(*target, 0, kBlock), (Extents{{kBlock, false}}));
}

// ext3 punches holes, but can neither zero a range nor allocate one.
class FileSystemWithoutAllocation : public testing::Test {
 protected:
  void SetUp() override {
    NBDTEST_REQUIRE(geteuid() == 0, "mounting needs root");
    const std::string make =
        "PATH=$PATH:/usr/sbin:/sbin mkfs.ext3 -q -b 4096 " + disk_.path();
    NBDTEST_REQUIRE(std::system(make.c_str()) == 0, "no mkfs.ext3");
    device_.emplace(disk_.path(), 4096, /*read_only=*/false);
    NBDTEST_REQUIRE(device_->attached(), device_->problem());
    mount_.emplace("ext3", "", device_->path());
    NBDTEST_REQUIRE(mount_->mounted(), mount_->problem());
    image_.emplace(mount_->path());
    image_->Write(0, Pattern(0, 4 * kBlock));
    target_ = Open(image_->path());
  }

  nbdtest::TempImage disk_ = nbdtest::TempImage::Sparse(16 << 20);
  std::optional<nbdtest::LoopDevice> device_;
  std::optional<PrivateMount> mount_;
  std::optional<Image> image_;
  std::unique_ptr<Export> target_;
};

TEST_F(FileSystemWithoutAllocation, ZeroesWithoutHolesAreWritten) {
  EXPECT_EQ(target_->Zero(kBlock, 2 * kBlock, Export::Hole::kForbidden,
                          Export::Speed::kAny, nullptr),
            0);
  Bytes wanted = Pattern(0, 4 * kBlock);
  wanted.replace(kBlock, 2 * kBlock, 2 * kBlock, '\0');
  EXPECT_TRUE(image_->Read(0, 4 * kBlock + 1) == wanted);
  EXPECT_GE(image_->AllocatedBytes(), 4 * kBlock);
}

TEST_F(FileSystemWithoutAllocation,
       AFastZeroWithoutHolesIsRefusedAndChangesNothing) {
  EXPECT_EQ(target_->Zero(kBlock, 2 * kBlock, Export::Hole::kForbidden,
                          Export::Speed::kFastOnly, nullptr),
            EOPNOTSUPP);
  EXPECT_TRUE(image_->Read(0, 4 * kBlock + 1) == Pattern(0, 4 * kBlock));
}

TEST_F(FileSystemWithoutAllocation, ZeroesThatAreWrittenCanBeCutShort) {
  const std::atomic<bool> cut_short = true;
  EXPECT_EQ(target_->Zero(kBlock, 2 * kBlock, Export::Hole::kForbidden,
                          Export::Speed::kAny, &cut_short),
            ECANCELED);
  EXPECT_TRUE(image_->Read(0, 4 * kBlock + 1) == Pattern(0, 4 * kBlock));
}

TEST_F(FileSystemWithoutAllocation, AFastZeroThatMayLeaveAHoleSucceeds) {
  EXPECT_EQ(target_->Zero(kBlock, 2 * kBlock, Export::Hole::kAllowed,
                          Export::Speed::kFastOnly, nullptr),
            0);
  EXPECT_EQ(Read(*target_, kBlock, 2 * kBlock), Bytes(2 * kBlock, '\0'));
}

// A full file system loses nothing, so that the connection can go on.
TEST(FullFileSystem, RefusesWhatNeedsSpaceAndNothingElse) {
  PrivateMount tmpfs("tmpfs", "size=512k");
  NBDTEST_REQUIRE(tmpfs.mounted(), tmpfs.problem());
  const Image image(tmpfs.path());
  image.Truncate(64 * kBlock);
  const std::unique_ptr<Export> target = Open(image.path());
  for (const bool durable : {false, true}) {
    EXPECT_EQ(Write(*target, 0, Pattern(0, 32 * kBlock), durable), ENOSPC);
    EXPECT_EQ(Write(*target, 63 * kBlock, "x", durable), ENOSPC);
    EXPECT_EQ(target->Zero(32 * kBlock, 16 * kBlock, Export::Hole::kForbidden,
                           Export::Speed::kAny, nullptr),
              ENOSPC);
    EXPECT_EQ(target->Flush(), 0);
    // Where there is space already, there still is.
    EXPECT_EQ(Write(*target, 0, Pattern(0, 512), durable), 0);
    EXPECT_EQ(target->Zero(32 * kBlock, 16 * kBlock, Export::Hole::kAllowed,
                           Export::Speed::kAny, nullptr),
              0);
  }
  // And a trim makes some.
  EXPECT_EQ(target->Trim(0, 64 * kBlock), 0);
  EXPECT_EQ(Write(*target, 63 * kBlock, "x", /*durable=*/true), 0);
}

}  // namespace
}  // namespace nbdinetd
