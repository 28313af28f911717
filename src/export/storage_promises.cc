#include "export/storage_promises.h"

#include <linux/magic.h>

#include <algorithm>
#include <iterator>

#include "absl/strings/ascii.h"

namespace nbdinetd {
namespace {

using enum OtherHosts;
using enum Durability;
using enum ExtentSource;

// linux/magic.h lacks these, or some of its versions do.
constexpr uint64_t kXfsMagic = 0x58465342;
constexpr uint64_t kF2fsMagic = 0xf2f52010;
constexpr uint64_t kExfatMagic = 0x2011bab0;
constexpr uint64_t kNtfs3Magic = 0x7366746e;
constexpr uint64_t kBcachefsMagic = 0xca451a4e;
constexpr uint64_t kZfsMagic = 0x2fc12fc1;
constexpr uint64_t kCephMagic = 0x00c36400;
constexpr uint64_t kCifsMagic = 0xff534d42;
constexpr uint64_t kSmb2Magic = 0xfe534d42;
constexpr uint64_t kGfs2Magic = 0x01161970;
constexpr uint64_t kOcfs2Magic = 0x7461636f;
constexpr uint64_t kLustreMagic = 0x0bd00bd0;
constexpr uint64_t kFuseMagic = 0x65735546;

// No file system has this magic, which is that of the unknown ones.
constexpr uint64_t kOtherMagic = ~uint64_t{0};
// Block devices; those of no known name have the type nullptr.
constexpr uint64_t kDevice = 0;
// No device has this name.
constexpr char kMappedType[] = "over a network device";

constexpr bool kCoherent = true, kStale = false;
constexpr bool kReach = true, kLocal = false;

// Of file systems that one host has mounted: all its processes share the pages
// of a file, and fsync(2) writes back whatever they have written to it. If the
// administrator says that other hosts mount them all the same, nothing holds
// between hosts.
constexpr StoragePromises OfOneHost(const char* name, uint64_t magic,
                                    ExtentSource holes,
                                    Durability durability = kStable) {
  return {.name = name,
          .magic = magic,
          .type = nullptr,
          .reached_by = kNo,
          .coherent_on_host = kCoherent,
          .coherent_between_hosts = kStale,
          .coherent_when_direct = kStale,
          .locks_reach_hosts = kLocal,
          .local_locks = nullptr,
          .durability = durability,
          .holes = holes,
          .direct_by_default = false};
}

// A file system that nobody can write to is the same for everyone.
constexpr StoragePromises OfReadOnly(const char* name, uint64_t magic) {
  StoragePromises row = OfOneHost(name, magic, kSeekAfterSync);
  row.reached_by = kUnknown;
  row.coherent_between_hosts = row.coherent_when_direct = kCoherent;
  return row;
}

struct Network {
  const char* name;
  uint64_t magic;
  const char* type = nullptr;
  bool coherent_on_host = kCoherent;
  bool coherent_between_hosts = kStale;
  bool locks_reach_hosts = kLocal;
  const char* local_locks = nullptr;
  Durability durability = kServer;
  ExtentSource holes = kSeekAfterSync;
  bool direct_by_default = false;
  // Only if requests pass by the page cache.
  bool coherent_when_direct = kStale;
};
// Of file systems that several hosts have mounted.
constexpr StoragePromises OfNetwork(const Network& row) {
  return {.name = row.name,
          .magic = row.magic,
          .type = row.type,
          .reached_by = kYes,
          .coherent_on_host = row.coherent_on_host,
          .coherent_between_hosts = row.coherent_between_hosts,
          .coherent_when_direct =
              row.coherent_between_hosts || row.coherent_when_direct,
          .locks_reach_hosts = row.locks_reach_hosts,
          .local_locks = row.local_locks,
          .durability = row.durability,
          .holes = row.holes,
          .direct_by_default = row.direct_by_default};
}

// Of block devices: each host has a page cache of its own for one, and fcntl(2)
// locks the node in /dev, which is a file of this host. SEEK_HOLE finds no
// holes there.
constexpr StoragePromises OfDevice(const char* name, const char* type,
                                   OtherHosts reached_by,
                                   bool coherent_when_direct,
                                   Durability durability = kStable) {
  return {.name = name,
          .magic = kDevice,
          .type = type,
          .reached_by = reached_by,
          .coherent_on_host = kCoherent,
          .coherent_between_hosts = kStale,
          .coherent_when_direct = coherent_when_direct,
          .locks_reach_hosts = kLocal,
          .local_locks = nullptr,
          .durability = durability,
          .holes = kNoHoles,
          .direct_by_default = false};
}

constexpr StoragePromises kTable[] = {
    // Which of these report dirty pages as holes: tests/unit/export/
    // extents_test.cc and tests/torture/file_systems_test.py, on each of them
    // that the kernel has.
    OfOneHost("ext2, ext3 or ext4", EXT4_SUPER_MAGIC, kMap),
    OfOneHost("XFS", kXfsMagic, kMapWithoutHoles),
    OfOneHost("btrfs", BTRFS_SUPER_MAGIC, kSeek),
    OfOneHost("F2FS", kF2fsMagic, kSeekWhereClean),
    // Not tested; its SEEK_DATA looks into the page cache (fs/bcachefs in Linux
    // 6.7).
    OfOneHost("bcachefs", kBcachefsMagic, kSeekAfterSync),
    // fsync(2) writes to the intent log, and leaves dirty what SEEK_HOLE looks
    // at; OpenZFS from 2.1.4 to 2.1.13, and up to 2.2.1, then reports holes
    // that hold data (openzfs/zfs issue 15526). Debian 12 has 2.1.11.
    OfOneHost("ZFS", kZfsMagic, kNoHoles),
    OfOneHost("FAT", MSDOS_SUPER_MAGIC, kSeekWhereClean),
    OfOneHost("exFAT", kExfatMagic, kSeekWhereClean),
    OfOneHost("NTFS (ntfs3)", kNtfs3Magic, kSeekWhereClean),
    // tmpfs(5), and Documentation/filesystems/ramfs-rootfs-initramfs.rst.
    OfOneHost("tmpfs", TMPFS_MAGIC, kSeek, kNothing),
    OfOneHost("ramfs", RAMFS_MAGIC, kSeekAfterSync, kNothing),
    OfOneHost("hugetlbfs", HUGETLBFS_MAGIC, kSeekAfterSync, kNothing),
    // A file that is written to is in the upper layer, which only one mount may
    // use ("Sharing and copying layers" in
    // Documentation/filesystems/overlayfs.rst). Durable is what is durable
    // there, unless the mount has the option "volatile".
    OfOneHost("overlayfs", OVERLAYFS_SUPER_MAGIC, kSeekAfterSync, kServer),
    OfReadOnly("squashfs", SQUASHFS_MAGIC),
    OfReadOnly("EROFS", EROFS_SUPER_MAGIC_V1),
    OfReadOnly("ISO 9660", ISOFS_SUPER_MAGIC),

    // Capabilities of the MDS decide who may cache what, and fcntl(2) locks are
    // the MDS's (fs/ceph/caps.c and locks.c in Linux); fsync(2) waits until all
    // replicas are stored. tests/cluster/kernel_cephfs_test.py.
    OfNetwork({.name = "CephFS",
               .magic = kCephMagic,
               .coherent_between_hosts = kCoherent,
               .locks_reach_hosts = kReach,
               .durability = kStable}),
    // "readers may get stale data from page cache" (fuse_disable_pagecache in
    // Ceph's documentation): ceph-fuse can't take pages from the kernel while
    // two hosts have a file open for writing. Of 120 blocks that had been read
    // before, all were stale after a flush at another mount; with O_DIRECT,
    // none. A write of a part of a page sends that part alone.
    OfNetwork({.name = "CephFS (ceph-fuse)",
               .magic = kFuseMagic,
               .type = "fuse.ceph-fuse",
               .locks_reach_hosts = kReach,
               .durability = kStable,
               .direct_by_default = true,
               .coherent_when_direct = kCoherent}),
    // Close-to-open: "DATA AND METADATA COHERENCE" in nfs(5), where local_lock=
    // and nolock are as well. The export option async lets a server answer
    // before it has stored (exports(5)). O_DIRECT reaches the server;
    // but a part of a block goes through the page cache (Direct), and takes old
    // bytes of its page along if the file has no locks (nfs_can_extend_write()
    // in fs/nfs/write.c), or the client has a delegation for writing.
    // tests/vm/nfs_test.py.
    OfNetwork({.name = "NFS",
               .magic = NFS_SUPER_MAGIC,
               .locks_reach_hosts = kReach,
               .local_locks = "nolock,local_lock=all,local_lock=posix",
               .direct_by_default = true}),
    // cache=strict is coherent as far as the server grants and breaks oplocks
    // (mount.cifs(8)); locks aren't POSIX's. Neither was tested.
    OfNetwork({.name = "SMB", .magic = kCifsMagic}),
    OfNetwork({.name = "SMB", .magic = kSmb2Magic}),
    // "changes made to the filesystem on one machine show up immediately on all
    // other machines in the cluster" (fs/gfs2/Kconfig); dlm_controld(8) has the
    // POSIX locks. lock_nolock is the protocol for a single host.
    OfNetwork({.name = "GFS2",
               .magic = kGfs2Magic,
               .coherent_between_hosts = kCoherent,
               .locks_reach_hosts = kReach,
               .local_locks = "localflocks,lockproto=lock_nolock",
               .durability = kStable}),
    // Coherent by its lock manager (Documentation/filesystems/ocfs2.rst).
    // fcntl(2) locks are the cluster's only with a stack in user space, which
    // can't be told from the usual o2cb (fs/ocfs2/file.c,
    // ocfs2_fops_no_plocks).
    OfNetwork({.name = "OCFS2",
               .magic = kOcfs2Magic,
               .coherent_between_hosts = kCoherent,
               .durability = kStable}),
    // "clients never see stale data" (Lustre Operations Manual).
    // mount.lustre(8)
    // has the options of locks.
    OfNetwork({.name = "Lustre",
               .magic = kLustreMagic,
               .coherent_between_hosts = kCoherent,
               .locks_reach_hosts = kReach,
               .local_locks = "localflock,noflock",
               .durability = kStable}),
    // Its translators and the kernel cache for a second and more; SEEK_DATA may
    // ask the wrong brick, and doesn't know shards (gluster/glusterfs issues
    // 3780 and 597).
    OfNetwork({.name = "GlusterFS",
               .magic = kFuseMagic,
               .type = "fuse.glusterfs",
               .coherent_on_host = kStale,
               .holes = kNoHoles}),
    // The server can't take pages back from a client's cache
    // (Documentation/filesystems/9p.rst), and QEMU's grants every lock.
    OfNetwork({.name = "9p", .magic = V9FS_MAGIC}),
    // The same; virtiofsd leaves locks to the guest without
    // --posix-lock or an option like it.
    OfNetwork({.name = "virtiofs", .magic = kFuseMagic, .type = "virtiofs"}),
    // It writes behind, for each open file on its own, and fsync(2) says
    // nothing where the server lacks fsync@openssh.com (libfuse/sshfs pull
    // request 19). SFTP has no locks.
    OfNetwork({.name = "SSHFS",
               .magic = kFuseMagic,
               .type = "fuse.sshfs",
               .coherent_on_host = kStale}),
    // Its program decides what fsync(2) of one open file covers.
    OfNetwork({.name = "a FUSE file system",
               .magic = kFuseMagic,
               .coherent_on_host = kStale}),
    OfNetwork({.name = "a file system that nbdinetd doesn't know",
               .magic = kOtherMagic}),

    // krbd caches nothing below the page cache; DRBD writes to both hosts
    // before it answers (protocol C; drbd.conf(5)).
    OfDevice("an RBD device", "rbd", kYes, kCoherent),
    OfDevice("a DRBD device", "drbd", kYes, kCoherent),
    // Its server may cache for itself: rbd-nbd does.
    OfDevice("an NBD device", "nbd", kYes, kStale, kServer),
    // dm-cache, dm-writecache and RAID remember on this host what they write.
    OfDevice("a device-mapper or RAID device over a network block device",
             kMappedType, kYes, kStale),
    OfDevice("a device-mapper device", "dm-", kUnknown, kStale),
    OfDevice("a RAID device", "md", kUnknown, kStale),
    // It caches the file below, which may lie anywhere.
    OfDevice("a loop device", "loop", kUnknown, kStale, kServer),
    // One of a storage network (iSCSI, Fibre Channel, NVMe over fabrics, or a
    // disk that two virtual machines share) looks like a local one.
    OfDevice("a SCSI disk", "sd", kUnknown, kCoherent),
    OfDevice("an NVMe disk", "nvme", kUnknown, kCoherent),
    OfDevice("a virtio disk", "vd", kUnknown, kCoherent),
    OfDevice("a Xen disk", "xvd", kUnknown, kCoherent),
    OfDevice("a memory card", "mmcblk", kNo, kStale),
    OfDevice("persistent memory", "pmem", kNo, kStale),
    OfDevice("a disk in memory", "ram", kNo, kStale, kNothing),
    OfDevice("a disk in memory", "zram", kNo, kStale, kNothing),
    OfDevice("an optical disc", "sr", kNo, kStale),
    OfDevice("a ZFS volume", "zd", kNo, kStale),
    OfDevice("a block device that nbdinetd doesn't know", nullptr, kYes,
             kStale),
};

template <typename Predicate>
constexpr const StoragePromises& Row(Predicate is_it) {
  return *std::find_if(std::begin(kTable), std::end(kTable), is_it);
}

constexpr const StoragePromises& kUnknownFileSystem =
    Row([](const StoragePromises& row) { return row.magic == kOtherMagic; });
constexpr const StoragePromises& kUnknownDevice =
    Row([](const StoragePromises& row) {
      return row.magic == kDevice && row.type == nullptr;
    });
constexpr const StoragePromises& kMapped = Row([](const StoragePromises& row) {
  return row.type != nullptr && absl::string_view(row.type) == kMappedType;
});

}  // namespace

absl::Span<const StoragePromises> StoragePromisesTable() { return kTable; }

const StoragePromises& PromisesOfUnknown() { return kUnknownFileSystem; }

const StoragePromises& PromisesOfMappedNetworkDevice() { return kMapped; }

const StoragePromises& PromisesOfFileSystem(uint64_t magic,
                                            absl::string_view type) {
  if (magic == kDevice) return kUnknownFileSystem;
  // Those with a type come before the one for the others.
  for (const StoragePromises& row : kTable) {
    if (row.magic != magic) continue;
    if (row.type == nullptr || type == row.type) return row;
  }
  return kUnknownFileSystem;
}

bool DependsOnMount(uint64_t magic) {
  return std::any_of(
      std::begin(kTable), std::end(kTable),
      [magic](const StoragePromises& row) {
        return row.magic != kDevice && row.magic == magic &&
               (row.type != nullptr || row.local_locks != nullptr);
      });
}

const StoragePromises& PromisesOfDevice(absl::string_view name) {
  for (const StoragePromises& row : kTable) {
    if (row.magic != kDevice || row.type == nullptr) continue;
    const absl::string_view type = row.type;
    if (name.substr(0, type.size()) != type) continue;
    const absl::string_view rest = name.substr(type.size());
    // "sd" is followed by letters, the others by a number.
    const bool has_letters = type == "sd" || type == "vd" || type == "xvd";
    if (!rest.empty() &&
        (has_letters
             ? absl::ascii_islower(static_cast<unsigned char>(rest[0]))
             : absl::ascii_isdigit(static_cast<unsigned char>(rest[0])))) {
      return row;
    }
  }
  return kUnknownDevice;
}

}  // namespace nbdinetd
