// Kept copies after every crash: what a client finds when the process was
// killed, or the power was cut, at each system call.
//
// All writes and syncs of a copy's file are recorded (recorder.h).

#include "export/kept_copy.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "export/base_facts.h"
#include "export/copy_settings.h"
#include "export/export_settings.h"
#include "export/layer.h"
#include "export/open.h"
#include "support/image.h"
#include "unit/export/recorder.h"

namespace nbdinetd {
namespace {

using nbdtest::Bytes;
using Event = nbdtest::StorageEvent;
using nbdtest::Killed;
using nbdtest::Pattern;
using nbdtest::Recorder;
using nbdtest::TempImage;

constexpr uint64_t kBlock = 4096;
constexpr char kThisBoot[] = "this-boot";
constexpr char kNextBoot[] = "next-boot";

// What clients wrote to each byte: the value and the number of the write.
struct Written {
  size_t client;
  size_t number;  // from 1 for each client; it counts when it is answered
  uint64_t offset;
  std::string bytes;
};

class KeptCopyTest : public testing::Test {
 protected:
  KeptCopyTest()
      : base_(TempImage::WithPattern(kBlocks * kBlock + 100)),
        size_(kBlocks * kBlock + 100),
        file_(base_.directory() + "/copy") {
    Recorder::skips_syncs = true;
  }
  ~KeptCopyTest() override { Recorder::skips_syncs = false; }

  std::shared_ptr<Export> Base() {
    ExportSettings settings;
    settings.read_only = true;
    std::string reason;
    auto base = OpenExport(base_.path(), settings, &reason);
    EXPECT_TRUE(base.ok()) << base.status();
    return *std::move(base);
  }

  static KeptOwner Owner() {
    return {"disk", false, ClientKind::kPsk, "alice"};
  }

