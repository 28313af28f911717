// --check: what is promised of an export, by what stores it, and by --shared,
// --multi-conn, --exclusive and --cache.
#ifndef NBDINETD_CLI_CHECK_STORAGE_H_
#define NBDINETD_CLI_CHECK_STORAGE_H_

#include <optional>
#include <string>
#include <vector>

#include "connection/connection_config.h"
#include "export/export.h"

namespace nbdinetd {

struct StorageReport {
  std::string name;         // such as "NFS"
  std::string other_hosts;  // whether they serve it: no, unknown or yes
  bool multi_conn = false;  // NBD_FLAG_CAN_MULTI_CONN
  std::string multi_conn_reason;
  // With --exclusive: whether its lock excludes processes of other hosts, and
  // why not.
  std::optional<bool> locks_reach_all;
  std::string locks_reason;
  std::string flush;  // what it means: stable, server or nothing
  bool holes = false;
  // Why the export is refused (--exclusive-scope); else empty.
  std::string refusal;

  bool operator==(const StorageReport&) const = default;
};

StorageReport StorageReportOf(const Export::Facts& facts,
                              const ConnectionConfig& config);

// For people, in whole lines. The exports of a directory have mostly the same:
// that is told once, with the name of the first one and their number if there
// are others.
struct StoredAs {
  std::string file;
  StorageReport storage;
};
std::string InWords(const std::vector<StoredAs>& exports);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_CHECK_STORAGE_H_
