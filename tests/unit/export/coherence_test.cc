// What follows for NBD_FLAG_CAN_MULTI_CONN and for locks from what stores an
// export, and from --shared.
#include "export/coherence.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "export/export_settings.h"
#include "export/layers.h"
#include "export/open.h"
#include "export/storage.h"
#include "support/fake_export.h"
#include "support/image.h"
#include "support/loop_device.h"
#include "support/session.h"

namespace nbdinetd {
namespace {

using nbdtest::TempImage;

constexpr uint64_t kFuse = 0x65735546, kCeph = 0x00c36400, kGfs2 = 0x01161970;

Export::Facts On(const StoragePromises& promises,
                 std::optional<bool> shared = std::nullopt) {
  Export::Facts facts;
  facts.size_bytes = 1 << 20;
  facts.storage = WithShared(
      {.promises = &promises, .served_by = promises.reached_by}, shared);
  facts.block_device = promises.magic == 0;
  return facts;
}

Export::Facts OnFileSystem(uint64_t magic, absl::string_view type = "",
                           std::optional<bool> shared = std::nullopt) {
  return On(PromisesOfFileSystem(magic, type), shared);
}

TEST(IsCoherent, AsTheFileSystemAndTheAdministratorSay) {
  struct {
    uint64_t magic;
    absl::string_view type;
    bool by_itself, alone, shared;
  } const kRows[] = {
      {EXT4_SUPER_MAGIC, "", true, true, false},
      {TMPFS_MAGIC, "", true, true, false},
      {NFS_SUPER_MAGIC, "", false, true, false},
      {kCeph, "", true, true, true},
      {kGfs2, "", true, true, true},
      {kFuse, "fuse.ceph-fuse", false, true, false},
      {kFuse, "virtiofs", false, true, false},
      {kFuse, "fuse.sshfs", false, false, false},
      {kFuse, "fuse.other", false, false, false},
      {0x12345678, "", false, true, false},
  };
  for (const auto& row : kRows) {
    const auto on = [&](std::optional<bool> shared) {
      return OnFileSystem(row.magic, row.type, shared);
    };
    EXPECT_EQ(IsCoherent(on(std::nullopt)), row.by_itself) << row.magic;
    EXPECT_EQ(IsCoherent(on(false)), row.alone) << row.magic << row.type;
    EXPECT_EQ(IsCoherent(on(true)), row.shared) << row.magic << row.type;
  }
}

TEST(IsCoherent, APrivateCopyIsNot) {
  Export::Facts facts = OnFileSystem(kCeph);
  facts.private_copy = true;
  EXPECT_FALSE(IsCoherent(facts));
}

TEST(IsCoherent, ADeviceOfSeveralHostsOnlyBesideThePageCacheInWholeBlocks) {
  for (const absl::string_view name : {"rbd0", "sda", "nbd0", "loop0"}) {
    const StoragePromises& row = PromisesOfDevice(name);
    EXPECT_FALSE(IsCoherent(On(row, true))) << name;
    EXPECT_TRUE(IsCoherent(On(row, false))) << name;
    Export::Facts direct = On(row, true);
    direct.direct_block_bytes = 4096;
    EXPECT_FALSE(IsCoherent(direct)) << name;
    direct.block_sizes.minimum = 512;
    EXPECT_FALSE(IsCoherent(direct)) << name;
    direct.block_sizes.minimum = 4096;
    EXPECT_EQ(IsCoherent(direct), row.coherent_when_direct) << name;
    direct.block_sizes.minimum = 65536;
    EXPECT_EQ(IsCoherent(direct), row.coherent_when_direct) << name;
    direct.direct_block_bytes = Export::kNoBlock;
    EXPECT_FALSE(IsCoherent(direct)) << name;
  }
}

TEST(IsCoherent, APartThatBeginsInsideOfABlockHasNoWholeOnes) {
  for (const uint64_t offset : {0, 512, 4096, 65536 + 512}) {
    Export::Facts facts = On(PromisesOfDevice("rbd0"));
    facts.direct_block_bytes = 4096;
    ExportSettings settings;
    settings.part = Part{offset};
    settings.block_sizes = BlockSizes{.minimum = 4096, .preferred = 4096};
    const auto target =
        WithLayers(std::make_unique<nbdtest::FakeExport>(facts), settings);
    ASSERT_TRUE(target.ok());
    EXPECT_EQ(IsCoherent((*target)->facts()), offset % 4096 == 0) << offset;
  }
}

TEST(IsCoherent, AFileIsAsCoherentBesideThePageCacheAsWithIt) {
  for (const uint64_t magic : {uint64_t{NFS_SUPER_MAGIC}, kCeph, kGfs2}) {
    Export::Facts facts = OnFileSystem(magic);
    const bool cached = IsCoherent(facts);
    facts.direct_block_bytes = 4096;
    EXPECT_EQ(IsCoherent(facts), cached) << magic;
  }
}

TEST(IsCoherent, CephFuseOnlyBesideThePageCache) {
  Export::Facts facts = OnFileSystem(kFuse, "fuse.ceph-fuse");
  EXPECT_FALSE(IsCoherent(facts));
  facts.direct_block_bytes = 4096;
  EXPECT_TRUE(IsCoherent(facts));
  facts.direct_block_bytes = Export::kNoBlock;
  EXPECT_TRUE(IsCoherent(facts));
}

TEST(CoherenceInWords, SayWhatToDo) {
  const auto has = [](const Export::Facts& facts, absl::string_view words) {
    EXPECT_TRUE(absl::StrContains(CoherenceInWords(facts), words))
        << CoherenceInWords(facts);
  };
  has(OnFileSystem(EXT4_SUPER_MAGIC), "no other host serves it");
  has(OnFileSystem(NFS_SUPER_MAGIC), "--shared=no");
  has(OnFileSystem(kCeph), "CephFS keeps the caches of all hosts coherent");
  has(OnFileSystem(kFuse, "fuse.sshfs", false), "--multi-conn=on");
  has(On(PromisesOfDevice("sda")), "--shared=yes");
  Export::Facts device = On(PromisesOfDevice("sda"), true);
  has(device, "--cache=none");
  device.direct_block_bytes = 512;
  has(device, "--block-size");
  device.block_sizes.minimum = 512;
  has(device, "nothing stays in the page cache");
  device.private_copy = true;
  has(device, "a copy of its own");
}

TEST(LocksReachAll, WhereNoOtherHostOrItsLocksDo) {
  EXPECT_TRUE(LocksReachAll(OnFileSystem(EXT4_SUPER_MAGIC)));
  EXPECT_FALSE(LocksReachAll(OnFileSystem(EXT4_SUPER_MAGIC, "", true)));
  EXPECT_TRUE(LocksReachAll(OnFileSystem(kCeph)));
  EXPECT_TRUE(LocksReachAll(OnFileSystem(kFuse, "fuse.ceph-fuse")));
  EXPECT_FALSE(LocksReachAll(OnFileSystem(kFuse, "fuse.sshfs")));
  EXPECT_FALSE(LocksReachAll(OnFileSystem(0x12345678)));
  EXPECT_TRUE(LocksReachAll(OnFileSystem(0x12345678, "", false)));
  // A disk that may be one of a storage network.
  EXPECT_FALSE(LocksReachAll(On(PromisesOfDevice("sda"))));
  EXPECT_TRUE(LocksReachAll(On(PromisesOfDevice("sda"), false)));
}

TEST(LocksReachAll, NotByAMountThatKeepsThemToItself) {
  Export::Facts facts = OnFileSystem(NFS_SUPER_MAGIC);
  EXPECT_TRUE(LocksReachAll(facts));
  EXPECT_EQ(WhyLocksReachNotAll(facts), "");
  facts.storage.has_local_locks = true;
  EXPECT_FALSE(LocksReachAll(facts));
  EXPECT_TRUE(absl::StrContains(WhyLocksReachNotAll(facts), "this mount"));
  facts.storage = WithShared(facts.storage, false);
  EXPECT_TRUE(LocksReachAll(facts));
}

TEST(StorageOf, AFileInMemory) {
  const UniqueFd fd(memfd_create("storage", MFD_CLOEXEC));
  struct stat st;
  ASSERT_EQ(fstat(fd.get(), &st), 0);
  const Storage storage = StorageOf(fd.get(), st);
  EXPECT_EQ(storage.promises->name, absl::string_view("tmpfs"));
  EXPECT_EQ(storage.served_by, OtherHosts::kNo);
}

TEST(StorageOf, WhatIsNoKnownFileSystemHasTheCarefulAnswer) {
  const UniqueFd fd(open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  struct stat st;
  ASSERT_EQ(fstat(fd.get(), &st), 0);
  EXPECT_EQ(StorageOf(fd.get(), st).promises, &PromisesOfUnknown());
  EXPECT_EQ(StorageOf(-1, st).promises, &PromisesOfUnknown());
  EXPECT_EQ(StorageOf(fd.get(), st).served_by, OtherHosts::kYes);
}

TEST(StorageOf, ALoopDevice) {
  const TempImage image = TempImage::WithPattern(1 << 20);
  const nbdtest::LoopDevice device(image.path(), 512, /*read_only=*/false);
  NEED_OR_SKIP(device.attached(), device.problem());
  std::string reason;
  const auto target = OpenExport(device.path(), {}, &reason);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ((*target)->facts().storage.promises->name,
            absl::string_view("a loop device"));
  EXPECT_EQ((*target)->facts().storage.served_by, OtherHosts::kUnknown);
}

TEST(StorageInSandbox, WhatIsOfAnotherMountIsKnownByItsMagicAlone) {
  const UniqueFd fd(memfd_create("storage", MFD_CLOEXEC));
  struct stat st;
  ASSERT_EQ(fstat(fd.get(), &st), 0);
  KnownStorage known = {
      st.st_dev, {.promises = &PromisesOfUnknown(), .has_local_locks = true}};
  EXPECT_EQ(StorageInSandbox(fd.get(), st, known).promises,
            &PromisesOfUnknown());
  EXPECT_TRUE(StorageInSandbox(fd.get(), st, known).has_local_locks);
  ++known.device;
  EXPECT_EQ(StorageInSandbox(fd.get(), st, known).promises->name,
            absl::string_view("tmpfs"));
  EXPECT_FALSE(StorageInSandbox(fd.get(), st, known).has_local_locks);
  // A device isn't of the file system of its node.
  st.st_mode = S_IFBLK;
  --known.device;
  EXPECT_EQ(StorageInSandbox(fd.get(), st, known).promises,
            &PromisesOfDevice(""));
}

TEST(OpenExport, HasTheAdministratorsWord) {
  const TempImage image = TempImage::WithPattern(4096);
  for (const bool shared : {false, true}) {
    std::string reason;
    const auto target = OpenExport(image.path(), {.shared = shared}, &reason);
    ASSERT_TRUE(target.ok()) << target.status();
    EXPECT_EQ((*target)->facts().storage.served_by,
              shared ? OtherHosts::kYes : OtherHosts::kNo);
  }
}

// The storage that the caller knows stands in for one of that kind.
class DefaultCacheTest : public testing::Test {
 protected:
  std::unique_ptr<Export> Open(ExportSettings settings) {
    struct stat st;
    EXPECT_EQ(stat(image_.path().c_str(), &st), 0);
    const StoragePromises& nfs = PromisesOfFileSystem(NFS_SUPER_MAGIC, "nfs");
    settings.known_storage = KnownStorage{
        st.st_dev, {.promises = &nfs, .served_by = nfs.reached_by}};
    std::string reason;
    auto opened = OpenExport(image_.path(), settings, &reason);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  // As --cache=none, if the image can be opened so.
  bool PassesByThePageCache(const Export& target) {
    EXPECT_EQ(target.facts().direct_block_bytes != 0, !target.caches_reads());
    return !target.caches_reads();
  }

  const TempImage image_ = TempImage::WithPattern(1 << 20);
};

TEST_F(DefaultCacheTest, PassesByThePageCacheWhereOtherHostsDoNotSeeIt) {
  std::string reason;
  const bool can_be_direct =
      OpenExport(image_.path(), {.cache = CacheMode::kNone}, &reason).ok();
  const auto target = Open({});
  ASSERT_NE(target, nullptr);
  EXPECT_EQ(PassesByThePageCache(*target), can_be_direct);
  EXPECT_EQ(target->facts().lacks_direct, !can_be_direct);
  EXPECT_EQ(target->facts().size_bytes, 1u << 20);
}

TEST_F(DefaultCacheTest, StaysWhereNothingIsWrittenOrTheAdministratorSaysSo) {
  for (const ExportSettings& settings :
       {ExportSettings{.read_only = true},
        ExportSettings{.cache = CacheMode::kWriteback},
        ExportSettings{.shared = false}}) {
    const auto target = Open(settings);
    ASSERT_NE(target, nullptr);
    EXPECT_FALSE(PassesByThePageCache(*target));
    EXPECT_FALSE(target->facts().lacks_direct);
  }
}

TEST_F(DefaultCacheTest, IsTheUsualOneWhereTheStorageCannotDoWithoutIt) {
  // tmpfs before Linux 6.6 has no O_DIRECT; a refusal stands in for it.
  int refused = 0;
  struct stat st;
  ASSERT_EQ(stat(image_.path().c_str(), &st), 0);
  const StoragePromises& nfs = PromisesOfFileSystem(NFS_SUPER_MAGIC, "nfs");
  ExportSettings settings;
  settings.known_storage =
      KnownStorage{st.st_dev, {.promises = &nfs, .served_by = nfs.reached_by}};
  std::string reason;
  const auto target = OpenExportWith(
      [&](int flags) {
        if ((flags & O_DIRECT) == 0) return open(image_.path().c_str(), flags);
        ++refused;
        errno = EINVAL;
        return -1;
      },
      image_.path(), settings, &reason);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ(refused, 1);
  EXPECT_TRUE((*target)->facts().lacks_direct);
  EXPECT_TRUE((*target)->caches_reads());
  EXPECT_FALSE((*target)->facts().read_only);
}

TEST(FindExtents, HolesThatMayHoldDataAreNone) {
  // A file that is a hole, on what reports wrong ones.
  const TempImage image = TempImage::Sparse(1 << 20);
  struct stat st;
  ASSERT_EQ(stat(image.path().c_str(), &st), 0);
  for (const auto& [type, hole] :
       {std::pair<const char*, bool>{"fuse.other", true},
        {"fuse.glusterfs", false}}) {
    const StoragePromises& row = PromisesOfFileSystem(kFuse, type);
    ExportSettings settings;
    settings.known_storage = KnownStorage{st.st_dev, {.promises = &row}};
    std::string reason;
    const auto target = OpenExport(image.path(), settings, &reason);
    ASSERT_TRUE(target.ok()) << target.status();
    std::pmr::monotonic_buffer_resource memory;
    Extents extents(&memory);
    ASSERT_EQ((*target)->FindExtents(0, 1 << 20, 8, nullptr, &extents), 0);
    ASSERT_EQ(extents.size(), 1u);
    EXPECT_EQ(extents[0].hole, hole) << type;
    EXPECT_EQ(extents[0].length_bytes, 1u << 20);
  }
}

}  // namespace
}  // namespace nbdinetd
