#include "export/base_facts.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "export/checksum.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kDigestBytes = 1 << 20;
constexpr uint64_t kNsPerSecond = 1'000'000'000;

absl::StatusOr<uint64_t> DigestOf(Export& base, uint64_t offset,
                                  uint64_t length) {
  std::vector<char> bytes(length);
  size_t done = 0;
  if (const StorageError error =
          base.Read(offset, absl::MakeSpan(bytes), &done)) {
    return ErrnoStatus(error.number,
                       absl::StrCat("failed to read ", Quoted(base.path())),
                       absl::StatusCode::kUnavailable);
  }
  return Checksum({bytes.data(), bytes.size()});
}

}  // namespace

uint64_t TimeOfChange(const struct stat& st) {
  return static_cast<uint64_t>(st.st_mtim.tv_sec) * kNsPerSecond +
         static_cast<uint64_t>(st.st_mtim.tv_nsec);
}

absl::StatusOr<BaseFacts> ReadBaseFacts(Export& base) {
  BaseFacts facts;
  facts.size_bytes = base.facts().size_bytes;
  struct stat st;
  if (FileStatus(base.lock_fd(), &st) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fstat of ", Quoted(base.path())),
                       absl::StatusCode::kUnavailable);
  }
  if (!S_ISBLK(st.st_mode)) {
    facts.inode = st.st_ino;
    facts.mtime_ns = TimeOfChange(st);
  }
  const uint64_t length = std::min(facts.size_bytes, kDigestBytes);
  if (length == 0) return facts;
  absl::StatusOr<uint64_t> digest = DigestOf(base, 0, length);
  if (!digest.ok()) return digest.status();
  facts.first_digest = facts.last_digest = *digest;
  if (facts.size_bytes == length) return facts;
  digest = DigestOf(base, facts.size_bytes - length, length);
  if (!digest.ok()) return digest.status();
  facts.last_digest = *digest;
  return facts;
}

std::string ChangesOf(const BaseFacts& before, const BaseFacts& now) {
  std::vector<absl::string_view> changes;
  if (before.size_bytes != now.size_bytes) changes.push_back("its size");
  if (before.inode != now.inode) changes.push_back("the file (its inode)");
  if (before.mtime_ns != now.mtime_ns) {
    changes.push_back("the time of its last change");
  }
  if (before.first_digest != now.first_digest) {
    changes.push_back("its first MiB");
  }
  if (before.last_digest != now.last_digest) changes.push_back("its last MiB");
  std::string text;
  for (size_t i = 0; i < changes.size(); ++i) {
    absl::StrAppend(&text,
                    i == 0                    ? ""
                    : i + 1 == changes.size() ? " and "
                                              : ", ",
                    changes[i]);
  }
  return text;
}

}  // namespace nbdinetd
