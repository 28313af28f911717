// --check --as=WHO: what a client would get, and which line says so.
#ifndef NBDINETD_CLI_CHECK_ASKED_H_
#define NBDINETD_CLI_CHECK_ASKED_H_

#include <string>

#include "absl/status/status.h"
#include "cli/check_report.h"
#include "cli/invocation.h"
#include "export/catalog.h"

namespace nbdinetd {

// Reads the rules, if there are any, and fills what `report` says of them. Its
// exports are there already. With --as, the exit status is kRefused if the
// client would get no export. FailedPrecondition: the rules are wrong.
absl::Status CheckRules(const Invocation& invocation, Catalog& catalog,
                        CheckReport& report);

// A hint if an export can be asked for by a name that is in no list, as where
// the file system doesn't tell upper from lower case: lines about the listed
// name aren't about that one. Empty if not.
std::string AliasHint(Catalog& catalog, const CheckReport& report);

// The answer for people, in whole lines.
std::string AskedInWords(const CheckReport& report);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_CHECK_ASKED_H_
