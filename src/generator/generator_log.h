// The messages of nbdinetd-generator.
//
// Run by the service manager, it writes to the journal, or, when the machine
// boots and no journal listens yet, to the kernel's log, which the journal
// reads later. Neither waits: the manager waits for its generators, and the
// journal may wait for the manager. Run by a person, it writes to standard
// error.
#ifndef NBDINETD_GENERATOR_GENERATOR_LOG_H_
#define NBDINETD_GENERATOR_GENERATOR_LOG_H_

#include "absl/strings/string_view.h"

namespace nbdinetd {

enum class GeneratorCaller { kServiceManager, kPerson };

// Writes one line at priority error: control characters become '?', and a long
// text is shortened. `name` is the export's, for the journal's field
// NBD_EXPORT; empty for none.
void LogGeneratorError(GeneratorCaller caller, absl::string_view text,
                       absl::string_view name = "");

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_GENERATOR_LOG_H_
