// The output of nbdinetctl: tables and JSON on standard output, sentences on
// standard error.
#ifndef NBDINETD_CTL_OUTPUT_H_
#define NBDINETD_CTL_OUTPUT_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "ctl/command_line.h"
#include "ctl/table.h"

namespace nbdinetd::ctl {

// Prints the table as the command line wants it: on a terminal shortened to its
// width, and by a pager if it is longer than the terminal.
// An error if standard output doesn't take it; a pager that ends early is none.
absl::Status PrintTable(const CommandLine& line, const Table& table);

absl::Status PrintText(absl::string_view text);

// "nbdinetctl: TEXT" on standard error.
void Warn(absl::string_view text);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_OUTPUT_H_
