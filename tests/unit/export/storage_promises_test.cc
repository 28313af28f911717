// The table of what is promised where, what finds a row, and the document that
// shows it.
#include "export/storage_promises.h"

#include <gtest/gtest.h>
#include <linux/magic.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kFuse = 0x65735546, kCeph = 0x00c36400, kZfs = 0x2fc12fc1;

TEST(StoragePromises, AFileSystemIsFoundByItsMagic) {
  struct {
    uint64_t magic;
    absl::string_view name;
  } const kRows[] = {
      {EXT4_SUPER_MAGIC, "ext2, ext3 or ext4"},
      {BTRFS_SUPER_MAGIC, "btrfs"},
      {TMPFS_MAGIC, "tmpfs"},
      {NFS_SUPER_MAGIC, "NFS"},
      {kCeph, "CephFS"},
      {0xfe534d42, "SMB"},
      {0xff534d42, "SMB"},
      {0x12345678, "a file system that nbdinetd doesn't know"},
      // fstatfs(2) has failed; no block device is meant.
      {0, "a file system that nbdinetd doesn't know"},
  };
  for (const auto& row : kRows) {
    EXPECT_EQ(PromisesOfFileSystem(row.magic, "").name, row.name);
  }
}

TEST(StoragePromises, OnlyTheTypeTellsFuseFileSystemsApart) {
  struct {
    absl::string_view type, name;
  } const kRows[] = {
      {"fuse.ceph-fuse", "CephFS (ceph-fuse)"},
      {"fuse.glusterfs", "GlusterFS"},
      {"fuse.sshfs", "SSHFS"},
      {"virtiofs", "virtiofs"},
      {"fuse.ceph-fuse2", "a FUSE file system"},
      {"fuse", "a FUSE file system"},
      {"", "a FUSE file system"},
  };
  for (const auto& row : kRows) {
    EXPECT_EQ(PromisesOfFileSystem(kFuse, row.type).name, row.name);
  }
  // The type of another file system changes nothing.
  EXPECT_EQ(PromisesOfFileSystem(EXT4_SUPER_MAGIC, "fuse.ceph-fuse").name,
            absl::string_view("ext2, ext3 or ext4"));
}

TEST(StoragePromises, TheMountIsReadWhereItDecides) {
  for (const uint64_t magic : {kFuse, uint64_t{NFS_SUPER_MAGIC}}) {
    EXPECT_TRUE(DependsOnMount(magic)) << magic;
  }
  for (const uint64_t magic :
       {uint64_t{EXT4_SUPER_MAGIC}, uint64_t{TMPFS_MAGIC}, kZfs, kCeph,
        uint64_t{0x12345678}, uint64_t{0}}) {
    EXPECT_FALSE(DependsOnMount(magic)) << magic;
  }
}

TEST(StoragePromises, ABlockDeviceIsFoundByItsName) {
  struct {
    absl::string_view device, name;
  } const kRows[] = {
      {"rbd0", "an RBD device"},          {"rbd12", "an RBD device"},
      {"drbd0", "a DRBD device"},         {"nbd3", "an NBD device"},
      {"dm-0", "a device-mapper device"}, {"md127", "a RAID device"},
      {"loop7", "a loop device"},         {"sda", "a SCSI disk"},
      {"sdab2", "a SCSI disk"},           {"nvme0n1", "an NVMe disk"},
      {"vda", "a virtio disk"},           {"zd16", "a ZFS volume"},
      {"ram0", "a disk in memory"},
  };
  for (const auto& row : kRows) {
    EXPECT_EQ(PromisesOfDevice(row.device).name, row.name) << row.device;
  }
  for (const absl::string_view name :
       {"", "rbd", "sd", "sd1", "nbdx", "xyz0"}) {
    EXPECT_EQ(PromisesOfDevice(name).name,
              absl::string_view("a block device that nbdinetd doesn't know"))
        << name;
  }
  EXPECT_EQ(PromisesOfMappedNetworkDevice().reached_by, OtherHosts::kYes);
}

TEST(StoragePromises, TheCarefulAnswerIsForWhatIsNotKnown) {
  for (const StoragePromises* row :
       {&PromisesOfUnknown(), &PromisesOfFileSystem(kFuse, ""),
        &PromisesOfDevice("")}) {
    EXPECT_EQ(row->reached_by, OtherHosts::kYes) << row->name;
    EXPECT_FALSE(row->coherent_between_hosts) << row->name;
    EXPECT_FALSE(row->coherent_when_direct) << row->name;
    EXPECT_FALSE(row->locks_reach_hosts) << row->name;
    EXPECT_TRUE(row->holes == ExtentSource::kSeekAfterSync ||
                row->holes == ExtentSource::kNoHoles)
        << row->name;
  }
}

TEST(StoragePromises, NoRowContradictsItself) {
  for (const StoragePromises& row : StoragePromisesTable()) {
    // Nobody needs what holds between hosts where there is one.
    if (row.reached_by == OtherHosts::kNo) {
      EXPECT_FALSE(row.locks_reach_hosts) << row.name;
    }
    // What holds between hosts also holds on one.
    EXPECT_LE(row.coherent_between_hosts, row.coherent_on_host) << row.name;
    EXPECT_LE(row.coherent_between_hosts, row.coherent_when_direct) << row.name;
    EXPECT_TRUE(row.local_locks == nullptr || row.locks_reach_hosts)
        << row.name;
    EXPECT_TRUE(row.magic != 0 || row.holes == ExtentSource::kNoHoles)
        << row.name;
  }
}

// A row of the document, up to the column that is written by hand.
std::string RowOf(const StoragePromises& row) {
  const auto yes_or_no = [](bool value) { return value ? "yes" : "no"; };
  const char* const hosts = row.reached_by == OtherHosts::kNo    ? "no"
                            : row.reached_by == OtherHosts::kYes ? "yes"
                                                                 : "unknown";
  const char* const flush = row.durability == Durability::kStable   ? "yes"
                            : row.durability == Durability::kServer ? "its word"
                                                                    : "no";
  const char* const holes = row.holes == ExtentSource::kNoHoles ? "no"
                            : row.holes == ExtentSource::kSeekAfterSync
                                ? "after a sync"
                                : "yes";
  return absl::StrCat(
      "| ", row.name, " | ", hosts, " | ", yes_or_no(row.coherent_on_host),
      " | ", yes_or_no(row.coherent_between_hosts), " | ",
      yes_or_no(row.coherent_when_direct), " | ",
      yes_or_no(row.locks_reach_hosts), " | ", flush, " | ", holes, " |");
}

TEST(StoragePromises, TheDocumentHasEachRowAndNoOther) {
  const char* top = std::getenv("NBDINETD_SRCDIR");
  ASSERT_NE(top, nullptr);
  std::ifstream file(absl::StrCat(top, "/doc/storage-promises.md"));
  ASSERT_TRUE(file.is_open());
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    const bool is_row =
        absl::StartsWith(line, "| ") && !absl::StartsWith(line, "| stored on");
    if (is_row) lines.push_back(line);
  }
  std::vector<std::string> rows;
  for (const StoragePromises& row : StoragePromisesTable()) {
    std::string text = RowOf(row);
    // SMB has two magics, and memory two names.
    if (rows.empty() || rows.back() != text) rows.push_back(std::move(text));
  }
  ASSERT_EQ(lines.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(lines[i].substr(0, rows[i].size()), rows[i]);
    // How it was found out.
    EXPECT_GT(lines[i].size(), rows[i].size() + 10) << lines[i];
  }
}

}  // namespace
}  // namespace nbdinetd
