#include "ctl/columns.h"

namespace nbdinetd::ctl {
namespace {

constexpr Column kExport = {.header = "EXPORT",
                            .name = "export",
                            .kind = Kind::kText,
                            .flexible = false};
constexpr Column kName = {.header = "NAME",
                          .name = "export_name",
                          .kind = Kind::kText,
                          .flexible = true,
                          .optional = true};
constexpr Column kPeer = {
    .header = "PEER", .name = "peer", .kind = Kind::kText};
constexpr Column kIdentity = {.header = "IDENTITY",
                              .name = "identity",
                              .kind = Kind::kText,
                              .flexible = true};
constexpr Column kRead = {
    .header = "READ", .name = "bytes_read", .kind = Kind::kBytes};
constexpr Column kWritten = {
    .header = "WRITTEN", .name = "bytes_written", .kind = Kind::kBytes};
constexpr Column kRequests = {
    .header = "", .name = "requests", .kind = Kind::kCount};
constexpr Column kErrors = {
    .header = "ERRORS", .name = "errors", .kind = Kind::kCount};
constexpr Column kUnit = {
    .header = "UNIT", .name = "unit", .kind = Kind::kText, .flexible = true};
constexpr Column kPid = {.header = "", .name = "pid", .kind = Kind::kCount};

constexpr Column kListColumns[] = {
    kExport,
    {.header = "STATE", .name = "state", .kind = Kind::kText},
    {.header = "ADDRESS",
     .name = "addresses",
     .kind = Kind::kList,
     .flexible = true},
    {.header = "FILE", .name = "file", .kind = Kind::kText, .flexible = true},
    {.header = "SIZE", .name = "size", .kind = Kind::kBytes},
    {.header = "CLIENTS", .name = "clients", .kind = Kind::kCount},
    {.header = "READ", .name = "read_rate", .kind = Kind::kRate},
    {.header = "WRITTEN", .name = "write_rate", .kind = Kind::kRate},
    {.header = "", .name = "bytes_read", .kind = Kind::kBytes},
    {.header = "", .name = "bytes_written", .kind = Kind::kBytes},
    {.header = "", .name = "requests", .kind = Kind::kCount},
    {.header = "", .name = "errors", .kind = Kind::kCount},
    {.header = "", .name = "accepted", .kind = Kind::kCount},
    {.header = "", .name = "refused", .kind = Kind::kCount},
    {.header = "", .name = "unit", .kind = Kind::kText},
    {.header = "", .name = "service", .kind = Kind::kText},
    {.header = "", .name = "source", .kind = Kind::kText},
    {.header = " ", .name = "reason", .kind = Kind::kText, .optional = true},
};

constexpr Column kConnectionColumns[] = {
    kExport,
    kName,
    kPeer,
    kIdentity,
    {.header = "", .name = "state", .kind = Kind::kText},
    {.header = "SINCE", .name = "since", .kind = Kind::kAge},
    kRequests,
    kRead,
    kWritten,
    kErrors,
    kUnit,
    kPid,
    {.header = "", .name = "commands", .kind = Kind::kJson},
};

constexpr Column kHistoryColumns[] = {
    {.header = "WHEN", .name = "since", .kind = Kind::kTime},
    {.header = "", .name = "until", .kind = Kind::kTime},
    {.header = "EXPORT", .name = "export", .kind = Kind::kText},
    kName,
    kPeer,
    kIdentity,
    {.header = "FOR", .name = "duration_usec", .kind = Kind::kSpan},
    kRequests,
    kRead,
    kWritten,
    kErrors,
    {.header = "HOW IT ENDED",
     .name = "reason",
     .kind = Kind::kText,
     .flexible = true},
    {.header = "", .name = "exit_status", .kind = Kind::kCount},
    {.header = "", .name = "file", .kind = Kind::kText},
    {.header = "", .name = "mode", .kind = Kind::kText},
    {.header = "", .name = "unit", .kind = Kind::kText},
    kPid,
};

constexpr Column kDisconnectColumns[] = {
    kExport,
    kPeer,
    kIdentity,
    kRead,
    kWritten,
    kErrors,
    {.header = "RESULT", .name = "result", .kind = Kind::kText},
    {.header = "", .name = "unit", .kind = Kind::kText},
    kPid,
};

constexpr Column kActionColumns[] = {
    kExport,
    {.header = "RESULT", .name = "result", .kind = Kind::kText},
};

constexpr Column kCheckColumns[] = {
    kExport,
    {.header = "LEVEL", .name = "level", .kind = Kind::kText},
    {.header = "FINDING", .name = "message", .kind = Kind::kText},
};

constexpr Column kProbeColumns[] = {
    {.header = "URI", .name = "uri", .kind = Kind::kText},
    {.header = "SIZE", .name = "size", .kind = Kind::kBytes},
    {.header = "TIME", .name = "duration_usec", .kind = Kind::kSpan},
    {.header = "FLAGS", .name = "flags", .kind = Kind::kList, .flexible = true},
};

constexpr Column kCopyColumns[] = {
    {.header = "COPY", .name = "copy", .kind = Kind::kText, .flexible = true},
    {.header = "",
     .name = "export_name",
     .kind = Kind::kText,
     .flexible = true},
    kIdentity,
    {.header = "", .name = "key", .kind = Kind::kText},
    {.header = "SIZE", .name = "size", .kind = Kind::kBytes},
    {.header = "STORED", .name = "stored", .kind = Kind::kBytes},
    {.header = "CREATED", .name = "created", .kind = Kind::kTime},
    {.header = "USED", .name = "last_used", .kind = Kind::kAge},
    {.header = "STATE", .name = "state", .kind = Kind::kText},
    {.header = "PID", .name = "pid", .kind = Kind::kCount, .optional = true},
    {.header = "", .name = "directory", .kind = Kind::kText},
    {.header = "", .name = "file", .kind = Kind::kText},
    {.header = " ", .name = "reason", .kind = Kind::kText, .optional = true},
};

}  // namespace

absl::Span<const Column> ListColumns() { return kListColumns; }
absl::Span<const Column> ConnectionColumns() { return kConnectionColumns; }
absl::Span<const Column> HistoryColumns() { return kHistoryColumns; }
absl::Span<const Column> DisconnectColumns() { return kDisconnectColumns; }
absl::Span<const Column> ActionColumns() { return kActionColumns; }
absl::Span<const Column> CheckColumns() { return kCheckColumns; }
absl::Span<const Column> ProbeColumns() { return kProbeColumns; }
absl::Span<const Column> CopyColumns() { return kCopyColumns; }

}  // namespace nbdinetd::ctl
