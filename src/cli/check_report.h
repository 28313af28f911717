// What --check finds out, and its form for programs (--check=json), which
// nbdinetd(8) documents.
#ifndef NBDINETD_CLI_CHECK_REPORT_H_
#define NBDINETD_CLI_CHECK_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/exit_status.h"
#include "cli/check_storage.h"
#include "cli/image_user.h"
#include "protocol/request.h"

namespace nbdinetd {

struct CheckReport {
  struct Served {
    std::optional<std::string> name;  // nullopt: every name
    std::string file;
    uint64_t size_bytes = 0;
    bool read_only = false;
    std::string read_only_reason;  // empty with --readonly
    std::optional<ImageUser> user;
    // What another program may promise a client of it (--negotiated).
    std::optional<Promises> promises;
    StorageReport storage;
  };
  struct LeftOut {
    std::string name;
    std::string reason;
  };
  // What the client of --as would get of an export.
  struct Asked {
    std::string name;
    std::string mode;       // empty: the export doesn't exist for it
    std::string exclusive;  // a word of --exclusive, or empty
    std::string limits;     // as settings of a rules line, or empty
    std::string rule;       // FILE:LINE, or empty
    std::string reason;     // why it doesn't exist
  };

  std::vector<Served> exports;
  std::vector<LeftOut> left_out;
  std::string tls;             // the word of --tls
  std::string cow;             // the word of --cow; empty without it
  std::string exclusive;       // the word of --exclusive; empty without it
  std::string sandbox;         // on, incomplete or off
  std::string sandbox_reason;  // what is missing
  std::vector<std::string> access;
  std::string rules;         // the file of --rules
  std::string asked_who;     // the clients of --as
  std::string asked_reason;  // why that client gets nothing at all
  std::vector<Asked> asked;
  std::vector<std::string> hints;
  std::vector<std::string> unit_hints;  // on the shipped units alone
  std::string reason;                   // of a failure
  ExitStatus exit_status = ExitStatus::kOk;
};

// One object and a newline. A member that would be empty is absent.
std::string ToJson(const CheckReport& report);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_CHECK_REPORT_H_
