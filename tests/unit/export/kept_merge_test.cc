// Merges of kept copies into their base: what is in the base afterwards, also
// when power was cut at each system call, or the storage failed.

#include "export/kept_merge.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "export/copy_settings.h"
#include "export/export_settings.h"
#include "export/kept_copy.h"
#include "export/layer.h"
#include "export/open.h"
#include "support/image.h"
#include "unit/export/recorder.h"

namespace nbdinetd {
namespace {

using nbdtest::CutOff;
using Event = nbdtest::StorageEvent;
using nbdtest::Pattern;
using nbdtest::Recorder;
using nbdtest::Stored;
using nbdtest::TempImage;

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kSize = 24 * kBlock + 100;
constexpr char kThisBoot[] = "this-boot";
constexpr char kNextBoot[] = "next-boot";

std::string ContentOf(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string content(static_cast<size_t>(lseek(fd.get(), 0, SEEK_END)), '\0');
  EXPECT_EQ(ReadAll(fd.get(), 0, content.data(), content.size()), 0);
  return content;
}

void SetContent(const std::string& path, const std::string& content) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  EXPECT_EQ(WriteAll(fd.get(), 0, content), 0);
}

timespec TimeOf(const std::string& path) {
  struct stat st;
  EXPECT_EQ(stat(path.c_str(), &st), 0);
  return st.st_mtim;
}

void SetTime(const std::string& path, timespec time) {
  const timespec times[] = {time, time};
  EXPECT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

// A base whose zeroes are written, so that all changes are recorded, and which
// calls back before each.
class WatchedBase : public Layer {
 public:
  WatchedBase(std::shared_ptr<Export> base, std::function<void()> before)
      : Layer(std::move(base)), before_(std::move(before)) {}

  // This block can't be read any more.
  void Break(uint64_t block) { broken_ = block; }
  // Calls `after` after each successful flush.
  void AfterFlush(std::function<void()> after) { after_ = std::move(after); }

  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override {
    if (offset < (broken_ + 1) * kBlock &&
        broken_ * kBlock < offset + out.size()) {
      return EIO;
    }
    return Layer::Read(offset, out, done);
  }
  int Flush() override {
    const int error = Layer::Flush();
    if (error == 0 && after_) after_();
    return error;
  }

  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override {
    before_();
    return Layer::Write(offset, data, durable);
  }
  int Zero(uint64_t offset, uint64_t length, Hole, Speed,
           const std::atomic<bool>*) override {
    before_();
    const std::string zeroes(length, '\0');
    return Layer::Write(offset, absl::MakeConstSpan(zeroes), false);
  }

 private:
  static constexpr uint64_t kNone = kSize;  // behind the last block

  const std::function<void()> before_;
  std::function<void()> after_;
  uint64_t broken_ = kNone;
};

class KeptMergeTest : public testing::Test {
 protected:
  KeptMergeTest()
      : base_(TempImage::WithPattern(kSize)),
        copy_(base_.directory() + "/copy"),
        original_(Pattern(0, kSize)),
        merged_(original_) {
    Recorder::skips_syncs = true;
  }
  ~KeptMergeTest() override {
    Recorder::skips_syncs = false;
    Recorder::faults.fd = -1;
    Recorder::faults.failed_syncs = Recorder::faults.failed_writes = 0;
    Recorder::faults.good_syncs = Recorder::faults.good_writes = 0;
    Recorder::stops_clock = false;
  }

  static KeptOwner Owner() {
    return {"disk", false, ClientKind::kPsk, "alice"};
  }

  std::shared_ptr<Export> Base(ExportSettings settings = {}) {
    std::string reason;
    auto base = OpenExport(base_.path(), settings, &reason);
    EXPECT_TRUE(base.ok()) << base.status();
    return *std::move(base);
  }

  // Makes a copy, and lets a client write into it.
  void Make(ExportSettings settings = {}) {
    settings.read_only = true;
    {
      const UniqueFd fd(
          open(copy_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      const auto base = Base(settings);
      const absl::Status made =
          MakeCopy(fd.get(), *base,
                   {Owner(), base_.path(), kThisBoot, /*may_be_clone=*/false})
              .status();
      ASSERT_TRUE(made.ok()) << made;
    }
    UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
    auto base = Base(settings);
    const uint64_t begin = PlaceOf(*base).offset;
    auto found = CheckCopy(fd.get(), *base, Owner());
    ASSERT_TRUE(found.ok()) << found.status();
    const auto copy =
        OpenCopy(std::move(fd), base,
                 {*std::move(found), kThisBoot, CopySettings().max_bytes});
    ASSERT_TRUE(copy.ok()) << copy.status();
    const auto write = [&](uint64_t offset, const std::string& bytes) {
      ASSERT_EQ((*copy)->Write(offset, absl::MakeConstSpan(bytes), false), 0);
      merged_.replace(begin + offset, bytes.size(), bytes);
    };
    write(5, "head");
    write(3 * kBlock, std::string(2 * kBlock + 7, 'x'));
    write(9 * kBlock, std::string(kBlock, '\0'));
    write(11 * kBlock, std::string(kBlock, 'y') + std::string(kBlock, '\0'));
    const uint64_t size = base->facts().size_bytes;
    write(size - 3, "end");
  }

  // Writes a block more, which is in the live map only: the process is killed.
  void WriteUnflushed() {
    std::string killed;
    {
      UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
      auto base = Base({.read_only = true});
      auto found = CheckCopy(fd.get(), *base, Owner());
      ASSERT_TRUE(found.ok()) << found.status();
      const auto copy =
          OpenCopy(std::move(fd), base,
                   {*std::move(found), kThisBoot, CopySettings().max_bytes});
      ASSERT_TRUE(copy.ok()) << copy.status();
      const std::string bytes(kBlock, 'u');
      ASSERT_EQ((*copy)->Write(20 * kBlock, absl::MakeConstSpan(bytes), false),
                0);
      killed = ContentOf(copy_);
      merged_.replace(20 * kBlock, kBlock, bytes);
    }
    SetContent(copy_, killed);
  }

  struct Result {
    absl::Status status;
    int base_fd;
    int copy_fd;
  };
  // Merges the copy into the file, as it is now.
  Result Merge(const std::string& boot_id, ExportSettings settings = {}) {
    const UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
    absl::StatusOr<FoundHeader> found = ReadHeader(fd.get());
    EXPECT_TRUE(found.ok()) << found.status();
    const timespec before = TimeOf(base_.path());
    const bool is_first = !found->header.merge.has_value();
    const auto check = [&] {
      // Not a byte is changed before both slots say so, and before the time of
      // the base is another.
      const std::string content = ContentOf(copy_);
      for (size_t i = 1; i <= 2; ++i) {
        const auto header = DecodeHeader(absl::string_view(content).substr(
            content.size() - i * kHeaderSlotBytes, kHeaderSlotBytes));
        ASSERT_TRUE(header.ok()) << header.status();
        EXPECT_TRUE(header->merge.has_value());
      }
      const timespec now = TimeOf(base_.path());
      EXPECT_TRUE(!is_first || now.tv_sec != before.tv_sec ||
                  now.tv_nsec != before.tv_nsec);
      ++changes_;
    };
    WatchedBase base(Base(settings), check);
    base.Break(broken_block_);
    base.AfterFlush(after_flush_);
    Recorder::faults.fd = copy_fails_ ? fd.get() : base.lock_fd();
    return {MergeIntoBase(fd.get(), *found, base, boot_id), base.lock_fd(),
            fd.get()};
  }

  // Long ago, so that a change of it is one.
  void MakeOld() { SetTime(base_.path(), {1'000'000'000, 0}); }

  bool IsMerging() {
    const UniqueFd fd(open(copy_.c_str(), O_RDONLY | O_CLOEXEC));
    const absl::StatusOr<FoundHeader> found = ReadHeader(fd.get());
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() && found->header.merge.has_value();
  }

  const TempImage base_;
  const std::string copy_;
  const std::string original_;
  std::string merged_;
  int changes_ = 0;
  // Of the next merges.
  bool copy_fails_ = false;
  uint64_t broken_block_ = kSize;
  std::function<void()> after_flush_;
  std::mt19937_64 random_{4711};
};

TEST_F(KeptMergeTest, WritesWhatTheClientHasWritten) {
  MakeOld();
  Make();
  const Result result = Merge(kThisBoot);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
  EXPECT_GT(changes_, 0);
  // The copy isn't served any more, and others see another base.
  const UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      CheckCopy(fd.get(), *Base({.read_only = true}), Owner()).status()));
}

TEST_F(KeptMergeTest, WritesIntoAPart) {
  MakeOld();
  ExportSettings part;
  part.part = Part{kBlock + 512, 14 * kBlock};
  Make(part);
  // All of the file, and another part, are other bases.
  EXPECT_TRUE(absl::IsFailedPrecondition(Merge(kThisBoot).status));
  ExportSettings other = part;
  other.part->offset = kBlock;
  EXPECT_TRUE(absl::IsFailedPrecondition(Merge(kThisBoot, other).status));
  EXPECT_EQ(changes_, 0);
  EXPECT_FALSE(IsMerging());
  const Result result = Merge(kThisBoot, part);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
}

TEST_F(KeptMergeTest, LeavesAChangedOrReadOnlyBaseAlone) {
  MakeOld();
  Make();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(Merge(kThisBoot, {.read_only = true}).status));
  base_.Write(100, "changed");
  EXPECT_TRUE(absl::IsFailedPrecondition(Merge(kThisBoot).status));
  EXPECT_EQ(changes_, 0);
  EXPECT_FALSE(IsMerging());
}

TEST_F(KeptMergeTest, RefusesACopyThatIsLargerThanItsBase) {
  MakeOld();
  ExportSettings larger;
  larger.size = SizeChange{SizeChange::Kind::kExactly, 40 * kBlock};
  {
    const UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    larger.read_only = true;
    const auto base = Base(larger);
    ASSERT_TRUE(
        MakeCopy(fd.get(), *base, {Owner(), base_.path(), kThisBoot, false})
            .ok());
  }
  larger.read_only = false;
  EXPECT_TRUE(absl::IsFailedPrecondition(Merge(kThisBoot, larger).status));
  EXPECT_EQ(changes_, 0);
}

// A power cut before each system call, and then the merge once more: by the
// same command after the machine has started again.
TEST_F(KeptMergeTest, IsRepeatedAfterEveryPowerCut) {
  MakeOld();
  Make();
  const std::string flushed = merged_;
  WriteUnflushed();
  const timespec time = TimeOf(base_.path());
  const std::string kept = ContentOf(copy_);
  std::vector<Event> events;
  Result result;
  {
    Recorder recorder;
    result = Merge(kThisBoot);
    ASSERT_TRUE(result.status.ok()) << result.status;
    events = recorder.events();
  }
  ASSERT_GT(events.size(), 8u);
  int unmarked = 0;
  for (size_t end = 0; end <= events.size(); ++end) {
    for (int i = 0; i < 6; ++i) {
      SCOPED_TRACE(end);
      const std::string cut =
          CutOff(original_, events, end, random_, result.base_fd);
      SetContent(copy_, CutOff(kept, events, end, random_, result.copy_fd));
      SetContent(base_.path(), cut);
      const bool is_unmarked = !IsMerging();
      if (is_unmarked) {
        // Nothing has been changed, and nothing that was flushed is lost.
        ASSERT_TRUE(cut == original_);
        SetTime(base_.path(), time);
        ++unmarked;
      }
      std::vector<Event> again;
      Result second;
      {
        Recorder recorder;
        second = Merge(kNextBoot);
        again = recorder.events();
      }
      ASSERT_TRUE(second.status.ok()) << second.status;
      const std::string content = ContentOf(base_.path());
      ASSERT_TRUE(content == merged_ || (is_unmarked && content == flushed));
      // And what it says is durable.
      ASSERT_TRUE(Stored(cut, again, second.base_fd) == content);
    }
  }
  EXPECT_GT(unmarked, 0);
}

// The page cache has all, and calls it clean; the storage doesn't.
TEST_F(KeptMergeTest, IsNoMergeWithoutASyncOfTheBase) {
  MakeOld();
  Make();
  std::string stored = original_;
  for (int failures = 2; failures >= 0; --failures) {
    Recorder recorder;
    Recorder::faults.failed_syncs = failures > 0 ? 1 : 0;
    const Result result = Merge(kThisBoot);
    EXPECT_EQ(result.status.ok(), failures == 0) << result.status;
    EXPECT_TRUE(IsMerging());
    EXPECT_TRUE(ContentOf(base_.path()) == merged_);
    stored = Stored(stored, recorder.events(), result.base_fd);
    EXPECT_EQ(stored == merged_, failures == 0);
  }
}

TEST_F(KeptMergeTest, IsRepeatedAfterAnErrorOfTheBase) {
  MakeOld();
  Make();
  for (int good = 0; good < 4; ++good) {
    Recorder::faults.good_writes = good;
    Recorder::faults.failed_writes = 1;
    const Result result = Merge(kThisBoot);
    EXPECT_TRUE(absl::IsUnavailable(result.status)) << result.status;
    EXPECT_TRUE(IsMerging());
  }
  Recorder::faults.good_writes = Recorder::faults.failed_writes = 0;
  ASSERT_TRUE(Merge(kThisBoot).status.ok());
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
}

// The kernel says so once.
TEST_F(KeptMergeTest, TellsLaterMergesThatTheCopyHasLostSomething) {
  MakeOld();
  for (const char* boot : {kThisBoot, kNextBoot}) {
    for (int good = 0; good < 2; ++good) {
      SCOPED_TRACE(boot);
      SCOPED_TRACE(good);
      unlink(copy_.c_str());
      Make();
      copy_fails_ = true;
      Recorder::faults.good_syncs = good;
      Recorder::faults.failed_syncs = 1;
      absl::Status status = Merge(boot).status;
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
      EXPECT_EQ(Recorder::faults.failed_syncs, 0);
      EXPECT_FALSE(IsMerging());
      const std::string content = ContentOf(copy_);
      for (size_t i = 1; i <= 2; ++i) {
        const auto header = DecodeHeader(absl::string_view(content).substr(
            content.size() - i * kHeaderSlotBytes, kHeaderSlotBytes));
        ASSERT_TRUE(header.ok()) << header.status();
        EXPECT_EQ(header->lost_error, EIO);
      }
      status = Merge(boot).status;
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      const UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
      EXPECT_TRUE(absl::IsFailedPrecondition(
          CheckCopy(fd.get(), *Base({.read_only = true}), Owner()).status()));
    }
  }
  EXPECT_EQ(changes_, 0);
  EXPECT_TRUE(ContentOf(base_.path()) == original_);
}

TEST_F(KeptMergeTest, LeavesATimeThatNoCopyKnows) {
  MakeOld();
  Make();
  const timespec before = TimeOf(base_.path());
  Recorder::stops_clock = true;
  // As if the last write had been made in the same moment.
  after_flush_ = [&] { SetTime(base_.path(), before); };
  Recorder recorder;
  const Result result = Merge(kThisBoot);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_GT(changes_, 0);
  EXPECT_GT(TimeOf(base_.path()).tv_sec, before.tv_sec);
  // And it is durable.
  Event::Kind last = Event::Kind::kWrite;
  for (const Event& event : recorder.events()) {
    if (event.fd == result.base_fd) last = event.kind;
  }
  EXPECT_EQ(last, Event::Kind::kFullSync);
}

// A sector that takes no write can't be read until it has taken one.
TEST_F(KeptMergeTest, IsRepeatedWhereTheBaseCantBeRead) {
  MakeOld();
  Make();
  Recorder::faults.failed_writes = 1;
  EXPECT_TRUE(absl::IsUnavailable(Merge(kThisBoot).status));
  broken_block_ = 1;  // which the client hasn't written
  EXPECT_TRUE(absl::IsUnavailable(Merge(kThisBoot).status));
  broken_block_ = 3;
  ASSERT_TRUE(Merge(kThisBoot).status.ok());
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
}

TEST_F(KeptMergeTest, GoesOnWithTheSameBaseOnly) {
  MakeOld();
  Make();
  Recorder::faults.good_writes = 1;
  Recorder::faults.failed_writes = 1;
  EXPECT_FALSE(Merge(kThisBoot).status.ok());
  Recorder::faults.good_writes = Recorder::faults.failed_writes = 0;
  const std::string half = ContentOf(base_.path());
  changes_ = 0;
  // Another file, whatever its content.
  const std::string away = base_.path() + ".away";
  ASSERT_EQ(rename(base_.path().c_str(), away.c_str()), 0);
  {
    const UniqueFd fd(
        open(base_.path().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(WriteAll(fd.get(), 0, half), 0);
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(Merge(kThisBoot).status));
  ASSERT_EQ(rename(away.c_str(), base_.path().c_str()), 0);
  // Another size, and other content beside what the client has written.
  base_.Truncate(kSize + kBlock);
  ExportSettings part;
  part.part = Part{0, kSize};
  EXPECT_TRUE(absl::IsFailedPrecondition(Merge(kThisBoot, part).status));
  base_.Truncate(kSize);
  base_.Write(14 * kBlock, "changed");
  EXPECT_TRUE(absl::IsFailedPrecondition(Merge(kThisBoot).status));
  EXPECT_EQ(changes_, 0);
  EXPECT_TRUE(IsMerging());
  base_.Write(14 * kBlock, original_.substr(14 * kBlock, 7));
  ASSERT_TRUE(Merge(kThisBoot).status.ok());
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
}

TEST_F(KeptMergeTest, ChangesNothingIfTheCopyCantBeRead) {
  MakeOld();
  Make();
  const UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
  absl::StatusOr<FoundHeader> found = ReadHeader(fd.get());
  ASSERT_TRUE(found.ok());
  const UniqueFd unreadable(open(base_.directory().c_str(), O_RDONLY));
  WatchedBase base(Base(), [&] { ++changes_; });
  EXPECT_TRUE(absl::IsUnavailable(
      MergeIntoBase(unreadable.get(), *found, base, kThisBoot)));
  EXPECT_EQ(changes_, 0);
  EXPECT_FALSE(IsMerging());
}

TEST_F(KeptMergeTest, KeepsHolesAndMakesNew) {
  MakeOld();
  Make();
  if (!base_.CanPunchHoles()) GTEST_SKIP() << "there are no holes";
  const uint64_t before = base_.AllocatedBytes();
  const UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
  absl::StatusOr<FoundHeader> found = ReadHeader(fd.get());
  ASSERT_TRUE(found.ok());
  const auto base = Base();
  ASSERT_TRUE(MergeIntoBase(fd.get(), *found, *base, kThisBoot).ok());
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
  EXPECT_LT(base_.AllocatedBytes(), before);
}

// A clone has all bytes, and no map.
TEST_F(KeptMergeTest, WritesOnlyWhatDiffersOfAClone) {
  MakeOld();
  Make();
  {
    // What a clone would be, on any file system.
    const UniqueFd fd(open(copy_.c_str(), O_RDWR | O_CLOEXEC));
    FoundHeader found = *ReadHeader(fd.get());
    found.header.block_bytes = 0;
    const auto file_bytes =
        static_cast<off_t>(found.header.layout().file_bytes);
    ASSERT_EQ(ftruncate(fd.get(), 0), 0);
    ASSERT_EQ(ftruncate(fd.get(), file_bytes), 0);
    ASSERT_EQ(WriteAll(fd.get(), 0, merged_), 0);
    ASSERT_EQ(ReplaceHeader(fd.get(), found), 0);
  }
  Recorder recorder;
  const Result result = Merge(kThisBoot);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
  uint64_t written = 0;
  for (const Event& event : recorder.events()) {
    if (event.fd == result.base_fd) written += event.bytes.size();
  }
  EXPECT_LT(written, 10 * kBlock);
  // Once more, as after an error: all of it.
  ASSERT_TRUE(Merge(kThisBoot).status.ok());
  EXPECT_TRUE(ContentOf(base_.path()) == merged_);
}

}  // namespace
}  // namespace nbdinetd
