#include "ctl/action_result.h"

#include "absl/status/status.h"
#include "ctl/columns.h"
#include "ctl/output.h"
#include "ctl/table.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {

absl::StatusOr<int> PrintResult(const CommandLine& line,
                                const std::string& export_name,
                                const std::string& result) {
  Table table(ActionColumns());
  table.AddRow({export_name, result});
  if (absl::Status status = PrintTable(line, table); !status.ok()) {
    return status;
  }
  return kSuccess;
}

}  // namespace nbdinetd::ctl
