#include "ctl/live_statistics.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/file_status.h"
#include "base/statistics_page.h"
#include "base/unique_fd.h"
#include "ctl/client_process.h"

namespace nbdinetd::ctl {
namespace {

// A connection's process has few descriptors; one that has been taken over may
// have many.
constexpr int kMaxDescriptors = 1024;

// Opens the file for reading if it can be a page. A descriptor with O_PATH
// tells, without the effects of an open, what file it is; that file is opened,
// whatever the process has done with its descriptor since.
UniqueFd OpenPage(int directory, const char* name) {
  const UniqueFd path(openat(directory, name, O_PATH | O_CLOEXEC));
  struct stat status;
  struct statfs file_system;
  if (!path.valid() || FileStatus(path.get(), &status) != 0 ||
      !S_ISREG(status.st_mode) || fstatfs(path.get(), &file_system) != 0 ||
      file_system.f_type != TMPFS_MAGIC) {
    return UniqueFd();
  }
  return UniqueFd(open(absl::StrCat("/proc/self/fd/", path.get()).c_str(),
                       O_RDONLY | O_CLOEXEC));
}

std::optional<Statistics> ReadPage(int fd) {
  std::array<char, sizeof(StatisticsLayout)> bytes;
  const ssize_t n = pread(fd, bytes.data(), bytes.size(), 0);
  if (n < 0) return std::nullopt;
  return ParseStatisticsPage({bytes.data(), static_cast<size_t>(n)});
}

bool HasEnded(const UniqueFd& pidfd) {
  pollfd entry = {pidfd.get(), POLLIN, 0};
  return poll(&entry, 1, 0) != 0;
}

std::optional<Statistics> StatisticsOf(const LiveConnection& connection) {
  if (!connection.pid.has_value()) return std::nullopt;
  const UniqueFd pidfd = OpenClientProcess(connection);
  if (!pidfd.valid()) return std::nullopt;
  const UniqueFd directory(
      open(absl::StrCat("/proc/", *connection.pid, "/fd").c_str(),
           O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // While the process lives, its id belongs to no other, and the directory is
  // the process's from then on.
  if (!directory.valid() || HasEnded(pidfd)) return std::nullopt;
  return ReadStatisticsAmong(directory.get());
}

// [{"le":16,"count":120},{"count":1}]: the last bucket has no bound.
template <typename H>
std::string BucketsJson(const H& histogram, uint64_t unit) {
  std::vector<std::string> buckets;
  histogram.ForEachBucket([&](std::optional<uint64_t> bound, uint64_t count) {
    buckets.push_back(absl::StrCat(
        "{", bound ? absl::StrCat("\"le\":", *bound / unit, ",") : "",
        "\"count\":", count, "}"));
  });
  return absl::StrCat("[", absl::StrJoin(buckets, ","), "]");
}

std::string CommandJson(const CommandStatistics& statistics) {
  std::string json = absl::StrCat(
      "{\"count\":", statistics.latency.count(),
      ",\"latency_usec\":", BucketsJson(statistics.latency, kNsecPerUsec),
      ",\"latency_usec_sum\":", statistics.latency.sum() / kNsecPerUsec);
  if (statistics.size.count() > 0) {
    absl::StrAppend(&json, ",\"size_bytes\":", BucketsJson(statistics.size, 1),
                    ",\"size_bytes_sum\":", statistics.size.sum());
  }
  return json + "}";
}

}  // namespace

std::optional<Statistics> ReadStatisticsAmong(int directory) {
  const std::string target =
      absl::StrCat("/memfd:", kStatisticsPageName, " (deleted)");
  // fdopendir() takes the descriptor.
  const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return std::nullopt;
  const std::unique_ptr<DIR, int (*)(DIR*)> names(fdopendir(copy), &closedir);
  if (names == nullptr) return std::nullopt;
  const dirent* entry;
  for (int i = 0; i < kMaxDescriptors && (entry = readdir(names.get())); ++i) {
    char link[128];
    const ssize_t n = readlinkat(directory, entry->d_name, link, sizeof(link));
    if (n < 0 || absl::string_view(link, static_cast<size_t>(n)) != target) {
      continue;
    }
    const UniqueFd page = OpenPage(directory, entry->d_name);
    if (page.valid()) return ReadPage(page.get());
  }
  return std::nullopt;
}

void ReadLiveStatistics(const Where& where,
                        absl::Span<LiveConnection> connections) {
  if (!where.local()) return;
  for (LiveConnection& connection : connections) {
    connection.statistics = StatisticsOf(connection);
  }
}

std::string HistogramsJson(const Statistics& statistics) {
  std::vector<std::string> members;
  for (const Command command : kAllCommands) {
    const CommandStatistics& of_command = statistics.of(command);
    if (of_command.latency.count() == 0) continue;
    members.push_back(
        absl::StrCat("\"", NameOf(command), "\":", CommandJson(of_command)));
  }
  if (members.empty()) return "";
  return absl::StrCat("{", absl::StrJoin(members, ","), "}");
}

}  // namespace nbdinetd::ctl
