// The meanings of options: OptionRow::set of each row of the table. A function
// takes the option as it was given, and stores its meaning; InvalidArgument for
// a wrong argument, with a sentence that says what is right.
#ifndef NBDINETD_CLI_OPTION_SETTERS_H_
#define NBDINETD_CLI_OPTION_SETTERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/transfer_limit_argument.h"
#include "base/transfer_limits.h"
#include "cli/option_table.h"
#include "cli/options.h"
#include "server/access.h"

namespace nbdinetd {

// The error for an argument.
absl::Status Complain(const GivenOption& given, absl::string_view complaint);

// A field of Options, or of one of its members: &Options::listen,
// &ListenAddress::port.
template <auto... kPath>
auto& Field(Options& options) {
  return (options.*....*kPath);
}

template <auto... kPath>
absl::Status Flag(const GivenOption&, Options& options) {
  Field<kPath...>(options) = true;
  return absl::OkStatus();
}

// An option of nbdkit's that changes nothing here.
absl::Status Ignore(const GivenOption& given, Options& options);

// Stores a text that must not be empty. An empty one is usually an unset
// variable, and must not mean the same as no option: all addresses, or no
// change of user.
absl::Status SetText(const GivenOption& given, std::string& text);

template <auto... kPath>
absl::Status Text(const GivenOption& given, Options& options) {
  return SetText(given, Field<kPath...>(options));
}

// A valid string (the specification, "Conventions").
absl::Status CheckNbdString(const GivenOption& given);

template <auto... kPath>
absl::Status NbdString(const GivenOption& given, Options& options) {
  Field<kPath...>(options) = std::string(given.argument);
  return CheckNbdString(given);
}

absl::Status SetTime(const GivenOption& given, absl::Duration& time);

template <auto... kPath>
absl::Status Time(const GivenOption& given, Options& options) {
  return SetTime(given, Field<kPath...>(options));
}

template <int kFamily>
absl::Status SetFamily(const GivenOption&, Options& options) {
  options.listen.family = kFamily;
  return absl::OkStatus();
}

// Stores NUMBER[:BURST] for both directions; the second one is for writes.
template <DirectionLimits TransferLimits::*kKind>
absl::Status AddRateLimit(const GivenOption& given, Options& options) {
  const std::string error =
      AddTransferLimit(given.argument, options.transfer_limits.*kKind);
  return error.empty() ? absl::OkStatus() : Complain(given, error);
}

template <AccessRules::Action kAction>
absl::Status AddRule(const GivenOption& given, Options& options) {
  return options.access.Add(kAction, given.argument, given.names);
}

// Each of them is the setter of one row.
absl::Status SetPort(const GivenOption& given, Options& options);
absl::Status SetMaxConnections(const GivenOption& given, Options& options);
absl::Status SetThreads(const GivenOption& given, Options& options);
absl::Status SetParent(const GivenOption& given, Options& options);
absl::Status SetLog(const GivenOption& given, Options& options);
absl::Status SetCheck(const GivenOption& given, Options& options);
absl::Status SetBlockSize(const GivenOption& given, Options& options);
absl::Status SetOffset(const GivenOption& given, Options& options);
absl::Status SetLength(const GivenOption& given, Options& options);
absl::Status SetPartition(const GivenOption& given, Options& options);
absl::Status SetSize(const GivenOption& given, Options& options);
absl::Status SetCache(const GivenOption& given, Options& options);
absl::Status SetCow(const GivenOption& given, Options& options);
absl::Status SetCowKey(const GivenOption& given, Options& options);
absl::Status SetCowStale(const GivenOption& given, Options& options);
absl::Status SetCowDir(const GivenOption& given, Options& options);
absl::Status SetCowSize(const GivenOption& given, Options& options);
absl::Status SetMultiConn(const GivenOption& given, Options& options);
absl::Status SetShared(const GivenOption& given, Options& options);
absl::Status SetExclusiveScope(const GivenOption& given, Options& options);
absl::Status SetNegotiated(const GivenOption& given, Options& options);
absl::Status SetExclusive(const GivenOption& given, Options& options);
absl::Status SetSandbox(const GivenOption& given, Options& options);
absl::Status SetTls(const GivenOption& given, Options& options);
absl::Status AddTlsPattern(const GivenOption& given, Options& options);
absl::Status AddAsked(const GivenOption& given, Options& options);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OPTION_SETTERS_H_