  void Make(bool may_be_clone = false) {
    unlink(file_.c_str());
    const UniqueFd fd(open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    const auto base = Base();
    const absl::Status made =
        MakeCopy(fd.get(), *base,
                 {Owner(), base_.path(), kThisBoot, may_be_clone})
            .status();
    ASSERT_TRUE(made.ok()) << made;
  }

  // Makes the copy what a clone would be, on any file system.
  void MakeClone() {
    const UniqueFd fd(open(file_.c_str(), O_RDWR | O_CLOEXEC));
    FoundHeader found = *ReadHeader(fd.get());
    found.header.block_bytes = 0;
    ASSERT_EQ(ftruncate(fd.get(), 0), 0);
    ASSERT_EQ(ftruncate(fd.get(),
                        static_cast<off_t>(found.header.layout().file_bytes)),
              0);
    ASSERT_EQ(WriteAll(fd.get(), 0, Pattern(0, size_)), 0);
    ASSERT_EQ(ReplaceHeader(fd.get(), found), 0);
  }

  // nullptr on failure.
  std::shared_ptr<Export> Open(const std::string& boot_id,
                               uint64_t max_bytes = CopySettings().max_bytes) {
    UniqueFd fd(open(file_.c_str(), O_RDWR | O_CLOEXEC));
    auto base = Base();
    auto found = CheckCopy(fd.get(), *base, Owner());
    EXPECT_TRUE(found.ok()) << found.status();
    if (!found.ok()) return nullptr;
    auto copy = OpenCopy(std::move(fd), std::move(base),
                         {*std::move(found), boot_id, max_bytes});
    EXPECT_TRUE(copy.ok()) << copy.status();
    return copy.ok() ? *std::move(copy) : nullptr;
  }

  std::string Content(Export& target) const {
    std::string content(size_, '\0');
    size_t done = 0;
    const StorageError error =
        target.Read(0, absl::MakeSpan(content.data(), content.size()), &done);
    EXPECT_EQ(error.number, 0);
    return content;
  }

  std::string FileContent() const {
    const UniqueFd fd(open(file_.c_str(), O_RDONLY | O_CLOEXEC));
    std::string content(static_cast<size_t>(lseek(fd.get(), 0, SEEK_END)),
                        '\0');
    EXPECT_EQ(ReadAll(fd.get(), 0, content.data(), content.size()), 0);
    return content;
  }

  void SetFileContent(const std::string& content) const {
    // ext4 writes a file out that replaces the content of another one.
    unlink(file_.c_str());
    const UniqueFd fd(
        open(file_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(WriteAll(fd.get(), 0, content), 0);
  }

  std::string CutOff(std::string file, const std::vector<Event>& events,
                     size_t end) {
    return nbdtest::CutOff(std::move(file), events, end, random_);
  }

  // Compares each byte with what it may be: `promised` has the number of each
  // client's last write that must be there. Later ones may be.
  void Expect(const std::string& content, const std::vector<Written>& written,
              const std::vector<size_t>& promised, const std::string& what) {
    std::string promise = Pattern(0, size_);
    for (const Written& write : written) {
      if (write.number > promised[write.client]) continue;
      promise.replace(write.offset, write.bytes.size(), write.bytes);
    }
    for (uint64_t i = 0; i < size_; ++i) {
      if (content[i] == promise[i]) continue;
      const bool is_later = std::any_of(
          written.begin(), written.end(), [&](const Written& write) {
            return write.number > promised[write.client] && i >= write.offset &&
                   i - write.offset < write.bytes.size() &&
                   write.bytes[i - write.offset] == content[i];
          });
      if (is_later) continue;
      FAIL() << what << ": byte " << i << " (block " << i / kBlock << ") is "
             << static_cast<int>(content[i]);
    }
  }

  // What was promised before event `end`.
  static std::vector<size_t> Promised(const std::vector<Event>& events,
                                      size_t end, size_t clients) {
    std::vector<size_t> promised(clients, 0);
    for (size_t i = 0; i < end; ++i) {
      if (events[i].kind != Event::Kind::kPromise) continue;
      promised[events[i].client] =
          std::max(promised[events[i].client], events[i].writes);
    }
    return promised;
  }

  static constexpr uint64_t kBlocks = 12;
  const TempImage base_;
  const uint64_t size_;
  const std::string file_;
  std::mt19937_64 random_{4711};
};

TEST_F(KeptCopyTest, HasWhatWasWrittenBefore) {
  Make();
  for (int round = 0; round < 3; ++round) {
    const auto copy = Open(kThisBoot);
    ASSERT_NE(copy, nullptr);
    std::string content = Content(*copy);
    EXPECT_EQ(content.substr(5000, 6) == "second", round > 0);
    ASSERT_EQ(copy->Write(5000, absl::MakeConstSpan("second", 6), false), 0);
    EXPECT_FALSE(copy->facts().read_only);
    EXPECT_FALSE(copy->facts().temporary);
    EXPECT_TRUE(copy->facts().private_copy);
  }
  EXPECT_EQ(base_.Read(0, size_), Pattern(0, size_));
}

// One client, which flushes, and writes durably.
TEST_F(KeptCopyTest, SurvivesEveryCrash) {
  Make();
  const std::string empty = FileContent();
  Recorder recorder;
  std::vector<Written> written;
  std::vector<std::pair<size_t, size_t>> answered;  // {event, write}
  {
    const auto copy = Open(kThisBoot);
    ASSERT_NE(copy, nullptr);
    for (size_t number = 1; number <= 40; ++number) {
      const uint64_t length = 1 + random_() % (random_() % 3 == 0 ? 20000 : 99);
      const uint64_t offset = random_() % (size_ - length);
      const std::string bytes(length, static_cast<char>(number));
      written.push_back({0, number, offset, bytes});
      const bool durable = random_() % 5 == 0;
      ASSERT_EQ(copy->Write(offset, absl::MakeConstSpan(bytes), durable), 0);
      answered.emplace_back(recorder.size(), number);
      if (durable) {
        // It promises only itself, and a flush all before.
        if (random_() % 2 == 0) {
          ASSERT_EQ(copy->Flush(), 0);
          recorder.Add({.kind = Event::Kind::kPromise, .writes = number});
        }
      } else if (random_() % 6 == 0) {
        ASSERT_EQ(copy->Flush(), 0);
        recorder.Add({.kind = Event::Kind::kPromise, .writes = number});
      }
    }
  }
  const std::vector<Event> events = recorder.events();
  ASSERT_GT(events.size(), 80u);
  for (size_t end = 0; end <= events.size(); ++end) {
    SCOPED_TRACE(end);
    // Killed: all that was answered is there.
    size_t last = 0;
    for (const auto& [event, number] : answered) {
      if (event <= end) last = number;
    }
    SetFileContent(Killed(empty, events, end));
    auto copy = Open(kThisBoot);
    ASSERT_NE(copy, nullptr);
    Expect(Content(*copy), written, {last}, "killed");
    copy.reset();
    for (int i = 0; i < 2; ++i) {
      std::string cut = CutOff(empty, events, end);
      SetFileContent(cut);
      Recorder again;
      copy = Open(kNextBoot);
      ASSERT_NE(copy, nullptr);
      const std::string content = Content(*copy);
      const std::vector<size_t> promised = Promised(events, end, 1);
      Expect(content, written, promised, "cut off");
      copy.reset();
      // Once more, while it recovers.
      const std::vector<Event> recovery = again.events();
      SetFileContent(CutOff(cut, recovery, random_() % (recovery.size() + 1)));
      copy = Open(i == 0 ? "third-boot" : kNextBoot);
      ASSERT_NE(copy, nullptr);
      Expect(Content(*copy), written, promised, "cut off twice");
      copy.reset();
      if (HasFatalFailure()) return;
    }
  }
}

// The kernel says so once, to this process.
TEST_F(KeptCopyTest, RemembersALossThatOpeningFinds) {
  for (const bool is_clone : {false, true}) {
    SCOPED_TRACE(is_clone);
    Make();
    if (is_clone) MakeClone();
    UniqueFd fd(open(file_.c_str(), O_RDWR | O_CLOEXEC));
    auto base = Base();
    auto found = CheckCopy(fd.get(), *base, Owner());
    ASSERT_TRUE(found.ok()) << found.status();
    Recorder::faults.fd = fd.get();
    Recorder::faults.failed_syncs = 1;
    const auto copy =
        OpenCopy(std::move(fd), base,
                 {*std::move(found), kNextBoot, CopySettings().max_bytes});
    Recorder::faults.fd = -1;
    EXPECT_EQ(Recorder::faults.failed_syncs, 0);
    EXPECT_FALSE(copy.ok());
    fd = UniqueFd(open(file_.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(absl::IsFailedPrecondition(
        CheckCopy(fd.get(), *base, Owner()).status()));
  }
}

// A durable write promises itself alone.
TEST_F(KeptCopyTest, KeepsDurableWrites) {
  for (int round = 0; round < 15; ++round) {
    Make();
    const std::string empty = FileContent();
    Recorder recorder;
    std::vector<Written> written;
    const auto copy = Open(kThisBoot);
    ASSERT_NE(copy, nullptr);
    // Blocks of which each has a client of its own.
    std::vector<size_t> numbers(kBlocks, 0);
    for (int i = 0; i < 40; ++i) {
      const size_t block = random_() % 6;
      const std::string bytes(1 + random_() % 50, static_cast<char>(i + 1));
      const uint64_t offset = block * kBlock + random_() % (kBlock - 50);
      written.push_back({block, ++numbers[block], offset, bytes});
      const bool durable = random_() % 3 == 0;
      ASSERT_EQ(copy->Write(offset, absl::MakeConstSpan(bytes), durable), 0);
      // Only this write is promised, and the ones before it on the same bytes
      // are overwritten; those beside may be older: a client of its own each.
      if (!durable) continue;
      Event promise = {Event::Kind::kPromise};
      promise.client = written.size() - 1;
      recorder.Add(std::move(promise));
    }
    const std::vector<Event> events = recorder.events();
    for (size_t end = 0; end <= events.size(); ++end) {
      SetFileContent(CutOff(empty, events, end));
      const auto after = Open(kNextBoot);
      ASSERT_NE(after, nullptr);
      // The last durable write of each block, if nothing was written later.
      const std::string content = Content(*after);
      for (size_t i = 0; i < end; ++i) {
        if (events[i].kind != Event::Kind::kPromise) continue;
        const Written& write = written[events[i].client];
        for (uint64_t k = 0; k < write.bytes.size(); ++k) {
          std::string may(1, write.bytes[k]);
          for (size_t w = events[i].client + 1; w < written.size(); ++w) {
            const Written& later = written[w];
            const uint64_t at = write.offset + k;
            if (at >= later.offset && at < later.offset + later.bytes.size()) {
              may += later.bytes[at - later.offset];
            }
          }
          ASSERT_NE(may.find(content[write.offset + k]), std::string::npos)
              << "round " << round << ", cut before event " << end
              << ", durable write " << events[i].client;
        }
      }
    }
  }
}

// Several workers write into blocks whose bits share bytes of the maps.
TEST_F(KeptCopyTest, SurvivesCrashesOfManyWorkers) {
  constexpr size_t kClients = 4;
  for (int round = 0; round < 4; ++round) {
    Make();
    const std::string empty = FileContent();
    Recorder recorder;
    std::mutex mutex;
    std::vector<Written> written;
    const auto copy = Open(kThisBoot);
    ASSERT_NE(copy, nullptr);
    std::vector<std::thread> threads;
    for (size_t client = 0; client < kClients; ++client) {
      threads.emplace_back([&, client, seed = random_()] {
        std::mt19937_64 random(seed);
        for (size_t number = 1; number <= 30; ++number) {
          const uint64_t block =
              random() % (kBlocks / kClients) * kClients + client;
          const uint64_t offset = block * kBlock + random() % 2000;
          const std::string bytes(1 + random() % 2000,
                                  static_cast<char>(number * 4 + client));
          {
            const std::lock_guard lock(mutex);
            written.push_back({client, number, offset, bytes});
          }
          const bool durable = random() % 6 == 0;
          EXPECT_EQ(copy->Write(offset, absl::MakeConstSpan(bytes), durable),
                    0);
          if (random() % 4 != 0) continue;
          EXPECT_EQ(copy->Flush(), 0);
          Event promise = {Event::Kind::kPromise};
          promise.client = client;
          promise.writes = number;
          recorder.Add(std::move(promise));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const std::vector<Event> events = recorder.events();
    for (size_t end = 0; end <= events.size(); end += 3) {
      SetFileContent(CutOff(empty, events, end));
      const auto after = Open(kNextBoot);
      ASSERT_NE(after, nullptr);
      Expect(Content(*after), written, Promised(events, end, kClients),
             "cut off");
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(KeptCopyTest, FlushesWithoutNewBlocksCostOneSync) {
  Make();
  Recorder recorder;
  const auto copy = Open(kThisBoot);
  ASSERT_NE(copy, nullptr);
  ASSERT_EQ(copy->Write(0, absl::MakeConstSpan("x", 1), false), 0);
  ASSERT_EQ(copy->Flush(), 0);
  ASSERT_EQ(copy->Write(10, absl::MakeConstSpan("y", 1), false), 0);
  size_t before = recorder.size();
  ASSERT_EQ(copy->Flush(), 0);
  EXPECT_EQ(recorder.size(), before + 1);
  // A durable write into a durable block is one call.
  before = recorder.size();
  ASSERT_EQ(copy->Write(10, absl::MakeConstSpan("z", 1), true), 0);
  EXPECT_LE(recorder.size(), before + 2);
  EXPECT_EQ(recorder.events().back().kind, Event::Kind::kDurableWrite);
}

TEST_F(KeptCopyTest, RefusesOthersAndChangedBases) {
  Make();
  const UniqueFd fd(open(file_.c_str(), O_RDWR | O_CLOEXEC));
  auto base = Base();
  KeptOwner other = Owner();
  other.identity = "bob";
  EXPECT_TRUE(
      absl::IsPermissionDenied(CheckCopy(fd.get(), *base, other).status()));
  EXPECT_TRUE(CheckCopy(fd.get(), *base, Owner()).ok());
  base_.Write(0, "changed");
  base = Base();
  EXPECT_TRUE(absl::IsAborted(CheckCopy(fd.get(), *base, Owner()).status()));
}

// Power may fail while the storage writes a sector, which then can't be read.
TEST_F(KeptCopyTest, IsTouchedWhereTheNewestHeaderIsnt) {
  Make();
  const UniqueFd fd(open(file_.c_str(), O_RDONLY | O_CLOEXEC));
  const absl::StatusOr<FoundHeader> found = ReadHeader(fd.get());
  ASSERT_TRUE(found.ok()) << found.status();
  const uint64_t newest = found->header.layout().slots +
                          static_cast<uint64_t>(found->slot) * kHeaderSlotBytes;
  Recorder recorder;
  ASSERT_NE(Open(kThisBoot), nullptr);
  bool was_touched = false;
  for (const Event& event : recorder.events()) {
    const uint64_t end = event.offset + event.bytes.size();
    was_touched |= !event.bytes.empty();
    EXPECT_TRUE(end <= newest || event.offset >= newest + kHeaderSlotBytes);
  }
  EXPECT_TRUE(was_touched);
  EXPECT_EQ(ReadHeader(fd.get())->slot, found->slot);
}

class CountedReads : public Layer {
 public:
  explicit CountedReads(std::shared_ptr<Export> base)
      : Layer(std::move(base)) {}

  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override {
    bytes += out.size();
    return Layer::Read(offset, out, done);
  }

  uint64_t bytes = 0;
};

TEST_F(KeptCopyTest, ReadsASmallBaseOnceToKnowIt) {
  CountedReads base(Base());
  const absl::StatusOr<BaseFacts> facts = ReadBaseFacts(base);
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_EQ(base.bytes, size_);
  EXPECT_EQ(facts->first_digest, facts->last_digest);
  Make();
  const UniqueFd fd(open(file_.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(ReadHeader(fd.get())->header.base.last_digest, facts->last_digest);
}

// What has failed isn't there, now or later.
TEST_F(KeptCopyTest, HasNoBlockWhoseDataOrBitCouldntBeWritten) {
  const std::string data(kBlock, 'x');
  // The data, and then the map.
  for (const int good : {0, 1}) {
    for (const char* boot : {kThisBoot, kNextBoot}) {
      Make();
      {
        const auto copy = Open(kThisBoot);
        ASSERT_NE(copy, nullptr);
        ASSERT_EQ(copy->Write(kBlock, absl::MakeConstSpan(data), false), 0);
        Recorder::faults.fd = copy->lock_fd();
        Recorder::faults.good_writes = good;
        Recorder::faults.failed_writes = 1;
        EXPECT_EQ(copy->Write(2 * kBlock, absl::MakeConstSpan(data), false),
                  EIO);
        EXPECT_EQ(Recorder::faults.failed_writes, 0);
        Recorder::faults.fd = -1;
        EXPECT_TRUE(Content(*copy).substr(2 * kBlock) ==
                    Pattern(2 * kBlock, size_ - 2 * kBlock));
        ASSERT_EQ(copy->Flush(), 0);
      }
      const auto copy = Open(boot);
      ASSERT_NE(copy, nullptr);
      EXPECT_TRUE(Content(*copy) ==
                  Pattern(0, kBlock) + data +
                      Pattern(2 * kBlock, size_ - 2 * kBlock));
    }
  }
}

// The storage has lost what the page cache shows.
TEST_F(KeptCopyTest, RemembersALostWrite) {
  for (const bool is_clone : {false, true}) {
    for (const bool client_flushes : {false, true}) {
      Make();
      if (is_clone) MakeClone();
      {
        Recorder::skips_syncs = false;
        const auto copy = Open(kThisBoot);
        ASSERT_NE(copy, nullptr);
        ASSERT_EQ(copy->Write(0, absl::MakeConstSpan("lost", 4), false), 0);
        Recorder::faults.fd = copy->lock_fd();
        Recorder::faults.failed_syncs = 1;
        if (client_flushes) {
          EXPECT_EQ(copy->Flush(), EIO);
          EXPECT_EQ(copy->Flush(), EIO);
        }
      }
      EXPECT_EQ(Recorder::faults.failed_syncs, 0);
      Recorder::faults.fd = -1;
      Recorder::skips_syncs = true;
      const UniqueFd fd(open(file_.c_str(), O_RDWR | O_CLOEXEC));
      const auto base = Base();
      const absl::Status refused = CheckCopy(fd.get(), *base, Owner()).status();
      EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
      EXPECT_EQ(ReadHeader(fd.get())->header.lost_error, EIO);
    }
  }
}

TEST_F(KeptCopyTest, CountsZeroesThatAreAllocated) {
  if (!base_.CanZeroRanges()) GTEST_SKIP() << "zeroes can't be allocated";
  Make();
  {
    const auto copy = Open(kThisBoot, 4 * kBlock);
    ASSERT_NE(copy, nullptr);
    ASSERT_EQ(copy->Zero(2 * kBlock, 3 * kBlock, Export::Hole::kForbidden,
                         Export::Speed::kAny, nullptr),
              0);
    // This occupies nothing afterwards.
    ASSERT_EQ(copy->Zero(8 * kBlock, kBlock, Export::Hole::kAllowed,
                         Export::Speed::kAny, nullptr),
              0);
  }
  const auto copy = Open(kThisBoot, 4 * kBlock);
  ASSERT_NE(copy, nullptr);
  EXPECT_EQ(copy->Write(10 * kBlock, absl::MakeConstSpan("y", 1), false), 0);
  EXPECT_EQ(copy->Write(11 * kBlock, absl::MakeConstSpan("z", 1), false),
            ENOSPC);
  // They aren't counted twice.
  EXPECT_EQ(copy->Write(3 * kBlock, absl::MakeConstSpan("z", 1), false), 0);
}

TEST_F(KeptCopyTest, CountsWhatItStoresAlready) {
  Make();
  {
    const auto copy = Open(kThisBoot, 3 * kBlock);
    ASSERT_NE(copy, nullptr);
    const std::string data(2 * kBlock, 'x');
    ASSERT_EQ(copy->Write(0, absl::MakeConstSpan(data), false), 0);
  }
  const auto copy = Open(kThisBoot, 3 * kBlock);
  ASSERT_NE(copy, nullptr);
  EXPECT_EQ(copy->Write(10 * kBlock, absl::MakeConstSpan("y", 1), false), 0);
  EXPECT_EQ(copy->Write(11 * kBlock, absl::MakeConstSpan("z", 1), false),
            ENOSPC);
  EXPECT_EQ(copy->Write(5, absl::MakeConstSpan("z", 1), false), 0);
}

}  // namespace
}  // namespace nbdinetd
